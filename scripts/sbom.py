"""Turns what ``pip inspect`` says of an environment into a software bill of materials (CycloneDX 1.5, JSON).

    python3 scripts/sbom.py packages.json sbom.cdx.json

Needs nothing but Python: it runs where the image is built.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any


def component(metadata: dict[str, Any]) -> dict[str, Any]:
    """A package. Its purl has the name as PyPI normalises it (PEP 503)."""
    name, version = metadata["name"], metadata["version"]
    purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
    found = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if expression := metadata.get("license_expression"):
        return found | {"licenses": [{"expression": expression}]}
    # A field for a name that some fill with the whole text, and classifiers that end with the name.
    said = (metadata.get("license") or "").strip()
    names = [one.rpartition(" :: ")[2] for one in metadata.get("classifier", []) if one.startswith("License :: ")]
    names = [said] if said and "\n" not in said and len(said) < 80 else names
    return found | ({"licenses": [{"license": {"name": one}} for one in names]} if names else {})


def sbom(inspected: dict[str, Any]) -> dict[str, Any]:
    """The bill.

    Args:
        inspected: what ``pip inspect`` printed.
    """
    components = [component(one["metadata"]) for one in inspected["installed"]]
    components.sort(key=lambda one: str(one["purl"]))
    tool = {"type": "application", "name": "pip inspect", "version": inspected["pip_version"]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"tools": {"components": [tool]}},
        "components": components,
    }


def main() -> None:
    """Read one file and write the other."""
    source, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps(sbom(json.loads(source.read_text())), indent=1) + "\n")


if __name__ == "__main__":
    main()

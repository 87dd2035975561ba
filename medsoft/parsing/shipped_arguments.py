"""Drops arguments of a shipped configuration that the network chosen instead does not take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medsoft.parsing.configurations import read_configuration, shipped_configurations
from medsoft.parsing.words import Words

NETWORKS = ("backbone", "encoder", "aggregator")
"""Options of models that name a network; each has its arguments beside it, as ``backbone_args``."""


def with_arguments_of_others(words: Words) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """Shipped configurations without the arguments that the network chosen in their place does not take.

    Args:
        words: a command line, its configurations found.

    Returns:
        What is read of these files, by path, and what to tell the user.
    """
    shipped = {path.resolve(): name for name, path in shipped_configurations().items()}
    contents: dict[Path, dict[str, Any]] = {}
    notes: list[str] = []
    files = [Path(file).resolve() for file in words.all("config")]
    for index, path in enumerate(files):
        if path not in shipped:
            continue
        content = read_configuration(path)
        later = {name for file in files[index + 1 :] for name in read_configuration(file).get("model") or {}}
        for kind in NETWORKS:
            own = content.get("model", {})
            chosen = _chosen(words, kind)
            arguments = own.get(f"{kind}_args") or {}
            if chosen is None or not arguments or chosen == own.get(kind) or f"{kind}_args" in later:
                continue
            left_out = [name for name, value in arguments.items() if not _takes(kind, chosen, name, value)]
            kept = {name: value for name, value in arguments.items() if name not in left_out}
            content["model"] = {**own, f"{kind}_args": kept or None}
            of = f"model.{kind}_args of --config {shipped[path]}"
            if left_out:
                notes.append(f"{of}: {', '.join(left_out)} left out, which {chosen} does not take")
            if kept:
                notes.append(f"{of}: {_in_words(kept)} also for {chosen}; --model.{kind}_args={{}} for its own values")
            contents[path] = content
    return contents, notes


def _in_words(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in arguments.items())


def _chosen(words: Words, kind: str) -> str | None:
    """The network that the command line names, or a configuration of the user's own."""
    found = None
    for name, value in words.options:
        if name == "config" and isinstance(model := read_configuration(Path(str(value))).get("model"), dict):
            found = model.get(kind, found)
        elif name == f"model.{kind}":
            found = value
    return found if isinstance(found, str) else None


def _takes(kind: str, network: str, name: str, value: Any) -> bool:
    """Whether a network takes an argument of this name; where that cannot be known, it is for the network to say."""
    if kind == "aggregator":
        from medsoft.models.aggregators import arguments_of

        known = arguments_of(network)
        return known is None or name in known
    import timm
    import torch

    import medsoft.models  # noqa: F401 (registers our backbones with timm)

    if not timm.is_model(network):
        return True
    try:
        with torch.device("meta"):  # nothing is computed
            timm.create_model(network, num_classes=0, **{name: value})
    except TypeError as error:
        return repr(name) not in str(error)
    except Exception:  # what else keeps it from being built is said when it is built
        return True
    return True

"""Models of torchmil without torchmil: said, and nothing else needs it."""

import subprocess
import sys

import pytest

from medsoft.models.aggregators import arguments_of, build_aggregator


def test_a_model_of_torchmil_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmil", None)
    with pytest.raises(ValueError, match=r"torchmil is not installed: pip install 'medsoft\[mil\]'"):
        build_aggregator("torchmil:TransMIL", 8, 2)
    assert arguments_of("torchmil:TransMIL") is None
    with pytest.raises(ValueError, match="one of mean, max, abmil, transformer; or of torchmil, torchmil:ABMIL"):
        build_aggregator("median", 8, 2)


def test_no_other_aggregator_imports_it():
    code = (
        "import sys\n"
        "sys.modules['torchmil'] = None\n"
        "from medsoft.models.aggregators import AGGREGATORS, build_aggregator\n"
        "for name in AGGREGATORS: build_aggregator(name, 8, 2, dim=8)\n"
        "print([name for name in sys.modules if name.startswith(('tensordict', 'torchmil.'))])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"

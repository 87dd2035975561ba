"""timm's own tests of models, on backbones of each kind; ``scripts/timm_tests`` runs them on all."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
# The vision transformers differ in their attention alone: one whose attention is a sum over tokens, and one with
# landmarks; and the pyramid whose attention is normalised.
TINY = {"vit_seqnorm_tiny_patch16_224", "vit_soft_norm_tiny_patch16_224", "soft_norm_tiny"}
NAMES = "vit_seqnorm_tiny_patch16 or vit_soft_norm_tiny_patch16 or 1-soft_norm_tiny or 2-soft_norm_tiny"


def test_timms_own_tests_pass_on_our_tiny_backbones():
    if not (Path(sys.prefix) / "timm-source" / "tests" / "test_models.py").is_file():
        pytest.skip("timm's source distribution was not at hand when .venv was made (scripts/setup fetches it)")
    run = subprocess.run(
        [ROOT / "scripts" / "timm_tests", NAMES, "-rA"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    passed = re.findall(r"^PASSED .*?::(\w+)\[\d-(\w+)\]", run.stdout, flags=re.M)
    for test in ("test_model_forward", "test_model_backward", "test_model_forward_fx", "test_model_backward_fx"):
        assert {name for kind, name in passed if kind == test} == TINY, test
    pyramids = {"soft_norm_tiny"}
    assert {name for kind, name in passed if kind == "test_model_forward_features"} == pyramids
    assert {name for kind, name in passed if kind == "test_model_default_cfgs_non_std"} == TINY - pyramids

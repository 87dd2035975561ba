"""The Python interface for notebooks and scripts: ``medsoft.load``, ``medsoft.fit``, ``medsoft.evaluate`` and readers.

Everything here calls what the command line calls, so that a notebook and a job give the same numbers and leave the same
files. Wrong input raises ``medsoft.errors.InputError`` with the message that a command would print.
"""

from medsoft.api.evaluation import evaluate
from medsoft.api.explanations import Explanation
from medsoft.api.model import Model, load
from medsoft.api.probes import ProbeClassifier, ProbeRegressor
from medsoft.api.readers import open_bag, open_slide, read_volume
from medsoft.api.training import Run, fit

__all__ = [
    "Explanation",
    "Model",
    "ProbeClassifier",
    "ProbeRegressor",
    "Run",
    "evaluate",
    "fit",
    "load",
    "open_bag",
    "open_slide",
    "read_volume",
]

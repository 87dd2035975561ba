"""The table of verbs: a name, the function that does it, and a line of help.

Each function takes the rest of the command line and is imported when it is called: ``medsoft --help`` and
``medsoft --version`` import nothing heavy.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from medsoft import __version__
from medsoft.errors import InputError, RunError, Stopped
from medsoft.logs import log_options, logging

VERBS: dict[str, tuple[str, str]] = {
    "fit": ("medsoft.learn.verbs:fit", "train a model; predict and score its validation and test parts"),
    "validate": ("medsoft.learn.verbs:validate", "predict and score the validation part with a trained model"),
    "test": ("medsoft.learn.verbs:test", "predict and score the test part, or a whole table of its own"),
    "predict": ("medsoft.learn.verbs:predict", "predict every row of a table; labels are not needed"),
    "crossval": ("medsoft.learn.crossval:crossval", "train and report the folds of a table, nested and by patient"),
    "data check": ("medsoft.data.verbs:check", "report all problems of a sample table, and what it holds"),
    "data split": ("medsoft.data.verbs:split", "split a sample table by patient, stratified, into parts or folds"),
    "data index": ("medsoft.data.verbs:index", "make a sample table of a folder of DICOM; find identifying elements"),
    "data show": ("medsoft.learn.show:show", "draw what the model will see, before and after augmentation"),
    "data phantom": ("medsoft.data.verbs:phantom", "make procedural images to try things out without data"),
    "slides tile": (
        "medsoft.slides.verbs:tile",
        "find the tissue of slides and lay tiles over it, with pictures to check",
    ),
    "slides encode": (
        "medsoft.deploy.slides_encode:encode",
        "turn the tiles of slides into features, one file a slide",
    ),
    "slides predict": ("medsoft.deploy.slides_predict:predict", "from slides to probabilities and heatmaps in one go"),
    "slides heatmap": (
        "medsoft.deploy.slides_predict:heatmap",
        "draw what each tile adds to a class of a trained model",
    ),
    "slides export": ("medsoft.data.verbs_bags:export", "write feature files in the layout of another tool"),
    "evaluate": ("medsoft.evaluation.verbs:evaluate", "metrics with intervals, thresholds and calibration"),
    "compare": ("medsoft.evaluation.verbs:compare", "differences between models on the same samples, with intervals"),
    "export": ("medsoft.deploy.export:export", "make a bundle of a run: all that prediction needs, in one folder"),
    "weights add": (
        "medsoft.deploy.weights_verbs:add",
        "put a file into the folder of weights, with its hash and licence",
    ),
    "weights list": ("medsoft.deploy.weights_verbs:show", "what is in the folder of weights (MEDSOFT_WEIGHTS)"),
    "weights verify": ("medsoft.deploy.weights_verbs:verify", "hash the weights again and compare with the manifest"),
    "weights convert": ("medsoft.deploy.weights:convert", "turn a softmax vision transformer into one without softmax"),
    "benchmark attention": ("medsoft.benchmark.verbs:attention", "time and memory of attention mechanisms as N grows"),
    "benchmark backbones": ("medsoft.benchmark.verbs:backbones", "time and memory of backbones as images grow"),
    "benchmark tiles": ("medsoft.benchmark.verbs:tiles", "tiles a second of our reading against a bare OpenSlide loop"),
    "benchmark aggregators": (
        "medsoft.benchmark.verbs:aggregators",
        "time and memory of slide aggregators as bags grow",
    ),
    "doctor": ("medsoft.doctor:doctor", "print versions, devices and readers, and what is missing"),
}

SAME = {
    "train": "fit",
    "training": "fit",
    "eval": "evaluate",
    "infer": "predict",
    "inference": "predict",
    "cv": "crossval",
    "cross_validate": "crossval",
    "cross-validate": "crossval",
}
"""What other tools call a verb."""

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

LOGGED = ("fit", "crossval", "validate", "test", "predict", *(verb for verb in VERBS if verb.startswith("slides ")))
"""Verbs that work for long, and log what they do where that is asked for."""

USAGE = "usage: medsoft VERB [options]    (medsoft VERB --help lists the options of a verb)"


def help_text() -> str:
    """What ``medsoft --help`` prints."""
    return "\n".join(
        [
            "medsoft: train, evaluate and run compute-efficient transformers on medical images.",
            "",
            USAGE,
            "",
            *_lines(list(VERBS)),
            "",
            "First steps:  medsoft data phantom fundus --out phantoms",
            "              medsoft fit --config fundus --data.table phantoms/labels.csv --data.positive lesions",
            "Exit codes:   0 all done; 2 the call, configuration or data is wrong (said before work starts);",
            "              3 done, but some inputs failed (errors.csv lists them); 1 ended early; 130 stopped.",
            "              What was finished is kept.",
            "Logs:         fit, crossval, validate, test, predict and slides take --log-format json, --log-file FILE.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        argv: the command line without the program's name; None for the process's own.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if words[0] == "--version":
        print(f"medsoft {__version__}")
        return 0
    if words[1:] in (["-h"], ["--help"], ["help"]) and (group := _group(words[0])):
        print("\n".join([f"usage: medsoft {words[0]} VERB [options]", "", *_lines(group)]))
        return 0
    verb = next((name for name in (" ".join(words[:2]), words[0]) if name in VERBS), None)
    if verb is None:
        return _fail(_unknown(words))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # timm's hub: nothing is ever fetched
    try:
        options, format, file = words[len(verb.split()) :], "text", None
        if verb in LOGGED:
            options, format, file = log_options(options)
        with logging(verb, format, file) as end:
            code = _run(verb, options)
            end(code)
    except InputError as error:  # of the log itself
        return _fail(str(error))
    return code


def _run(verb: str, options: Sequence[str]) -> int:
    module, function = VERBS[verb][0].split(":")
    try:
        result = getattr(importlib.import_module(module), function)(options)
    except InputError as error:
        return _fail(str(error))
    except RunError as error:
        return _fail(str(error), code=1)
    except BrokenPipeError:  # the reader of our output has gone: `medsoft … | head`
        sys.stderr.close()
        return 141
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        return _fail(f"{error.filename or 'a file'}: {error.strerror}; what was saved before is kept", 1)
    except Stopped as stop:
        return _fail(str(stop), 128 + stop.signal)
    except KeyboardInterrupt:
        return _fail("stopped", code=130)
    return int(result or 0)


def _lines(verbs: list[str]) -> list[str]:
    width = max(map(len, verbs))
    return [f"  {verb:<{width}}  {VERBS[verb][1]}" for verb in verbs]


def _group(word: str) -> list[str]:
    return [verb for verb in VERBS if verb.startswith(f"{word} ")]


def _unknown(words: list[str]) -> str:
    import difflib

    if group := _group(words[0]):
        return f"medsoft {words[0]} does: {', '.join(name.split()[1] for name in group)}. {USAGE}"
    same = [SAME[words[0]]] if words[0] in SAME else []
    near = (
        same
        or difflib.get_close_matches(" ".join(words[:2]), VERBS, n=1)
        or difflib.get_close_matches(words[0], VERBS, n=1)
    )
    return f"no verb {words[0]!r}" + (f"; did you mean {near[0]!r}?" if near else f". {USAGE}")


def _fail(message: str, code: int = 2) -> int:
    print(f"medsoft: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

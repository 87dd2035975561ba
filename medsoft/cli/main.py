"""The entry point: the table of verbs, their help, logs and exit codes.

A verb is a function of its options, which ``medsoft.parsing.parser`` reads from its signature. Or it trains or applies
a model and takes the command line, as its options are those of the classes that a configuration names. Functions are
imported when they are called: ``medsoft --help`` and ``medsoft VERB --help`` import nothing heavy.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medsoft import __version__
from medsoft.errors import InputError, RunError
from medsoft.parsing.log_options import is_logged, log_options
from medsoft.parsing.words import Words
from medsoft.storage.files import apply_file_mode, release_folders
from medsoft.system.child_processes import protect_children
from medsoft.system.logging import log_events
from medsoft.system.progress import progress
from medsoft.system.signals import Stopped


@dataclass(frozen=True)
class Verb:
    """What a verb does.

    Attributes:
        function: ``module:name``.
        text: a line of help.
        words: option that words without a name set: a single one, or all of them if ``several``.
        several: whether they are all.
        repeated: options that may be given more than once.
        of_run: whether the function takes the command line itself.
    """

    function: str
    text: str
    words: str | None = None
    several: bool = False
    repeated: tuple[str, ...] = ()
    of_run: bool = False


def _of_run(function: str, text: str) -> Verb:
    return Verb(function, text, of_run=True)


VERBS: dict[str, Verb] = {
    "fit": _of_run("medsoft.workflows.fit:fit", "train a model; predict and score its validation and test parts"),
    "validate": _of_run(
        "medsoft.workflows.predict:validate", "predict and score the validation part with a trained model"
    ),
    "test": _of_run("medsoft.workflows.predict:test", "predict and score the test part, or a separate test table"),
    "predict": _of_run("medsoft.workflows.predict:predict", "predict every row of a table; labels are not needed"),
    "crossval": _of_run(
        "medsoft.workflows.crossval:crossval",
        "nested cross-validation by patient: train and report every fold",
    ),
    "plan": _of_run(
        "medsoft.workflows.plans.plan:plan",
        "say what is in a table, which models fit it and this machine, and what they would take",
    ),
    "auto": _of_run(
        "medsoft.workflows.plans.auto:auto",
        "compare models within a budget of time, take the best, and report once",
    ),
    "pretrain": Verb(
        "medsoft.workflows.pretrain:pretrain",
        "train a backbone without labels, from an encoder or from views of the same image",
        "table",
    ),
    "data check": Verb(
        "medsoft.cli.data.check:check", "summarise a sample table, and report all its problems", "table"
    ),
    "data split": Verb(
        "medsoft.cli.data.check:split", "split a sample table into parts or folds, by patient and stratified", "table"
    ),
    "data index": Verb(
        "medsoft.cli.data.index:index",
        "make a sample table from a folder of DICOM files; find identifying elements",
        "folder",
    ),
    "data masks": Verb(
        "medsoft.cli.data.masks:masks", "draw masks from outlines (GeoJSON, labelme, COCO) for a segmentation", "table"
    ),
    "data crop": Verb("medsoft.cli.data.crop:crop", "cut images to their masks, for a classification", "table"),
    "data show": _of_run("medsoft.cli.data.show:show", "draw what the model will see, before and after augmentation"),
    "data phantom fundus": Verb(
        "medsoft.data.phantoms.fundus_set:phantom_fundus",
        "draw phantom fundus images, to try things out without data",
    ),
    "data phantom slides": Verb("medsoft.data.phantoms.slides.write:phantom_slides", "draw phantom slides"),
    "data phantom volumes": Verb("medsoft.data.phantoms.volumes:phantom_volumes", "draw phantom volumes"),
    "encode": Verb(
        "medsoft.cli.encode:encode",
        "turn images or volumes into features, one file each",
        "table",
    ),
    "slides tile": Verb(
        "medsoft.cli.slides.tile:tile_slides",
        "find the tissue of slides and cover it with tiles; draws pictures to check",
        "slides",
        several=True,
    ),
    "slides segment": Verb(
        "medsoft.cli.slides.segment:segment_table",
        "map the classes of a segmentation model over slides, with outlines and areas",
        "slides",
        several=True,
        repeated=("checkpoint",),
    ),
    "slides encode": Verb(
        "medsoft.cli.slides.encode:encode_tiles",
        "turn the tiles of slides into features, one file per slide",
        "slides",
        several=True,
    ),
    "slides predict": Verb(
        "medsoft.cli.slides.predict:predict_table",
        "go from slides to predictions and heatmaps in one step",
        "slides",
        several=True,
        repeated=("checkpoint",),
    ),
    "slides heatmap": Verb(
        "medsoft.cli.slides.heatmap:draw_heatmaps",
        "draw what each tile contributes to a class of a trained model",
        "slides",
        several=True,
        repeated=("checkpoint",),
    ),
    "slides export": Verb(
        "medsoft.cli.slides.export:export_bags",
        "write feature files in the layout of another tool",
        "features",
        several=True,
    ),
    "evaluate": Verb(
        "medsoft.cli.evaluate:evaluate",
        "compute metrics with confidence intervals, thresholds and calibration",
        "predictions",
        several=True,
    ),
    "compare": Verb(
        "medsoft.cli.compare:compare",
        "compare models on the same samples, with confidence intervals",
        "predictions",
        several=True,
    ),
    "view": Verb(
        "medsoft.cli.view:view",
        "look at a run, slides, images or volumes in the browser; keep notes and verdicts",
        "paths",
        several=True,
    ),
    "export": Verb(
        "medsoft.inference.export.export:export_run",
        "make a bundle from a run: everything that prediction needs, in one folder",
        "run",
    ),
    "encoders": Verb(
        "medsoft.cli.encoders:list_encoders",
        "list pretrained encoders: for what, and whether their weights are here",
        "name",
    ),
    "weights add": Verb(
        "medsoft.cli.weights.store:add_weights",
        "add a file to the folder of weights, with its hash and licence",
        "file",
    ),
    "weights list": Verb("medsoft.cli.weights.store:list_weights", "list the folder of weights (MEDSOFT_WEIGHTS)"),
    "weights verify": Verb(
        "medsoft.cli.weights.store:verify_weights",
        "hash the weights again and compare them with the manifest",
        "names",
        several=True,
    ),
    "weights convert": Verb(
        "medsoft.cli.weights.convert:convert_weights", "convert a softmax vision transformer into one without softmax"
    ),
    "benchmark attention": Verb(
        "medsoft.benchmark.attention:attention", "measure time and memory of attention mechanisms as N grows"
    ),
    "benchmark backbones": Verb(
        "medsoft.benchmark.backbones:backbones", "measure time and memory of backbones as images grow"
    ),
    "benchmark tiles": Verb(
        "medsoft.benchmark.tiles:tiles", "measure tiles read per second, against a bare OpenSlide loop", "slide"
    ),
    "benchmark engines": Verb(
        "medsoft.benchmark.encoding.engines:engines", "measure what computes encoders fastest on this CPU"
    ),
    "benchmark aggregators": Verb(
        "medsoft.benchmark.aggregators:aggregators", "measure time and memory of slide aggregators as bags grow"
    ),
    "runs": Verb("medsoft.cli.runs:list_runs", "list runs: task, data, main metric, size and date", "folder"),
    "clean": Verb("medsoft.cli.runs:clean", "free what no finished run needs, after asking", "folder"),
    "completion": Verb("medsoft.cli.completion:completion", "print a completion script for bash, zsh or fish", "shell"),
    "doctor": Verb("medsoft.cli.doctor:doctor", "print versions, devices and readers, and what is missing"),
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

CANNOT_READ = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

USAGE = "usage: medsoft VERB [options]    (medsoft VERB --help shows the common options, --help all shows every option)"


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
            "Exit codes:   0 success; 2 the call, configuration or data is wrong (reported before work starts);",
            "              3 finished, but some inputs failed (errors.csv lists them); 1 ended early; 130 stopped.",
            "              Finished work is kept.",
            "Logs:         fit, crossval, auto, pretrain, validate, test, predict and slides take --log-format json,",
            "              --log-file FILE.",
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
    if (text := _text_of_no_verb(words)) is not None:
        try:
            print(text, flush=True)
        except BrokenPipeError:
            return _reader_gone()
        return 0
    verb = next((name for name in (" ".join(words[:n]) for n in (3, 2, 1)) if name in VERBS), None)
    if verb is None:
        return _fail(_unknown(words))
    options = words[len(verb.split()) :]
    try:
        if _print_help(verb, options):
            return 0
    except InputError as error:
        return _fail(str(error))
    except BrokenPipeError:
        return _reader_gone()
    protect_children()
    try:
        apply_file_mode()
    except InputError as error:
        return _fail(str(error))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # timm's hub: nothing is ever fetched
    try:
        format, file = log_options(Words.read(options)) if is_logged(verb) else ("text", None)
        with log_events(verb, format, file) as end:
            code = _run(verb, options)
            end(code)
    except InputError as error:  # of the log itself
        return _fail(str(error))
    return code


def _text_of_no_verb(words: Sequence[str]) -> str | None:
    """The help of all verbs or of a group of them, or the version; None where a verb is called."""
    if not words or words[0] in ("-h", "--help", "help"):
        return help_text()
    if words[0] == "--version":
        return f"medsoft {__version__}"
    if words[-1] in ("-h", "--help", "help") and (group := _group(" ".join(words[:-1]))):
        return "\n".join([f"usage: medsoft {' '.join(words[:-1])} VERB [options]", "", *_lines(group)])
    return None


def _print_help(verb: str, options: list[str]) -> bool:
    """Print the help of a verb where it is asked for; not that of classes other than medsoft's own."""
    from medsoft.parsing.help import find_page, text_of

    asked = Words.read(options).help
    page = None if asked is None else find_page(verb, options)
    if page is None:
        return False
    print(text_of(page, verb, everything=asked == "all"), flush=True)
    return True


def function_of(verb: str) -> Callable[[Sequence[str]], int | None]:
    """What a verb does with the words after it; its module is imported.

    Args:
        verb: a key of ``VERBS``.
    """
    found = VERBS[verb]
    module, name = found.function.split(":")
    function: Callable[..., int | None] = getattr(importlib.import_module(module), name)
    if found.of_run:
        return function

    def run(options: Sequence[str]) -> int | None:
        from medsoft.parsing.parser import call

        done: int | None = call(function, options, verb, found.words, found.several, found.repeated)
        return done

    return run


def _run(verb: str, options: Sequence[str]) -> int:
    from medsoft.parsing.unknown import refuse_unknown

    try:
        if VERBS[verb].of_run:
            refuse_unknown(verb, options)
        with progress("starting"):  # of PyTorch and others, which takes seconds
            run = function_of(verb)
        result = run(options)
    except InputError as error:
        return _fail(str(error))
    except RunError as error:
        return _fail(str(error), code=1)
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        if _is_unreadable(error):
            return _fail(f"{error.filename}: cannot be read: {error.strerror}")
        if error.errno not in CANNOT_WRITE:
            raise
        return _fail(f"{error.filename or 'a file'}: {error.strerror}; everything saved before is kept", 1)
    except Stopped as stop:
        return _fail(str(stop), 128 + stop.signal)
    except KeyboardInterrupt:
        return _fail("stopped", code=130)
    finally:
        release_folders()
    return int(result or 0)


def _reader_gone() -> int:
    """The reader of our output has gone: ``medsoft … | head``."""
    sys.stderr.close()
    return 141


def _is_unreadable(error: OSError) -> bool:
    """Whether an error of the system is about an input, which is wrong, and not about work that cannot go on."""
    name = error.filename
    if not isinstance(name, str | os.PathLike):
        return False
    if error.errno in (errno.EACCES, errno.EPERM):
        return os.path.exists(name) and not os.access(name, os.R_OK)  # noqa: PTH110 (any kind of name)
    return error.errno in CANNOT_READ


def _lines(verbs: list[str]) -> list[str]:
    width = max(map(len, verbs))
    return [f"  {verb:<{width}}  {VERBS[verb].text}" for verb in verbs]


def _group(word: str) -> list[str]:
    return [verb for verb in VERBS if verb.startswith(f"{word} ")]


def _unknown(words: list[str]) -> str:
    import difflib

    for group in (" ".join(words[:2]), words[0]):
        if verbs := _group(group):
            rest = dict.fromkeys(verb.removeprefix(f"{group} ").split()[0] for verb in verbs)
            return f"the verbs of medsoft {group} are {', '.join(rest)}. {USAGE}"
    same = [SAME[words[0]]] if words[0] in SAME else []
    near = (
        same
        or difflib.get_close_matches(" ".join(words[:2]), VERBS, n=1)
        or difflib.get_close_matches(words[0], VERBS, n=1)
    )
    return f"no verb {words[0]!r}" + (f"; did you mean {near[0]!r}?" if near else f". {USAGE}")


def _fail(message: str, code: int = 2) -> int:
    from medsoft.text.spelling import printable  # names of files may hold what a terminal would obey

    print(f"medsoft: error: {printable(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The verbs ``validate``, ``test`` and ``predict``, from the command line to the report."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.locked import decide_each, write_decisions
from medsoft.inference.attribution.target import target_column
from medsoft.parsing.lightning_cli import CommandLine, read_words, split_of_this_table
from medsoft.parsing.words import Words
from medsoft.runs.bundle import Bundle
from medsoft.runs.checkpoint_paths import Checkpoint
from medsoft.runs.checkpoints import find_checkpoints, load_weights, locking_run, named_checkpoints
from medsoft.runs.run_folder import RunFolder
from medsoft.runs.table_rows import check_rows
from medsoft.training.distributed import Processes
from medsoft.training.ood_features import find_detector
from medsoft.training.predict import load_splits, show_path, use_views, write_errors_if_any
from medsoft.training.silence_warnings import silence_warnings
from medsoft.training.trainer import build_trainer
from medsoft.workflows.encode_first import encode_first
from medsoft.workflows.ensemble import apply_ensemble
from medsoft.workflows.finish import check_options, predict_and_end


def validate(argv: Sequence[str]) -> int:
    """Predict and score the validation part with a checkpoint."""
    return _apply("validate", argv)


def test(argv: Sequence[str]) -> int:
    """Predict and score the test part with a checkpoint, or the whole of a table that has no split."""
    return _apply("test", argv)


def predict(argv: Sequence[str]) -> int:
    """Predict every row of a table with a checkpoint; rows with labels are scored too."""
    return _apply("predict", argv)


def _apply(verb: str, argv: Sequence[str]) -> int:
    silence_warnings()
    words = read_words(verb, argv)
    named, words = named_checkpoints(words), words.without("checkpoint")
    bundle = _find_bundle(words, named)
    _require_model(verb, words, named, bundle)
    locked = bundle.locked() if bundle is not None else {}  # a damaged one is told before the work
    members = find_checkpoints(named) if bundle is None else [Checkpoint(bundle.path, bundle.config)]
    words = encode_first(verb, words, members, bundle)
    if len(members) > 1:
        return apply_ensemble(verb, argv, words, members, locking_run(named))
    checkpoint = members[0]

    line, trained = open_model(verb, words, checkpoint, of_bundle=bundle is not None)
    config, data, model = line.config, line.datamodule, line.model
    check_options(data.task, config, words)
    config.checkpoint = None if bundle is not None else named[0]
    use_views(model, data, config.tta)
    _check_maps(line)

    processes = Processes.of(config.trainer)
    run = processes.choose_run(config.out, f"{config.name}-{verb}")
    trainer = build_trainer(config, [])
    data.keeps_facts = config.shortcuts
    notes = check_rows(data, verb, load_splits(data, verb), config, [checkpoint])
    data.divide(processes.rank, processes.number)
    processes.hush()
    if processes.is_first:
        run.begin(verb, argv, line.resolved())
    print("\n".join([*line.notes, *model.differences, *notes, *data.notes, f"Run: {show_path(run.path)}"]))
    code = write_errors_if_any(run, data.errors) if processes.is_first else 0

    frame = predict_and_end(trainer, model, data, run, config, processes, model_of=trained, verb=verb)
    if not processes.is_first:
        return 0
    _write_maps(line, run, frame)
    if locked:
        write_decisions(decide_each(frame, data.task, locked), run.path / "decisions.csv")
    return code


def open_model(
    verb: str, words: Words, checkpoint: Checkpoint, of_bundle: bool = False
) -> tuple[CommandLine, RunFolder | None]:
    """A trained model with its weights and its detector, and the data that a command line names.

    Args:
        verb: validate, test or predict.
        words: the command line after the verb, without the model.
        checkpoint: the model.
        of_bundle: whether it is a bundle's.

    Returns:
        Configuration, data module and model; and the run that trained it, where it lies in one.

    Raises:
        InputError: the words, the table or the weights are wrong.
    """
    line = _parse(verb, words, checkpoint, of_bundle)
    trained = RunFolder(checkpoint.config.parent) if checkpoint.config else None
    load_weights(line.model, checkpoint.file)
    line.model.detector = find_detector(trained, line.model) if trained is not None else None
    return line, trained


def _find_bundle(words: Words, checkpoints: Sequence[str]) -> Bundle | None:
    """The bundle that a command line names, found to be whole."""
    given = words.last("bundle")
    if given is None:
        return None
    for other, named in (("--checkpoint", checkpoints), ("--config", words.last("config"))):
        if named:
            raise InputError(f"--bundle brings weights and configuration: leave out {other}")
    return Bundle(given)


def _require_model(verb: str, words: Words, checkpoints: Sequence[str], bundle: Bundle | None) -> None:
    """Raise InputError where no model is named."""
    if checkpoints or bundle is not None:
        return
    CommandLine(verb, words)  # --help, or what else is wrong
    raise InputError(
        "--checkpoint is missing: the folder of a run, or a checkpoint file; several, or the folder of a "
        "cross-validation, for an ensemble; or --bundle"
    )


def _parse(verb: str, words: Words, checkpoint: Checkpoint, of_bundle: bool) -> CommandLine:
    """Configuration, data module and model: as the checkpoint's run has them, unless --config is given."""
    saved = checkpoint.config if words.last("config") is None else None
    if saved is not None:
        words = words.begun_with("config", str(saved))
    return CommandLine(verb, split_of_this_table(words), saved, of_bundle=of_bundle)


def _check_maps(line: CommandLine) -> None:
    """Raise InputError where attribution maps are asked for that this model or its data cannot have."""
    if line.config.maps:
        from medsoft.inference.attribution.volume_maps import check_maps  # MONAI takes seconds

        check_maps(line.config.maps, line.datamodule, line.model)


def _write_maps(line: CommandLine, run: RunFolder, frame: pd.DataFrame) -> None:
    """Write the attribution maps that were asked for."""
    if line.config.maps:
        from medsoft.inference.attribution.volume_maps import write_maps

        column = target_column(run.config)
        write_maps(run.maps, frame, line.datamodule, line.model, line.config.maps, column)

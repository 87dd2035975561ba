"""The verbs ``slides predict`` and ``slides heatmap``: from slides to probabilities, and what each tile adds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsoft.deploy.cluster import Cluster
from medsoft.deploy.workers import ClusterSettings, Workers
from medsoft.errors import InputError, check_range
from medsoft.learn.checkpoint_file import check_bundle, checkpoint_file, is_crossval
from medsoft.parsing import call
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.progress import SlidesProgress, slides_progress
from medsoft.slides.sources import find_slides

if TYPE_CHECKING:
    from medsoft.learn.bundle import Bundle

Precision = Literal["auto", "32", "16", "bf16"]
Labels = str | int | list[str | int]
NO_MAPS = (
    "heatmaps are of one model: what an ensemble answers is the mean of its members' probabilities, which has no logit "
    "that would be a sum over tiles. Name a single --checkpoint"
)


def predict(argv: Sequence[str]) -> int:
    """From slides to probabilities and heatmaps."""
    code: int = call(predict_slides, argv, "slides predict", positional="slides", several=True, repeated=["checkpoint"])
    return code


def heatmap(argv: Sequence[str]) -> int:
    """Heatmaps alone, of slides that are encoded."""
    code: int = call(draw_heatmaps, argv, "slides heatmap", positional="slides", several=True, repeated=["checkpoint"])
    return code


def predict_slides(
    slides: list[str],
    out: str,
    checkpoint: str | list[str] | None = None,
    bundle: str | None = None,
    encoder: str | None = None,
    weights: str | None = None,
    heatmap: bool | None = None,
    classes: str | list[str] | None = None,
    mpp: float | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    slide_mpp: float | None = None,
    root: str | None = None,
    path: str = "path",
    id: str | None = None,
    slide_mpp_column: str = "mpp",
    patient: str = "patient",
    exam: str = "exam",
    split: str = "split",
    label: str | None = None,
    positive: Labels | None = None,
    on_error: Literal["error", "skip"] = "error",
    batch: int = 64,
    workers: int | None = None,
    max_unreadable: float = 0.01,
    device: str = "auto",
    precision: Precision = "auto",
    scheduler: str = "local",
    jobs: int | None = None,
    cluster: ClusterSettings = ClusterSettings(),  # noqa: B008 (frozen)
) -> int:
    """Predict slides with a trained slide classifier: tissue, tiles, features, probabilities and heatmaps.

    Tiles and encoder are those of the training, as the checkpoint records them. What is there already is used again.

    Args:
        slides: Files, folders or globs; one table (.csv, .parquet) with one row a slide; or feature files.
        out: The folder for predictions.csv, slides.csv, tiles/, features/, heatmaps/ and errors.csv.
        checkpoint: The run of medsoft fit --config histo, or a checkpoint file; for an ensemble again for each member,
            or the folder of a cross-validation.
        bundle: Folder of a bundle (medsoft export), in place of checkpoint.
        encoder: Name of the encoder, to check against the checkpoint's; the run's folder if medsoft trained it.
        weights: Local file with the encoder's weights, or its name in MEDSOFT_WEIGHTS; its SHA-256 must be that of the
            training.
        heatmap: Draw heatmaps; if not given, of a single model. An ensemble has none.
        classes: Draw heatmaps of this class, or these, into heatmaps/CLASS; else of the positive or predicted one.
        mpp: Resolution of the tiles in µm per pixel, to check against the checkpoint's.
        tile: Side of the tiles in pixels, to check against the checkpoint's.
        overlap: Overlap of the tiles in pixels, to check against the checkpoint's.
        slide_mpp: Resolution of the slides' finest level in µm per pixel, in place of what the files say.
        root: Folder that relative paths of a table start from; the table's own folder if not given.
        path: Column of the table with the files.
        id: Column of the table with unique names; made from the files' names if not given.
        slide_mpp_column: Column of the table with the resolution of each slide's finest level, if it is there.
        patient: Column of the table with the patient, carried into the predictions, if it is there.
        exam: Column of the table that groups slides, carried into the predictions, if it is there.
        split: Column of the table with the split, carried into the predictions, if it is there.
        label: Column of the table with the true class, to score the predictions; slides without one are only predicted.
        positive: Values of the label that make the positive class, where they are no names of classes.
        on_error: skip goes on without slides of the table whose files are missing, and lists them in errors.csv.
        batch: Tiles that are encoded together.
        workers: Threads that read tiles; by default as many as there are processors, 8 at most.
        max_unreadable: A slide with a larger fraction of unreadable tiles fails.
        device: Where to compute, auto, cpu, cuda or cuda:1.
        precision: Of the encoder; auto is 16 on a GPU, else 32.
        scheduler: Who works; local is this machine, slurm submits jobs, tcp://HOST:PORT is a Dask scheduler that runs.
        jobs: Processes that share the slides, or of slurm jobs at once; by default this process does all.
        cluster: What jobs of slurm ask for.

    Returns:
        0, or 3 if slides failed.

    Raises:
        InputError: the call is wrong, or does not fit the checkpoint.
    """
    from medsoft.deploy.weights_said import weights_file

    processes = Workers(scheduler, jobs, cluster)
    check_range("workers", 1 if workers is None else workers, 1)
    check_range("batch", batch, 1)
    check_range("max_unreadable", max_unreadable, 0, 1)
    folder = SlidesFolder(out)
    check_source(checkpoint, bundle)
    if classes is not None and heatmap is False:
        raise InputError("--classes says whose heatmaps are drawn, but --heatmap false draws none")
    file = weights_file(weights) if weights else None
    sources = find_slides(
        slides, slide_mpp=slide_mpp, root=root, path=path, id=id, slide_mpp_column=slide_mpp_column, on_error=on_error
    )  # fmt: skip

    # torch and timm wait until what needs neither is found to be right.
    from medsoft.deploy.cohort import answer_with
    from medsoft.deploy.slide_answers import Maps
    from medsoft.deploy.slide_features import holds_features, make_features
    from medsoft.deploy.slide_model import SlideModel
    from medsoft.deploy.slide_table_answers import read_known, write_answers
    from medsoft.deploy.slide_tasks import AnswerOrder
    from medsoft.deploy.trained_encoder import Encoding, check_tiles
    from medsoft.evaluation.decide import decide, write_decisions
    from medsoft.learn.bundle import Bundle

    models = model_sources(checkpoint, bundle)
    if len(models) > 1 and (heatmap or classes is not None):
        raise InputError(NO_MAPS)
    if len(models) > 1:
        print(f"{len(models)} models")
    model = SlideModel(models, device if processes.scheduler == "local" else "cpu")
    check_tiles(model.slides, mpp=mpp, tile=tile, overlap=overlap)
    maps = None if heatmap is False or len(models) > 1 else Maps.of(model.task, classes)
    known = read_known(sources, model.task, {"patient": patient, "exam": exam, "split": split}, label, positive)
    # Other processes may run in other folders.
    encoder = str(Path(encoder).absolute()) if encoder and Path(encoder).exists() else encoder
    whole = models[0] if isinstance(models[0], Bundle) else None
    if whole is not None and whole.encoder is not None and encoder is None and file is None:
        encoder, file = (str(whole.encoder), None) if whole.encoder.is_dir() else (None, whole.encoder)
    encoding = Encoding(encoder, file, batch, workers, max_unreadable, device, precision)
    order = AnswerOrder(
        out=folder.path.absolute(),
        device=device,
        on_one_machine=processes.on_one_machine,
        build=partial(SlideModel, models),
        maps=maps,
    )
    folder.tidy()
    with Cluster(processes, folder) as group:
        outcomes = make_features(sources, folder, model, encoding, group)
        told = [one.id for one in sources if outcomes[one.id].status == "failed" and not holds_features(one)]
        with slides_progress(len(sources), "predicting", told) as progress:
            answers = answer_with(group, sources, outcomes, folder, order, model, progress)
    frame = write_answers(folder, model.task, sources, known, answers)
    decisions = folder.path / "decisions.csv"
    decisions.unlink(missing_ok=True)
    if whole is not None and frame is not None and (locked := whole.locked()) is not None:
        write_decisions(decide(frame, model.task, locked), decisions)
    return _exit_code(progress, folder)


def draw_heatmaps(
    slides: list[str],
    out: str,
    checkpoint: str | list[str] | None = None,
    bundle: str | None = None,
    classes: str | list[str] | None = None,
    slide_mpp: float | None = None,
    root: str | None = None,
    path: str = "path",
    id: str | None = None,
    slide_mpp_column: str = "mpp",
    on_error: Literal["error", "skip"] = "error",
    device: str = "auto",
) -> int:
    """Draw heatmaps of slides whose features are in the folder already.

    Args:
        slides: Files, folders or globs; one table (.csv, .parquet) with one row a slide; or feature files.
        out: The folder in which slides encode or slides predict left features/; heatmaps/ goes there.
        checkpoint: The run of medsoft fit --config histo, or a checkpoint file.
        bundle: Folder of a bundle (medsoft export), in place of checkpoint.
        classes: The class, or several, whose maps go into heatmaps/CLASS; else the positive or the predicted one.
        slide_mpp: Resolution of the slides' finest level in µm per pixel, in place of what the files say.
        root: Folder that relative paths of a table start from; the table's own folder if not given.
        path: Column of the table with the files.
        id: Column of the table with unique names; made from the files' names if not given.
        slide_mpp_column: Column of the table with the resolution of each slide's finest level, if it is there.
        on_error: skip goes on without slides of the table whose files are missing, and lists them in errors.csv.
        device: Where to compute, auto, cpu, cuda or cuda:1.

    Returns:
        0, or 3 if slides failed.

    Raises:
        InputError: the call is wrong.
    """
    folder = SlidesFolder(out)
    check_source(checkpoint, bundle)
    sources = find_slides(
        slides, slide_mpp=slide_mpp, root=root, path=path, id=id, slide_mpp_column=slide_mpp_column, on_error=on_error
    )  # fmt: skip

    # torch waits until the slides are found.
    from medsoft.deploy.slide_answers import Maps, answer_slides
    from medsoft.deploy.slide_features import find_features
    from medsoft.deploy.slide_model import SlideModel

    models = model_sources(checkpoint, bundle)
    if len(models) > 1:
        raise InputError(NO_MAPS)
    model = SlideModel(models, device)
    maps = Maps.of(model.task, classes)
    folder.tidy()
    outcomes = find_features(sources, folder, model)
    with slides_progress(len(sources), "drawing") as progress:
        answer_slides(sources, outcomes, model, folder, maps, progress)
    print(f"Heatmaps: {folder.path / 'heatmaps'}")
    return _exit_code(progress, folder)


def check_source(checkpoint: str | list[str] | None, bundle: str | None) -> None:
    """Check that a model is named, or the members of an ensemble, and that they are there.

    Raises:
        InputError: neither or both are given, or there is no such file or folder.
    """
    if (checkpoint is None) == (bundle is None):
        raise InputError("name the model with --checkpoint (a run of medsoft fit), or with --bundle; one of the two")
    if bundle is not None:
        check_bundle(Path(bundle))
    for name in _named(checkpoint):
        if not is_crossval(name):
            checkpoint_file(Path(name))


def model_sources(checkpoint: str | list[str] | None, bundle: str | None) -> list[Path | Bundle]:
    """Where the model comes from, or the members of an ensemble, of which ``check_source`` has found all.

    Raises:
        InputError: a checkpoint of a fold is missing, one is named twice; or the bundle is not whole.
    """
    from medsoft.learn.bundle import Bundle
    from medsoft.learn.checkpoints import with_folds

    if bundle is not None:
        return [Bundle(Path(bundle).absolute())]
    files = [checkpoint_file(Path(name).absolute()) for name in with_folds(_named(checkpoint))]
    for file in files:
        if sum(file.samefile(other) for other in files) > 1:
            raise InputError(f"--checkpoint: {file} is named twice")
    return [*files]


def _named(checkpoint: str | list[str] | None) -> list[str]:
    if checkpoint == []:
        raise InputError("--checkpoint names nothing")
    return [checkpoint] if isinstance(checkpoint, str) else list(checkpoint or [])


def _exit_code(progress: SlidesProgress, folder: SlidesFolder) -> int:
    if progress.failed:
        print(f"{progress.failed} failed: {folder.errors_csv}")
    return 3 if progress.failed else 0

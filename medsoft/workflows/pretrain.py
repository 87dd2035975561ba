"""The verb ``pretrain``, from the command line to weights that other verbs take by name."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from medsoft import __version__
from medsoft.encoders.pretrained import write_recipe
from medsoft.errors import InputError
from medsoft.parsing.lightning_cli import accelerator, devices
from medsoft.pretraining.base import Pretraining, Rates
from medsoft.pretraining.closeness import number_of_neighbours
from medsoft.pretraining.distil import Distillation
from medsoft.pretraining.images import UnlabelledImages, make_transforms
from medsoft.pretraining.networks import create_student, measured
from medsoft.pretraining.options import ImageOptions, LearningOptions, NetworkOptions
from medsoft.pretraining.result import (
    Destination,
    PretrainFolder,
    ResultOptions,
    described,
    recipe_of_result,
    write_backbone,
    write_seen,
    write_summary,
)
from medsoft.pretraining.self_distil import SelfDistillation, require_lightly
from medsoft.pretraining.teacher import Teacher, load_teacher
from medsoft.pretraining.views import LOCAL_SIDE, AugmentedImages, CroppedImages
from medsoft.runs.checkpoint_io import AtomicCheckpointIO
from medsoft.storage.files import hold_folder
from medsoft.system.progress import tracked
from medsoft.system.signals import Stopped
from medsoft.training.callbacks import (
    BestCheckpoint,
    LossSoFar,
    MetricsTable,
    MovableCheckpoint,
    SeedEachStep,
    StopGracefully,
)
from medsoft.training.disk_space import check_space
from medsoft.training.memory import enough_memory_or
from medsoft.training.predict import show_path, write_errors_if_any
from medsoft.training.silence_warnings import silence_warnings
from medsoft.training.slurm import requeue, stopped_by_sigusr1
from medsoft.training.trainer import build_trainer
from medsoft.training.until_stopped import train_until_stopped

SCALE_IMAGES = 256
"""Of the training part, from which the scale of a teacher's features is taken."""


def pretrain(
    images: ImageOptions,
    network: NetworkOptions,
    learning: LearningOptions,
    result: ResultOptions,
    resume: str | None = None,
) -> int:
    """Train a backbone without labels, by distilling an encoder or from views of the same image.

    Args:
        images: what it learns from.
        network: what learns, and from whom.
        learning: how.
        result: where it goes.
        resume: Folder of a stopped pretraining to continue, with the options it was started with.

    Returns:
        0; 3 where images were left out (errors.csv); 130 or 143 after Ctrl-C or SIGTERM, with a state to resume from.

    Raises:
        InputError: the call, the table or the weights are wrong.
        RunError: the training has diverged, collapsed, or has too little memory.
    """
    silence_warnings()
    with stopped_by_sigusr1():
        try:
            options = _Options(images, network, learning, result)
            if resume:
                run = PretrainFolder.stopped(resume)
                return _pretrain(_Options.saved(run, options), run)
            return _pretrain(replace(options, images=images.resolved), None)
        except Stopped as stop:  # outside of the training, which saves its state
            print(f"Stopped. {requeue(stop.signal)}".rstrip(), file=sys.stderr)
            return 128 + stop.signal


@dataclass(frozen=True)
class _Options:
    """All that was asked for."""

    images: ImageOptions = field(default_factory=ImageOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    learning: LearningOptions = field(default_factory=LearningOptions)
    result: ResultOptions = field(default_factory=ResultOptions)

    @property
    def flat(self) -> dict[str, Any]:
        """By option; files and folders are absolute."""
        values = {name: value for part in vars(self).values() for name, value in asdict(part).items()}
        places = ("table", "root", "splits_from", "teacher_weights", "folder", "teacher")
        for name in places:
            if values[name] and Path(values[name]).exists():
                values[name] = str(Path(values[name]).resolve())
        return values | {"out": None}  # it was for this run

    @classmethod
    def saved(cls, run: PretrainFolder, given: _Options) -> _Options:
        """Those that a stopped run was started with.

        Raises:
            InputError: others are given besides, or they cannot be read.
        """
        if others := [name for name, value in given.flat.items() if value != cls().flat[name]]:
            raise InputError(
                f"--{others[0].replace('_', '-')}: --resume goes on with the options that the run was started with; "
                "leave out the others"
            )
        values = yaml.safe_load(run.config.read_text(encoding="utf-8"))
        try:
            parts = {
                one.name: type(getattr(cls(), one.name))(
                    **{option.name: values[option.name] for option in fields(type(getattr(cls(), one.name)))}
                )
                for one in fields(cls)
            }
        except (KeyError, TypeError):
            raise InputError(f"{run.config}: is not what medsoft pretrain wrote, or that of another version") from None
        return cls(**parts)


def _pretrain(options: _Options, stopped: PretrainFolder | None) -> int:
    if options.images.table is None:
        raise InputError("missing: TABLE, a table of images or a folder with them (or --resume DIR)")
    run = stopped or PretrainFolder.choose(options.result.out, "pretrain")
    destination = Destination.of(options.result)
    model, data, teacher = _build(options)
    trainer = _build_trainer(options, model, run)
    data.load()
    check_space(run.path, model, stopped is not None)
    rows = data.seen()
    if stopped is None:
        run.begin("pretrain", _command(options), options.flat, rows.rename(columns={"part": "split"}))
    else:
        hold_folder(run.path)
        run.require_same_images(rows)
        run.go_on("pretrain", ["--resume", str(run.path)], options.flat)
    notes = [*data.notes, *([teacher.note] if teacher and teacher.note else [])]
    n_train, n_val = (int((rows["part"] == part).sum()) for part in ("train", "val"))
    print("\n".join([*notes, f"{n_train} images to learn from, {n_val} held out", f"Run: {show_path(run.path)}"]))
    code = write_errors_if_any(run, data.errors)
    if isinstance(model, Distillation) and not run.last.is_file():
        model.teacher.to(trainer.strategy.root_device)
        model.learn_scale(_plain_batches(data, options.learning))
    started = time.monotonic()
    stop = _train(trainer, model, data, run)
    if stop is not None:
        return _say_stopped(run, stop)
    _take_best(model, run)
    trainer.validate(model, data, verbose=False)
    _finish(options, run, destination, model, teacher, data, round(time.monotonic() - started))
    return code


def _build(options: _Options) -> tuple[Pretraining, UnlabelledImages, Teacher | None]:
    """The model, its data and its teacher, as far as can be had before an image is read."""
    images, network, learning = options.images, options.network, options.learning
    if network.teacher is None:
        require_lightly()
    transforms = make_transforms(images)
    local_px = round(images.px * LOCAL_SIDE)
    views: dict[str, Any] = {}
    if network.teacher is None:
        views = {"local_views": network.local_views, "local_px": local_px}
    data = UnlabelledImages(
        images,
        transforms,
        learning.batch_size,
        learning.num_workers,
        learning.seed,
        CroppedImages if network.teacher is None else AugmentedImages,
        **views,
    )
    torch.manual_seed(learning.seed)
    recipe = recipe_of_result(images, network, transforms, "student")
    backbone = create_student(recipe)
    rates = Rates(learning.lr, learning.weight_decay, learning.warmup_epochs)
    scale = (transforms.mean, transforms.std)
    if network.teacher is not None:
        teacher = load_teacher(network.teacher, network.teacher_weights, transforms.channels)
        return Distillation(backbone, teacher, images.px, *scale, rates, network.token_weight), data, teacher
    width, _ = measured(backbone, recipe, images.px)
    try:
        if network.local_views:
            measured(backbone, recipe, local_px)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise InputError(
            f"--backbone {network.backbone}: takes no small views of {local_px} px: {error}. Set --local-views 0"
        ) from None
    model = SelfDistillation(backbone, width, *scale, rates, network.prototypes, network.momentum)
    return model, data, None


def _build_trainer(options: _Options, model: Pretraining, run: PretrainFolder) -> Trainer:
    learning = options.learning
    at: dict[str, Any] = {"dirpath": run.best.parent, "enable_version_counter": False, "auto_insert_metric_name": False}
    callbacks: list[Callback] = [
        SeedEachStep(learning.seed),
        LossSoFar(),
        MetricsTable(run.metrics_table),
    ]
    if model.monitor:
        best: dict[str, Any] = {"monitor": model.monitor, "mode": "min", "save_on_train_epoch_end": True}
        callbacks.append(BestCheckpoint(filename=run.best.stem, **best, **at))
    callbacks.append(MovableCheckpoint(filename=run.last.stem, save_on_train_epoch_end=True, **at))
    callbacks.append(StopGracefully(run.last))
    settings: dict[str, Any] = {
        "accelerator": accelerator(learning.device),
        "devices": 1,
        "max_epochs": learning.max_epochs,
        "precision": learning.precision,
        "gradient_clip_val": learning.clip or None,
        "log_every_n_steps": 10,
        "num_sanity_val_steps": 0,
    }
    for name, value in devices(learning.device):
        settings[name.removeprefix("trainer.")] = yaml.safe_load(str(value))
    rest = ("accumulate_grad_batches", "max_steps", "limit_train_batches", "limit_val_batches", "callbacks", "plugins")
    defaults = {"accumulate_grad_batches": 1, "max_steps": -1}
    settings |= {name: defaults.get(name) for name in rest}
    return build_trainer(SimpleNamespace(trainer=settings), callbacks, logs=run)


def _plain_batches(data: UnlabelledImages, learning: LearningOptions) -> Iterator[Tensor]:
    """Some images of the training part as they are, from which a teacher's scale is taken."""
    dataset = data.dataset("train")
    n = min(SCALE_IMAGES, len(dataset))
    rows = np.sort(np.random.default_rng(learning.seed).permutation(len(dataset))[:n])
    batches = np.array_split(rows, -(-n // learning.batch_size))
    for batch in tracked(batches, "asking the teacher", len(batches)):
        yield torch.stack([dataset[int(row)]["image"] for row in batch])


def _train(
    trainer: Trainer, model: Pretraining, data: UnlabelledImages, run: PretrainFolder
) -> Stopped | KeyboardInterrupt | None:
    """Train to the end, see ``train_until_stopped``."""

    def advise(loader: bool) -> str:
        of_batches = f"--batch-size (now {data.batch_size}) or --size, or set --precision bf16-mixed"
        what = f"--num-workers (now {data.num_workers})" if loader else of_batches
        return f"Lower {what}. What was saved is kept in {show_path(run.path)}"

    state = run.last if run.last.is_file() else None
    return train_until_stopped(trainer, model, data, run.path, state, enough_memory_or(advise, training=True))


def _say_stopped(run: PretrainFolder, stop: Stopped | KeyboardInterrupt) -> int:
    number = stop.signal if isinstance(stop, Stopped) else 2
    there_is_more = f"Go on with: medsoft pretrain --resume {show_path(run.path)}"
    print(f"Stopped. {there_is_more if run.last.is_file() else 'Nothing is saved yet.'}", file=sys.stderr)
    if asked := requeue(number):
        print(asked, file=sys.stderr)
    return 128 + number


def _take_best(model: Pretraining, run: PretrainFolder) -> None:
    """The weights of the best epoch where there is a monitor, else of the last."""
    file = run.best if model.monitor else run.last
    model.load_state_dict(AtomicCheckpointIO().load_checkpoint(file)["state_dict"])


def _finish(
    options: _Options,
    run: PretrainFolder,
    destination: Destination,
    model: Pretraining,
    teacher: Teacher | None,
    data: UnlabelledImages,
    seconds: int,
) -> None:
    """Write weights, recipe and record, and tell the user how close the network is."""
    seen = data.seen()
    name = destination.name or "pretrained"
    recipe = recipe_of_result(options.images, options.network, data.transforms, name)
    recipe = described(recipe, model.result, _licence(options, teacher), _source(options))
    write_seen(seen, write_backbone(model.result, recipe, run.path))
    counts = {part: int((seen["part"] == part).sum()) for part in ("train", "val")}
    verdict = {name: round(value, 4) for name, value in model.verdict().items()}
    of = None if teacher is None else {"name": teacher.recipe.name, "sha256": teacher.sha256}
    summary = {
        "medsoft": __version__,
        "method": "self-distillation (DINO)" if of is None else "distillation",
        "teacher": of,
        "images": counts,
        "left_out": data.left_out,
        "epochs": options.learning.max_epochs,
        "seconds": seconds,
        "held_out": verdict,
    }
    write_summary(summary, run.path)
    write_recipe(recipe, run.path)  # the last one: what has a recipe is finished
    print(_in_words(verdict, counts["val"], teacher))
    print(destination.take(run.path, recipe, seen))


def _licence(options: _Options, teacher: Teacher | None) -> str:
    if options.result.licence or teacher is None:
        return options.result.licence or "that of the images"
    return f"see the teacher's: {teacher.recipe.name}, {teacher.recipe.licence or 'unknown'}"


def _source(options: _Options) -> str:
    whom = f"teacher {options.network.teacher}" if options.network.teacher else "DINO"
    return f"medsoft pretrain ({whom}; transforms {options.images.transforms})"


def _in_words(verdict: dict[str, float], n: int, teacher: Teacher | None) -> str:
    if teacher is not None:
        k = number_of_neighbours(n)
        return (
            f"On {n} held-out images: cosine with {teacher.recipe.name} {verdict['val_cosine']:.3f} (features "
            f"standardised: 0 is what the mean image gives, 1 the same); of its {k} nearest images "
            f"{verdict['val_neighbours']:.0%} are among the teacher's (by chance {k / (n - 1):.0%})"
        )
    return (
        f"On {n} held-out images: another crop is found again in {verdict['val_found']:.0%} (by chance {1 / n:.0%}); "
        f"their features use {verdict['val_spread']:.1f} directions"
    )


def _command(options: _Options) -> list[str]:
    """The options that are not as by default, as a command line."""
    default = _Options().flat
    return [f"--{name}={value}" for name, value in options.flat.items() if value != default[name]]

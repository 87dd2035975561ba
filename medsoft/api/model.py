"""``medsoft.load``: a trained model that predicts, explains and embeds what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from medsoft.api.call import call, words_of
from medsoft.api.explanations import Explanation, explain
from medsoft.api.inputs import Inputs, table_of
from medsoft.errors import InputError
from medsoft.runs.checkpoint_paths import Checkpoint, is_bundle

if TYPE_CHECKING:
    import pandas as pd

    from medsoft.task import Task


class Model:
    """A trained model: of a run, a cross-validation, ``medsoft auto`` or a bundle.

    Attributes:
        path: what was loaded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        """Where it is, and what it answers."""
        return f"Model({str(self.path)!r}, {self.task})"

    @cached_property
    def task(self) -> Task:
        """What the model answers."""
        if is_bundle(self.path):
            from medsoft.runs.bundle import Bundle

            return Bundle(self.path).task
        from medsoft.runs.checkpoint_io import AtomicCheckpointIO
        from medsoft.task import Task

        return Task.from_json(AtomicCheckpointIO().load_checkpoint(self._members[0].file)["medsoft"]["task"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or labels; none of a regression."""
        return self.task.classes

    @cached_property
    def kind(self) -> str:
        """What a sample is: ``image``, ``volume`` or ``bag``."""
        from medsoft.parsing.configurations import of_a_bundle, read_configuration
        from medsoft.registry import DEFAULTS, short_name

        file = self._members[0].config
        if file is None:
            raise InputError(f"{self.path}: lies in no run, which says what its samples are: name the run's folder")
        config = read_configuration(file)
        config = of_a_bundle(config) if is_bundle(self.path) else config
        return short_name("data", str((config.get("use") or {}).get("data", DEFAULTS["data"])))

    @cached_property
    def _members(self) -> list[Checkpoint]:
        if is_bundle(self.path):
            from medsoft.runs.bundle import Bundle

            bundle = Bundle(self.path)
            return [Checkpoint(bundle.path, bundle.config)]
        from medsoft.runs.checkpoints import find_checkpoints

        return find_checkpoints([str(self.path)])

    @property
    def _named(self) -> str:
        return f"--{'bundle' if is_bundle(self.path) else 'checkpoint'}={self.path.resolve()}"

    def predict(self, inputs: Inputs, *, out: str | Path | None = None, **options: Any) -> pd.DataFrame:
        """Predict samples.

        Args:
            inputs: files (of slides, volumes, images or features); arrays: images (H, W) or (H, W, C) uint8 or uint16,
                or bags of features (N, F); a DataFrame of samples, whose files are found from the current folder; or
                the file of such a table.
            out: folder for what ``medsoft predict`` leaves: predictions, metrics where labels are known, a report; None
                keeps nothing.
            options: of ``medsoft predict``, or of ``medsoft slides predict`` for slides, such as ``tta=4``.

        Returns:
            A row a sample, with id, ``p_<class>`` or ``prediction``, and where the model has a detector ``ood_score``
            and ``abstain``: the columns are those of the reference of predictions.

        Raises:
            InputError: an input cannot be read, or does not fit the model.
        """
        from medsoft.evaluation.tables.predictions import read_predictions

        with TemporaryDirectory(prefix="medsoft-") as temporary:
            folder = Path(temporary) / "out" if out is None else Path(out)
            given = table_of(inputs, Path(temporary), self.kind)
            if given.slides:
                leave_out = {"heatmap": False, "figures": False, "report": False} if out is None else {}
                words = [*given.slides, self._named, *words_of(leave_out | options | {"out": folder})]
                call("slides predict", words)
            else:
                leave_out = {"figures": False, "report": False, "shortcuts": False} if out is None else {}
                call("predict", [self._named, *given.words, *words_of(leave_out | options | {"out": folder})])
            return read_predictions(folder / "predictions.csv")[0]

    def embed(self, inputs: Inputs, **options: Any) -> pd.DataFrame:
        """What the model's last layer reads of each sample.

        Args:
            inputs: as of ``predict``; of bags, files of features and not slides.
            options: of ``medsoft predict``.

        Returns:
            Indexed by id, a column for each of the D features.

        Raises:
            InputError: an input cannot be read, does not fit the model, or this is an ensemble.
        """
        import numpy as np
        import pandas as pd
        import torch

        with self._opened(inputs, options) as (model, data), torch.inference_mode():
            frames = []
            for split in data.loaded_splits:
                found = []
                for batch in data.split_dataloader(split):
                    batch = data.transfer_batch_to_device(batch, model.device, 0)
                    found.append(model.logits_and_layers(batch, last=True)[1][0].cpu().numpy())
                frames.append(pd.DataFrame(np.concatenate(found), index=data.part(split).frame["id"].tolist()))
        return pd.concat(frames).rename_axis("id")

    def explain(self, inputs: Inputs, answer: str | None = None, **options: Any) -> list[Explanation]:
        """What the patches of images, or the tiles of bags, add to an answer.

        Args:
            inputs: as of ``predict``; of bags, files of features and not slides.
            answer: the class or label to explain; None for the one that is predicted.
            options: of ``medsoft predict``.

        Raises:
            InputError: an input cannot be read, the answer is none of the model's, or this model cannot be taken apart:
                volumes have ``medsoft predict --maps``.
        """
        with self._opened(inputs, options) as (model, data):
            return explain(model, data, answer)

    @contextmanager
    def _opened(self, inputs: Inputs, options: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
        """The model in evaluation mode, and the data module with its parts loaded."""
        from medsoft.parsing.lightning_cli import read_words
        from medsoft.runs.bundle import Bundle
        from medsoft.training.predict import load_splits
        from medsoft.training.silence_warnings import silence_warnings
        from medsoft.workflows.encode_first import encode_first
        from medsoft.workflows.predict import open_model

        if len(self._members) > 1:
            raise InputError(f"{self.path}: an ensemble of {len(self._members)} models: load one of them")
        silence_warnings()
        with TemporaryDirectory(prefix="medsoft-") as temporary:
            given = table_of(inputs, Path(temporary), self.kind)
            if given.slides:
                raise InputError(
                    f"{given.slides[0]}: a slide: make its features first (medsoft slides encode), and name their file"
                )
            words = read_words("predict", [*given.words, *words_of(options)])
            bundle = Bundle(self.path) if is_bundle(self.path) else None
            words = encode_first("predict", words, self._members, bundle)
            line, _ = open_model("predict", words, self._members[0], of_bundle=is_bundle(self.path))
            load_splits(line.datamodule, "predict")
            yield line.model.eval(), line.datamodule


def load(path: str | Path) -> Model:
    """A trained model.

    Args:
        path: the folder of a run, of a bundle, of a cross-validation (an ensemble of its folds) or of ``medsoft auto``;
            or a checkpoint's file within a run.

    Raises:
        InputError: there is no model.
    """
    model = Model(Path(path))
    if not model._members:
        raise InputError(f"{path}: there is no model")
    return model

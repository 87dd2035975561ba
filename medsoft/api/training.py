"""``medsoft.fit``: a training, and the folder that it leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsoft.api.call import call, words_of
from medsoft.api.model import Model, load

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """What a training left.

    Attributes:
        path: the run's folder, as ``medsoft fit`` writes it.
        log: what a terminal would have shown.
    """

    path: Path
    log: str = ""

    @property
    def predictions(self) -> pd.DataFrame:
        """The predictions of the validation and test parts, a row each."""
        from medsoft.evaluation.tables.predictions import read_predictions

        return read_predictions(self.path / "predictions.csv")[0]

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of each part, as in ``metrics.json``."""
        found: dict[str, Any] = json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))
        return found

    @property
    def epochs(self) -> pd.DataFrame:
        """Losses and metrics of each epoch."""
        import pandas as pd

        return pd.read_csv(self.path / "metrics.csv")

    @property
    def errors(self) -> pd.DataFrame:
        """The inputs that were left out, and why; without rows where there were none."""
        import pandas as pd

        file = self.path / "errors.csv"
        return pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["row", "id", "path", "error"])

    def load(self) -> Model:
        """The trained model."""
        return load(self.path)


def fit(config: str | Path | None = None, *, out: str | Path, **changes: Any) -> Run:
    """Train a model, then predict and score the validation and test parts, as ``medsoft fit`` does.

    Args:
        config: name of a shipped configuration, such as ``fundus``, or a YAML file; None for the plain defaults.
        out: folder of the run; it must not hold one yet.
        changes: options of ``medsoft fit`` with ``__`` for the dot, such as ``data__table="labels.csv"`` and
            ``trainer__max_epochs=5``.

    Raises:
        InputError: an option, the table or a file is wrong.
        RunError: the training ended early.
        KeyboardInterrupt: it was stopped; ``medsoft fit --resume`` goes on.
    """
    words = [] if config is None else [f"--config={config}"]
    _, said = call("fit", [*words, *words_of(changes | {"out": out})])
    return Run(Path(out), said)

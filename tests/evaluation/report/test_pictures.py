"""Pictures: what the figures show, read from the figure itself; that they look well was judged by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import average_precision_score

from medsoft.errors import InputError
from medsoft.evaluation.figures import (
    draw_all,
    figure_confident_mistakes,
    figure_confusion_matrix,
    figure_learning_curves,
    figure_precision_recall,
    figure_roc_curve,
)
from medsoft.evaluation.figures.style import facts
from medsoft.evaluation.metrics.epochs import best_epoch
from medsoft.evaluation.metrics.score import score
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
NUMBER = Task.of("regression")
GRADES = Task.of("ordinal", ("none", "mild", "severe"))
TYPES = Task.of("multiclass", ("_other", "$\\frac{$", "a class with a name so long that no legend has room for it"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion", "mass"))
TASKS = pytest.mark.parametrize("task", [BINARY, GRADES, TYPES, FINDINGS], ids=lambda task: task.kind)


def table(task: Task, n: int = 60, split: str = "test") -> pd.DataFrame:
    rng, n_classes = np.random.default_rng(0), len(task.classes)
    if task.kind == "multilabel":
        target = rng.integers(2, size=(n, n_classes)).astype(float)
        p = np.clip(rng.normal(0.3 + 0.3 * target, 0.2), 0, 1)
        target[:10, 0] = np.nan
    else:
        target = rng.integers(n_classes, size=n).astype(float)
        p = rng.dirichlet(np.ones(n_classes), n) + np.eye(n_classes)[target.astype(int)]
        p /= p.sum(axis=1, keepdims=True)
    return make_predictions(task, [f"case {i}" for i in range(n)], p, target, split=split)


def texts(figure: Figure) -> str:
    """All that can be read in the figure."""
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@TASKS
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", [figure_roc_curve, figure_precision_recall])
def test_curves_carry_the_values_of_the_metrics(draw, task: Task) -> None:
    frame = table(task)
    figure = draw(frame, task, note="Phantom data")
    scores = score(frame, task)
    metric = "auroc" if draw is figure_roc_curve else "average_precision"
    expected = [values[metric] for values in scores["per_class"].values()] or [scores["overall"][metric]]
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [float(label.split()[0]) for label in legend[:-1]] == [round(value, 3) for value in expected]
    assert "chance" in legend[-1]
    assert "split: test" in texts(figure)
    assert "n = 60" in texts(figure)
    assert "Phantom data" in texts(figure)
    # However long the names: the panel stays large, a square, and clear of the legend.
    panel, legend_box = figure.axes[0].get_window_extent(), figure.axes[0].get_legend().get_window_extent()
    assert panel.width / figure.dpi > 3
    assert panel.width == pytest.approx(panel.height, rel=0.01)
    assert legend_box.x0 > panel.x1


def test_the_area_under_the_precision_recall_steps_is_the_average_precision() -> None:
    rng = np.random.default_rng(3)
    p, yes = rng.random(60), rng.integers(2, size=60)
    yes[np.argmax(p)] = 0  # the first row of the curve is wrong: it begins at 0 and not at 1
    frame = make_predictions(BINARY, [str(i) for i in range(60)], np.stack([1 - p, p], axis=1), yes)
    x, y = figure_precision_recall(frame, BINARY).axes[0].lines[0].get_data()
    assert (x[:-1] - x[1:]) @ y[:-1] == pytest.approx(average_precision_score(yes, p))
    assert y[-1] == 0


def test_chance_in_roc_is_the_diagonal_and_in_precision_recall_the_prevalence() -> None:
    frame = table(BINARY)
    diagonal = figure_roc_curve(frame, BINARY).axes[0].lines[-1]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    prevalence = figure_precision_recall(frame, BINARY).axes[0].lines[-1]
    assert set(prevalence.get_ydata()) == {float((frame["target"] == "yes").mean())}


def test_an_undefined_curve_is_said_and_not_drawn() -> None:
    frame = table(FINDINGS)
    frame["target_mass"] = pd.array([0] * len(frame), dtype="Int8")
    axes = figure_roc_curve(frame, FINDINGS).axes[0]
    assert len(axes.lines) == 2 + 1  # two labels and chance
    assert any(text.get_text().startswith("undefined   mass (0 / 60)") for text in axes.get_legend().get_texts())


def test_confusion_matrix_counts_and_keeps_the_order_of_grades() -> None:
    p = np.eye(3)[[0, 0, 2, 1]]
    frame = make_predictions(GRADES, list("abcd"), p, [0, 0, 0, 1])
    axes = figure_confusion_matrix(frame, GRADES).axes[0]
    cells = [text.get_text() for text in axes.texts]
    assert cells == ["2\n67 %", "0", "1\n33 %", "0", "1\n100 %", "0", "0", "0", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(GRADES.classes)
    assert axes.get_ylabel() == "true class"
    assert "most probable" in axes.get_xlabel()


def test_confusion_matrix_of_binary_says_its_threshold() -> None:
    assert "0.5" in figure_confusion_matrix(table(BINARY), BINARY).axes[0].get_xlabel()


def test_confusion_matrix_has_a_panel_a_label() -> None:
    frame = table(FINDINGS)
    panels = figure_confusion_matrix(frame, FINDINGS).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["oedema\nn = 50", "effusion\nn = 60", "mass\nn = 60"]
    for panel in panels:
        counts = [int(text.get_text().split("\n")[0]) for text in panel.texts]
        assert sum(counts) == int(panel.get_title(loc="left").split()[-1])


def log(path: Path) -> Path:
    """A log as CSVLogger writes it: train and val values in rows of their own, an epoch logged in two steps."""
    rows = [
        {"epoch": 0, "step": 10, "train_loss": 1.0},
        {"epoch": 0, "step": 20, "train_loss": 0.8},
        {"epoch": 0, "step": 20, "val_loss": 0.95, "val_auroc": 0.7, "val_brier": 0.2},
        {"epoch": 1, "step": 40, "train_loss": 0.5},
        {"epoch": 1, "step": 40, "val_loss": 0.7, "val_auroc": 0.9, "val_brier": 0.2},
        {"epoch": 2, "step": 60, "train_loss": 0.3},
        {"epoch": 2, "step": 60, "val_loss": 0.6, "val_auroc": 0.8, "val_brier": 0.1},
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_learning_curves_by_epoch_with_the_best_one_marked(tmp_path: Path) -> None:
    losses, metrics = (figure := figure_learning_curves(log(tmp_path / "metrics.csv"))).axes
    train, val, mark = losses.lines
    assert train.get_ydata().tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert val.get_ydata().tolist() == [0.95, 0.7, 0.6]
    assert [line.get_label() for line in metrics.lines[:-1]] == ["AUROC"]
    assert list(mark.get_xdata()) == [1, 1]
    assert "best epoch: 1, with val_auroc = 0.900" in texts(figure)
    assert (losses.get_xlabel(), losses.get_ylabel()) == ("epoch", "loss")


@pytest.mark.parametrize("monitor", ["val_loss", "val_brier"])
def test_the_best_epoch_of_a_loss_is_its_lowest(tmp_path: Path, monitor: str) -> None:
    assert "best epoch: 2" in texts(figure_learning_curves(log(tmp_path / "metrics.csv"), monitor=monitor))


def test_of_equal_epochs_the_best_has_the_lowest_loss() -> None:
    epochs = pd.DataFrame({"val_auroc": [0.5, 1, 1, 1, np.nan], "val_loss": [0.1, 0.4, 0.2, 0.3, 0.0]}, [1, 2, 3, 4, 5])
    assert best_epoch(epochs, "val_auroc") == 3
    assert best_epoch(epochs.drop(columns="val_loss"), "val_auroc") == 2
    assert best_epoch(epochs, "val_loss") == 5
    assert best_epoch(epochs.loc[[5]], "val_auroc") is None


def test_a_log_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no values of 'val_kappa'; logged are"):
        figure_learning_curves(log(tmp_path / "metrics.csv"), monitor="val_kappa")
    with pytest.raises(InputError, match="cannot read the training log"):
        figure_learning_curves(tmp_path / "nowhere.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="needs the columns epoch and train_loss"):
        figure_learning_curves(tmp_path / "other.csv")
    (tmp_path / "begun.csv").write_text("epoch,step,train_loss\n0,1,\n")
    with pytest.raises(InputError, match="holds no losses yet"):
        figure_learning_curves(tmp_path / "begun.csv")


def test_mistakes_come_most_confident_first_with_their_pictures() -> None:
    p = [[0.4, 0.6], [0.05, 0.95], [0.7, 0.3], [0.2, 0.8], [0.9, 0.1]]
    frame = make_predictions(BINARY, ["a", "b", "c", "d", "$e"], p, [0, 0, 1, 1, -1])
    pictures = {"b": np.zeros((8, 6, 3), dtype=np.uint8), "c": np.full((4, 4), 0.5)}
    figure = figure_confident_mistakes(frame, BINARY, pictures.get)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "true: no\npredicted: yes\np = 0.950\nb",
        "true: yes\npredicted: no\np = 0.700\nc",
        "true: no\npredicted: yes\np = 0.600\na",
    ]
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 0]
    assert "no picture" in texts(figure)
    assert "All 3 mistakes" in texts(figure)
    fewer = figure_confident_mistakes(frame, BINARY, pictures.get, n=1)
    assert len(fewer.axes) == 1
    assert "The 1 most confident of 3 mistakes" in texts(fewer)


def test_a_mistake_of_a_multilabel_task_is_about_a_label() -> None:
    frame = make_predictions(FINDINGS, ["a"], [[0.9, 0.2, 0.9]], [[1, 1, np.nan]])
    figure = figure_confident_mistakes(frame, FINDINGS, lambda _: None)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["effusion\ntrue: yes\npredicted: no\np = 0.800\na"]


def test_no_mistakes_is_said() -> None:
    frame = make_predictions(BINARY, ["a"], [[0.1, 0.9]], [1])
    assert "no mistakes" in texts(figure_confident_mistakes(frame, BINARY, lambda _: None))


@pytest.mark.parametrize("task", [TYPES, FINDINGS], ids=lambda task: task.kind)
@pytest.mark.filterwarnings("error")
def test_all_pictures_of_every_split_are_written(task: Task, tmp_path: Path) -> None:
    unlabelled = make_predictions(task, ["x"], [[1 / len(task.classes)] * len(task.classes)], split="new")
    frame = pd.concat([table(task, 20, "val/1"), unlabelled], ignore_index=True)
    out = tmp_path / "figures"
    written = draw_all(frame, task, out, log(tmp_path / "metrics.csv"), lambda _: None, note="Phantom data")
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in written)
    assert {path.name for path in written} == {
        "learning_curves.png",
        "roc_val-1.png",
        "precision_recall_val-1.png",
        "confusion_matrix_val-1.png",
        "confident_mistakes_val-1.png",
    }
    for path in written:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300


def test_only_what_has_material_is_drawn(tmp_path: Path) -> None:
    written = draw_all(table(BINARY, split=""), BINARY, tmp_path)
    assert {path.name for path in written} == {"roc.png", "precision_recall.png", "confusion_matrix.png"}


class OneFigure(type(BINARY)):
    """A task that ends a run with one figure."""

    table_figures = ("confusion_matrix",)


def test_a_task_decides_what_is_drawn_of_its_predictions(tmp_path: Path) -> None:
    drawn = draw_all(table(BINARY), OneFigure(BINARY.classes), tmp_path, thumbnail=lambda _: None)
    assert [file.name for file in drawn] == ["confusion_matrix_test.png"]


def test_a_figure_of_a_regression_says_how_many_rows_have_no_target() -> None:
    frame = make_predictions(NUMBER, list("abcd"), np.arange(4.0)[:, None], np.array([1.0, 2.0, 3.0, np.nan]))
    assert facts(frame, NUMBER) == "n = 3 · 1 without target left out"

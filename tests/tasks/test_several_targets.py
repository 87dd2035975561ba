"""Several targets at once: what is missing adds nothing, each is what it would be alone, what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medsoft.data.tables.problems import TableError
from medsoft.data.tables.sample_table import SampleTable, read_table
from medsoft.data.tables.split import complete_splits
from medsoft.data.tables.targets import read_targets
from medsoft.errors import InputError
from medsoft.evaluation.metrics.score import headline, score
from medsoft.evaluation.tables.ensemble import mean_of
from medsoft.evaluation.tables.predictions import make_predictions, read_predictions, write_predictions
from medsoft.task import Task
from medsoft.task_types import ObjectiveOptions

PARTS = {
    "MSI": ("binary", ("MSS", "MSI-H"), 1.0),
    "grade": ("ordinal", ("1", "2", "3"), 2.0),
    "age": ("regression", (), 0.5),
}
TASK = Task.from_json(
    {
        "kind": "multitask",
        "classes": (),
        "targets": [
            {"name": name, "kind": kind, "classes": classes, "weight": w} for name, (kind, classes, w) in PARTS.items()
        ],
    }
)
OPTIONS = ObjectiveOptions(target_scale={"MSI": None, "grade": None, "age": (60.0, 10.0)})
OUTPUTS = {"MSI": slice(0, 2), "grade": slice(2, 4), "age": slice(4, 5)}
NAN = float("nan")


def alone(name: str):
    task = TASK.part(name).task
    scale = OPTIONS.target_scale[name]
    return task.objective(ObjectiveOptions(target_scale=scale)), task


def loss_of(name: str, logits: torch.Tensor, value: float) -> torch.Tensor:
    """The loss of one sample's target, by the objective of that target alone."""
    objective, task = alone(name)
    return objective.loss(logits[None, OUTPUTS[name]], task.of_numbers(torch.tensor([[value]])))


def random_targets(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.column_stack([rng.integers(0, 2, n), rng.integers(0, 3, n), rng.normal(60, 10, n)]).astype(float)
    values[rng.random(values.shape) < 0.4] = NAN
    return values


def test_the_loss_is_the_weighted_mean_over_the_targets_that_a_sample_has():
    logits, targets = torch.randn(12, 5, generator=torch.manual_seed(0)), torch.tensor(random_targets(12)).float()
    each = []
    for row, values in zip(logits, targets, strict=True):
        there = {name: float(v) for name, v in zip(PARTS, values, strict=True) if not v.isnan()}
        if there:
            weights = sum(PARTS[name][2] for name in there)
            each.append(sum(PARTS[name][2] * loss_of(name, row, v) for name, v in there.items()) / weights)
    objective = TASK.objective(OPTIONS)
    torch.testing.assert_close(objective.loss(logits, targets), torch.stack(each).mean())


def test_a_missing_target_has_no_gradient():
    logits = torch.randn(3, 5, generator=torch.manual_seed(1), requires_grad=True)
    targets = torch.tensor([[1, NAN, NAN], [NAN, 2, 71], [NAN, NAN, NAN]])
    TASK.objective(OPTIONS).loss(logits, targets).backward()
    moved = logits.grad != 0
    assert moved[0].tolist() == [True, True, False, False, False]
    assert moved[1].tolist() == [False, False, True, True, True]
    assert not moved[2].any()


def test_a_batch_without_any_target_has_a_loss_of_zero_that_can_be_followed():
    logits = torch.randn(2, 5, requires_grad=True)
    loss = TASK.objective(OPTIONS).loss(logits, torch.full((2, 3), NAN))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(("name", "value"), [("MSI", 1.0), ("grade", 2.0), ("age", 48.0)])
def test_with_one_target_alone_the_loss_is_that_of_a_single_target(name, value):
    logits = torch.randn(1, 5, generator=torch.manual_seed(2))
    targets = torch.full((1, 3), NAN)
    targets[0, list(PARTS).index(name)] = value
    assert TASK.objective(OPTIONS).loss(logits, targets) == loss_of(name, logits[0], value)


def test_survival_among_targets_compares_all_samples_that_have_it():
    parts = [{"name": "MSI", "weight": 1.0, "kind": "binary", "classes": ("no", "yes")}]
    parts += [
        {"name": "os", "weight": 1.0, "kind": "survival", "classes": (), "times": (), "unit": "days", "logits": 1}
    ]
    objective = Task.from_json({"kind": "multitask", "classes": (), "targets": parts}).objective(ObjectiveOptions())
    assert objective.joint
    logits = torch.randn(4, 3, generator=torch.manual_seed(3))
    targets = torch.tensor([[NAN, 5, 1], [1, 9, 0], [0, NAN, NAN], [NAN, 7, 1]])
    binary, survival = (part.objective for part in objective.parts)
    # Shares of survival: 1, ½, 0, 1; of MSI: 0, ½, 1, 0. Two groups of MSI, as one of its samples has survival too.
    of_msi = 0.5 * binary.loss(logits[1:2, :2], torch.tensor([1])) + binary.loss(logits[2:3, :2], torch.tensor([0]))
    of_survival = 2.5 * survival.loss(logits[[0, 1, 3], 2:], targets[[0, 1, 3], 1:])
    torch.testing.assert_close(objective.loss(logits, targets), (of_msi + of_survival) / 4)


def test_the_state_of_every_target_comes_back():
    trained, loaded = TASK.objective(OPTIONS), TASK.objective(ObjectiveOptions())
    loaded.restore(trained.state())
    logits = torch.randn(3, 5)
    torch.testing.assert_close(loaded.probabilities(logits), trained.probabilities(logits))
    assert trained.probabilities(logits).shape == (3, len(TASK.p_columns))


def answers(n: int, seed: int = 0) -> np.ndarray:
    logits = torch.randn(n, 5, generator=torch.manual_seed(seed))
    return TASK.exact(TASK.objective(OPTIONS).probabilities(logits).numpy().astype(float))


def predictions(n: int = 20, seed: int = 0) -> pd.DataFrame:
    return make_predictions(TASK, [f"s{i}" for i in range(n)], answers(n, seed), random_targets(n), split="test")


def test_a_table_of_predictions_reads_back_with_its_targets(tmp_path):
    frame = predictions().assign(camera="7")
    write_predictions(frame, tmp_path / "p.csv")
    read, task = read_predictions(tmp_path / "p.csv")
    assert task == TASK
    for name in PARTS:
        found, wanted = task.frame_of(name, read), TASK.frame_of(name, frame)
        pd.testing.assert_frame_equal(found[list(wanted)], wanted, check_dtype=False)


def test_a_target_of_a_table_is_the_table_of_that_target_alone(tmp_path):
    p, values = answers(20), random_targets(20)
    frame = predictions().assign(ood_score=0.5)
    ids, start = [f"s{i}" for i in range(20)], 0
    for index, one in enumerate(TASK.parts):
        width = len(one.task.p_columns)
        single = make_predictions(one.task, ids, p[:, start : start + width], values[:, index], split="test")
        pd.testing.assert_frame_equal(TASK.frame_of(one.name, frame), single.assign(ood_score=0.5))
        write_predictions(TASK.frame_of(one.name, frame), tmp_path / "one.csv")
        assert read_predictions(tmp_path / "one.csv")[1] == one.task
        start += width


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.drop(columns="age.prediction"), "column 'prediction' is missing"),
        (lambda frame: frame.assign(**{"MSI.task": "multitask"}), "several targets have a column <target>.task each"),
        (lambda frame: frame.assign(**{"MSI.p_MSS": 2.0}), "MSI: p_MSS is outside"),
        (lambda frame: frame.assign(**{"grade.target": "9"}), "grade: target '9' is none of 1, 2, 3"),
        (lambda frame: frame.drop(columns="age.target"), "column 'age.target' is missing"),
    ],
)
def test_a_table_that_cannot_be_is_refused(tmp_path, change, said):
    change(predictions()).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match=said):
        read_predictions(tmp_path / "p.csv")


def test_scores_are_those_of_each_target_and_the_mean_of_their_skills():
    frame = predictions(60)
    found = headline(score(frame, TASK))
    skills = []
    for name, metric, chance in (("MSI", "auroc", 0.5), ("grade", "kappa", 0.0), ("age", "concordance", 0.0)):
        own = headline(score(TASK.frame_of(name, frame), TASK.part(name).task))
        assert {f"{name}.{metric}": value for metric, value in own.items()}.items() <= found.items()
        skills.append((own[metric] - chance) / (1 - chance))
    assert found["skill"] == pytest.approx(np.mean(skills))
    without = score(frame.assign(**{"age.target": np.nan}), TASK)
    assert headline(without)["skill"] is None
    assert any(note.startswith("age: ") for note in without["notes"])


def test_an_ensemble_is_the_mean_of_each_target():
    frames = [predictions(seed=seed) for seed in (0, 1)]
    mean = mean_of(frames, TASK)
    for one in TASK.parts:
        own = mean_of([TASK.frame_of(one.name, frame) for frame in frames], one.task)
        pd.testing.assert_frame_equal(TASK.frame_of(one.name, mean)[list(own)], own)


def test_an_explained_logit_is_one_of_all_outputs():
    assert TASK.logit_target("MSI").weights == {1: 1.0, 0: -1.0}
    assert TASK.logit_target("grade.3").weights == {3: 1.0}
    assert TASK.logit_target("age").weights == {4: 1.0}
    assert TASK.default_logit_target(answers(1)[0]).name == "MSI.MSI-H"
    with pytest.raises(InputError, match=r"name a class too, such as grade\.3"):
        TASK.logit_target("grade")
    with pytest.raises(InputError, match="there is no target 'sex': there are MSI, grade, age"):
        TASK.logit_target("sex")


def test_an_explained_logit_stands_for_a_probability_of_its_own_target_or_for_a_number():
    p_C = answers(1)[0]
    p = TASK.explained_probability(TASK.logit_target("MSI"), 2.0, p_C)
    assert p == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert TASK.explained_probability(TASK.logit_target("age"), 2.0, p_C) is None
    one, other = ({"name": name, "kind": "multiclass", "classes": ("x", "y", "z"), "weight": 1.0} for name in "ab")
    two = Task.from_json({"kind": "multitask", "classes": (), "targets": [one, other]})
    p_C = np.array([0.1, 0.2, 0.7, 0.3, 0.6, 0.1])
    assert two.explained_probability(two.logit_target("b.y"), 5.0, p_C) == 0.6  # not the sigmoid of one logit of three


def test_maps_of_several_targets_are_asked_for_in_one_word():
    from medsoft.inference.slides.predict import HeatmapRequest

    found = HeatmapRequest.of(TASK, "MSI.MSI-H, age")
    assert {folder: target.name for folder, target in found.logit_targets.items()} == {
        "MSI.MSI-H": "MSI.MSI-H",
        "age": "age",
    }
    assert list(HeatmapRequest.of(Task.of("binary", ("no", "a, b")), "a, b").logit_targets) == ["a, b"]
    assert HeatmapRequest.of(TASK, None).logit_targets == {}


# The sample table.


def write(folder: Path, **columns: list[object]) -> Path:
    n = len(next(iter(columns.values())))
    for i in range(n):
        (folder / f"{i}.png").write_bytes(b"picture %d" % i)
    pd.DataFrame({"path": [f"{i}.png" for i in range(n)], **columns}).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


WANTED = {
    "MSI": {"task": "binary", "positive": "MSI-H"},
    "G": {"label": "grade", "task": "ordinal"},
    "age": "regression",
}
LABELS = {
    "MSI": ["MSS", "MSI-H", "MSS", "MSI-H", "", "MSI-H"],
    "grade": ["1", "2", "", "1", "2", "1"],
    "age": ["60", "", "50", "70", "", "55"],
}


def table(folder: Path, labels: dict[str, list[object]], targets=None, **more) -> SampleTable:
    targets = targets or WANTED
    columns = [column for one in read_targets(targets).values() for column in one.columns]
    options = {"label": columns, "task": "multitask", "targets": targets} | more
    return read_table(write(folder, **labels), **options)


def test_labels_of_a_table_become_targets_of_their_own_kind(tmp_path):
    samples = table(tmp_path, LABELS)
    assert str(samples.task) == "multitask (MSI: binary (MSS, MSI-H); G: ordinal (1, 2); age: regression)"
    np.testing.assert_array_equal(
        samples.targets, [[0, 0, 60], [1, 1, NAN], [0, NAN, 50], [1, 0, 70], [NAN, 1, NAN], [1, 0, 55]]
    )
    one = samples.of_target("G")
    assert one.frame["target"].tolist() == ["1", "2", "", "1", "2", "1"]
    assert one.targets.tolist() == [0, 1, -1, 0, 1, 0]


def test_a_column_of_the_table_that_is_called_target_does_not_get_in_the_way(tmp_path):
    samples = table(tmp_path, LABELS | {"target": ["x"] * 6})
    assert samples.of_target("MSI").frame["target"].tolist() == ["MSS", "MSI-H", "MSS", "MSI-H", "", "MSI-H"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            {"MSI": ["MSS", "", "MSS", "MSI-H", "", "MSI-H"], "grade": ["1", "", "", "1", "2", "1"]},
            "no target has a label",
        ),
        ({"age": ["old", "", "50", "70", "", "55"]}, "age: 'old' is no number"),
        ({"MSI": [""] * 6}, "target MSI: the label column 'MSI' is empty"),
        ({"age": [""] * 6}, "age: no row of the table has this target"),
        ({"grade": ["2"] * 6}, "target G: the label column 'grade' has one value only"),
        ({"age": ["60", "", "60", "60", "", "60"]}, "target age: the label column 'age' has one value only"),
        ({"MSI": ["unknown", "MSS", "MSS", "MSI-H", "", "MSI-H"]}, "unknown"),
    ],
)
def test_labels_that_cannot_be_are_told_with_their_target(tmp_path, labels, said):
    with pytest.raises(InputError, match=said):
        table(tmp_path, LABELS | labels)


def test_a_target_that_train_lacks_is_told(tmp_path):
    split = ["train", "train", "val", "train", "train", "val"]
    with pytest.raises(TableError, match="age: no row of train has this target"):
        table(tmp_path, LABELS | {"age": ["", "", "50", "", "", "55"], "split": split})


def test_a_column_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no column 'stage' .* with the option targets"):
        table(tmp_path, LABELS, WANTED | {"stage": "ordinal"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"age": "regression"}, "two targets or more"),
        ({"age": "regression", "my.grade": "ordinal"}, "'my.grade' cannot name a target"),
        ({"age": "regression", "a/b": "ordinal"}, "'a/b' cannot name a target"),
        ({"age": "regression", "Age": {"label": "x"}}, "differ in writing only"),
        ({"age": "regression", "old": {"label": "age"}}, "age and old both have the column 'age'"),
        ({"age": "regression", "x": {"tsak": "binary"}}, "x: there is no option tsak"),
        ({"age": "regression", "x": "painting"}, "x: 'painting' cannot be one of several targets"),
        ({"age": "regression", "x": "segmentation"}, "x: 'segmentation' cannot be one of several targets"),
        ({"age": "regression", "x": "multitask"}, "x: 'multitask' cannot be one of several targets"),
        ({"age": {"weight": 0}, "x": None}, "age: weight 0: a number above 0"),
        ({"age": {"weight": "heavy"}, "x": None}, "age: weight 'heavy'"),
        ({"age": {"label": "a,a"}, "x": None}, "age: label 'a,a'"),
        ({"age": {"time": "days"}, "x": None}, "belong to"),
    ],
)
def test_options_of_targets_that_cannot_be_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        read_targets(given)


def test_two_targets_of_survival_are_refused(tmp_path):
    days = {"task": "survival", "time": "d", "event": "e", "time_unit": "days"}
    labels = {"d": [1, 2, 3], "e": [1, 0, 1], "d2": [1, 2, 3], "e2": [1, 1, 0]}
    with pytest.raises(InputError, match="one of survival"):
        table(tmp_path, labels, {"os": days, "pfs": days | {"time": "d2", "event": "e2"}})


def test_a_split_spreads_the_classes_of_all_targets(tmp_path):
    rng = np.random.default_rng(0)
    n = 200
    labels = {
        "MSI": np.where(rng.random(n) < 0.2, "MSI-H", "MSS").tolist(),
        "grade": rng.integers(1, 4, n).tolist(),
        "age": rng.normal(60, 10, n).round(1).tolist(),
    }
    samples, _ = complete_splits(table(tmp_path, labels), 0.2, 0.2, seed=0)
    frame = samples.frame
    for target, value in (("MSI.target", "MSI-H"), ("G.target", "1"), ("G.target", "3")):
        shares = (frame[target] == value).groupby(frame["split"]).mean()
        assert shares.max() - shares.min() < 0.08

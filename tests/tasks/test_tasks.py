"""What every task owns, asked of all of them alike: its columns, targets, answers, and its place in the register."""

import re
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.evaluation.figures import TABLE_FIGURES
from medsoft.evaluation.figures.part_figures import CHARTS
from medsoft.evaluation.report.glossary import GLOSSARY
from medsoft.task import CLASSES, TASK_KINDS, Task, task_class
from medsoft.task_types import ObjectiveOptions

TASKS = {
    "binary": Task.of("binary", ("no", "yes")),
    "multiclass": Task.of("multiclass", ("a", "b", "c")),
    "multilabel": Task.of("multilabel", ("oedema", "mass")),
    "ordinal": Task.of("ordinal", ("0", "1", "2", "3")),
    "regression": Task.of("regression"),
    "survival": Task.from_json({"kind": "survival", "classes": (), "times": (12, 36.5), "unit": "", "logits": 1}),
    "segmentation": Task.of("segmentation", ("disc", "cup")),
    "segmentation_volume": Task.of("segmentation_volume", ("liver", "tumour")),
    "detection": Task.of("detection", ("nodule", "mass")),
}
TASKS["multitask"] = Task.from_json(
    {
        "kind": "multitask",
        "classes": (),
        "targets": [{"name": name, "weight": 1.0, **TASKS[kind].to_json()} for name, kind in (("MSI", "binary"),)]
        + [{"name": f"t-{kind}", "weight": 0.5, **TASKS[kind].to_json()} for kind in ("multilabel", "ordinal")]
        + [{"name": kind, "weight": 2.0, **TASKS[kind].to_json()} for kind in ("regression", "survival")],
    }
)
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def answers(task: Task, n: int, seed: int) -> np.ndarray:
    """(n, C): probabilities that sum to 1 where classes exclude each other, or numbers above 0."""
    width, rng = len(task.p_columns), np.random.default_rng(seed)
    if task.parts:
        return np.concatenate([answers(one.task, n, seed + i) for i, one in enumerate(task.parts)], axis=1)
    if task.number_metrics == "survival":  # a risk, then chances
        return np.column_stack([rng.normal(size=n), rng.uniform(0.01, 0.99, (n, width - 1))])
    if task.has_masks:  # sizes, then shares or pixels
        return np.where(["hd95" in name for name in task.p_columns], 7.5, rng.random((n, width)))
    if task.has_boxes:  # the best score, then counts
        return np.where(np.arange(width) == 0, rng.random((n, width)), rng.integers(0, 9, (n, width)))
    if not task.has_probabilities:
        return rng.gamma(4, 10, (n, width))
    return rng.dirichlet(np.ones(width), n) if task.exclusive else rng.random((n, width))


def targets(task: Task, n: int, seed: int, missing: float = 0.2) -> np.ndarray:
    """As training takes them, some of them missing."""
    rng = np.random.default_rng(seed)
    if task.parts:
        each = [targets(one.task, n, seed + i, missing) for i, one in enumerate(task.parts)]
        return np.concatenate([values.reshape(n, -1) for values in each], axis=1)
    if task.number_metrics == "survival":
        values = np.column_stack([np.round(rng.gamma(4, 10, n), 1) + 1, rng.integers(0, 2, n)])
        values[rng.random(n) < missing] = np.nan
        return values
    if task.has_masks:
        return np.where(rng.random(n) < missing, np.nan, 1.0)
    if not task.has_classes:
        values = np.round(rng.gamma(4, 10, n))
    elif task.exclusive:
        values = rng.integers(0, len(task.classes), n).astype(float)
    else:
        values = rng.integers(0, 2, (n, len(task.classes))).astype(float)
    values[rng.random(values.shape) < missing] = np.nan
    return values


def test_every_name_has_a_class_of_that_name():
    assert set(CLASSES) == set(TASK_KINDS) == set(TASKS), "a new task is tried here too"
    for kind in TASK_KINDS:
        assert task_class(kind).kind == kind
    with pytest.raises(ValueError, match=r"unknown task 'painting': one of binary, "):
        Task.of("painting")


@every_task
def test_a_task_is_what_a_checkpoint_says_of_it(task):
    assert task != TASKS["binary" if task.kind != "binary" else "ordinal"]
    assert Task.from_json(task.to_json()) == task
    with pytest.raises(ValueError, match=r"not unique|has 2 classes|has no classes"):
        Task.of(task.kind, ("a", "b", "a"))


@every_task
@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_targets_survive_their_columns(task, seed):
    """Targets of training, as cells of a table, as text in a file, and back."""
    values = targets(task, 20, seed)
    cells = task.target_cells(values, 20)
    assert list(cells) == task.target_columns
    frame = pd.DataFrame(cells)
    text = frame.astype(object).where(frame.notna(), "").astype(str)
    read, wrong = task.parse_targets(text)
    assert not any(rows.any() for _, rows in wrong)
    back = pd.DataFrame(read)
    np.testing.assert_array_equal(task.target_numbers(back), values.reshape(20, -1))
    known = ~np.isnan(values.reshape(20, -1))
    np.testing.assert_array_equal(task.known(back), known.any(axis=1))
    found = task.targets(back)
    assert found.shape == values.shape
    np.testing.assert_array_equal(
        found, np.where(np.isnan(values), -1, values) if task.exclusive else values.astype(found.dtype)
    )


@every_task
@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_answers_are_what_their_logits_say(task, seed):
    p = answers(task, 8, seed)
    np.testing.assert_allclose(task.predictions_of(task.logits_of(p)), p, rtol=1e-9, atol=1e-12)


@every_task
def test_answers_that_cannot_be_are_told(task):
    p = answers(task, 4, 0)
    frame = pd.DataFrame(p, columns=task.p_columns).assign(**task.target_cells(None, 4))
    assert not any(rows.any() for _, rows in task.wrong_values(frame))
    frame.loc[2, task.p_columns[0]] = np.nan
    assert any(list(np.flatnonzero(rows)) == [2] for _, rows in task.wrong_values(frame))


@every_task
def test_strata_and_members_cover_the_known_rows(task):
    values = targets(task, 40, 1)
    frame = pd.DataFrame(task.target_cells(values, 40))
    members = task.members(frame)
    assert tuple(members) == (task.classes if task.of_whole_samples else ())
    if members:
        together = np.stack(list(members.values()))
        assert not (together & ~task.known(frame)).any()
        counts = task.class_counts(task.targets(frame))
        assert counts.shape == task.class_counts_shape
        np.testing.assert_array_equal(together.sum(axis=1), counts if counts.ndim == 1 else counts[:, 1])
    strata = task.strata(task.targets(frame))
    assert strata.shape == (40,)
    assert len(set(strata)) > 1
    assert np.issubdtype(strata.dtype, np.integer)


@every_task
def test_a_task_recognises_its_own_predictions_or_leaves_it_to_the_column_task(task):
    columns = ["id", *(task.kind_cells(0) if task.parts else ()), *task.target_columns, *task.p_columns]
    recognised = [kind for kind in TASK_KINDS if task_class(kind).recognises(columns)]
    assert len(recognised) == 1, "a table without the column task is of one task"
    assert recognised == [task.kind] or not type(task).recognises(columns)
    text = pd.DataFrame({name: [""] for name in columns} | task.kind_cells(1))
    assert task_class(task.kind).from_text(text) == task


@every_task
@pytest.mark.parametrize("how", ["mean", "max"])
def test_pooled_targets_of_rows_that_agree_are_theirs(task, how):
    values = targets(task, 6, 3, missing=0)
    frame = pd.DataFrame(task.target_cells(np.repeat(values, 2, axis=0), 12))
    pooled = task.pool_targets(pd.DataFrame(task.target_numbers(frame)), np.repeat(np.arange(6), 2), how)
    np.testing.assert_allclose(pooled, values)


@every_task
def test_the_metrics_of_a_task_hold_the_one_that_chooses_checkpoints(task):
    assert task.monitor in task.headline
    assert task.primary["metric"] in (task.metrics or task.headline)  # of several targets the mean of their skills
    assert task.positive in ("", *task.asked_classes)
    assert set(task.asked_classes) <= set(task.classes)


@every_task
def test_the_network_has_as_many_outputs_as_its_objective(task):
    if task.has_masks:  # of each pixel, the background first
        assert task.objective(ObjectiveOptions()).outputs == 1 + len(task.classes)
        assert [one["columns"] for one in task.outputs()] == [["background", *task.classes]] * 2
        return
    logits, found = task.outputs()
    if task.has_boxes:  # of each place and shape
        assert logits["columns"] == [*task.classes]
        assert task.objective(ObjectiveOptions()).outputs == len(task.classes)
        return
    scale = {one.name: (0.0, 1.0) for one in task.parts} or (0.0, 1.0)
    objective = task.objective(ObjectiveOptions(target_scale=scale))
    assert len(logits["columns"]) == objective.outputs
    assert found["columns"] == task.p_columns
    logit_target = task.default_logit_target(answers(task, 1, 0)[0])
    assert set(logit_target.weights) <= set(range(objective.outputs))


@every_task
def test_what_a_task_names_for_figures_and_report_is_there(task):
    if task.parts:  # each target is reported by itself
        assert not (*task.figures, *task.table_figures, *task.report_sections, *task.glossary)
        return
    pieces = (files("medsoft.evaluation.report") / "pieces.html.jinja").read_text(encoding="utf-8")
    sections = set(re.findall(r"{% macro (\w+)_section\(part\) %}", pieces))
    for named, known in (
        (task.figures, CHARTS),
        (task.table_figures, TABLE_FIGURES),
        (task.glossary, GLOSSARY),
        (task.report_sections, sections),
    ):
        assert named or task.number_metrics == "survival" or not task.of_whole_samples, "a task has some of each"
        assert set(named) <= set(known)


def test_no_figure_section_or_term_is_of_no_task():
    for attribute, known in (("figures", CHARTS), ("table_figures", TABLE_FIGURES), ("glossary", GLOSSARY)):
        assert {name for task in TASKS.values() for name in getattr(task, attribute)} == set(known)


def test_what_is_asked_is_said_with_classes_and_unit():
    said = {kind: task.sentence("slide") for kind, task in TASKS.items()}
    assert said == {
        "binary": "Binary: is the slide “yes” (positive) or “no”?",
        "multiclass": "Multiclass: which one of “a”, “b”, “c”?",
        "multilabel": "Multilabel: which of “oedema”, “mass” does the slide show?",
        "ordinal": "Ordinal: which one of “0”, “1”, “2”, “3”, in rising order?",
        "regression": "Regression: a number for each slide",
        "survival": "Survival: the risk of an event for each slide",
        "segmentation": "Segmentation: the places of disc, cup in each slide",
        "multitask": "Several targets for each slide: MSI, t-multilabel, t-ordinal, regression, survival",
        "detection": "Detection: a box around each nodule, mass in each slide",
        "segmentation_volume": "Segmentation: the places of liver, tumour in each slide",
    }

"""``medsoft compare``: the same samples or none, differences with intervals, tests, Holm and non-inferiority."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from sklearn import metrics as reference

from medsoft.errors import InputError
from medsoft.evaluation.comparison.compare import Difference, compare_models, holm, with_holm
from medsoft.evaluation.comparison.mcnemar import mcnemar
from medsoft.evaluation.comparison.pairing import pair, short_names
from medsoft.evaluation.metrics import agreement
from medsoft.evaluation.metrics.by_name import Asked, wanted_key
from medsoft.evaluation.metrics.thresholds import parse_rule
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables.predictions import make_predictions, write_predictions
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
GRADES = Task.of("ordinal", ("0", "1", "2"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion"))


def table(
    task: Task = BINARY, noise: float = 1.0, seed: int = 0, n: int = 200, per_patient: int = 1, split: str = "test"
):
    """The same targets for every noise and seed; noise makes the predictions worse."""
    truth = np.random.default_rng(99)
    classes = len(task.classes)
    patient = np.arange(n) // per_patient
    target = truth.integers(classes, size=n)[patient]
    shared = truth.normal(size=(n, classes))
    z = 1.5 * np.eye(classes)[target] + shared + noise * np.random.default_rng(seed).normal(size=(n, classes))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    if task.kind == "multilabel":
        target = truth.random((n, classes)) < 0.4
    ids, names = [f"s{i}" for i in range(n)], [f"P{i}" for i in patient] if per_patient > 1 else None
    return make_predictions(task, ids, p, target, patient=names, split=split)


def compared(tables, task=BINARY, metric="auroc", margin=None, rule="0.5", of="", draws=400, level="row", **options):
    paired = pair(list(tables.items()), task, split=None, level=level, rule=parse_rule(rule), **options)
    return compare_models(paired, Asked(metric, of, rule), Settings(draws=draws), margin)


def test_the_difference_of_two_aurocs() -> None:
    good, bad = table(noise=0.5), table(noise=3, seed=1)
    (result,) = compared({"good": good, "bad": bad})
    truth = good["target"] == "yes"
    values = [reference.roc_auc_score(truth, frame["p_yes"]) for frame in (good, bad)]
    assert (result.value, result.reference_value) == pytest.approx(tuple(values))
    assert result.difference == pytest.approx(values[0] - values[1])
    assert result.method == "delong"
    assert result.p < 0.01
    half = (result.high - result.low) / 2
    assert result.p == pytest.approx(2 * norm.sf(result.difference / half * norm.ppf(0.975)))
    assert (result.bootstrap_low, result.bootstrap_high) == pytest.approx((result.low, result.high), abs=0.03)
    (turned,) = compared({"bad": bad, "good": good})
    assert turned.difference == pytest.approx(-result.difference)
    assert (turned.low, turned.high) == pytest.approx((-result.high, -result.low))
    (clustered,) = compared({"good": table(noise=0.5, per_patient=4), "bad": table(noise=3, seed=1, per_patient=4)})
    assert clustered.method == "clustered delong"


def test_the_rows_may_stand_in_any_order() -> None:
    good, bad = table(noise=0.5), table(noise=3, seed=1)
    (plain,) = compared({"good": good, "bad": bad}, metric="brier")
    (shuffled,) = compared({"good": good, "bad": bad.sample(frac=1, random_state=0)}, metric="brier")
    assert shuffled == plain


def test_the_same_model_differs_by_nothing_and_is_not_tested() -> None:
    (result,) = compared({"a": table(), "b": table()}, margin=0.02)
    assert result.difference == 0
    assert (result.low, result.p, result.not_worse) == (None, None, None)
    assert "variance of the difference is 0" in result.note
    assert result.decisions.p is None


@pytest.mark.parametrize(
    ("metric", "task", "function"),
    [
        ("accuracy", BINARY, lambda t, p: reference.accuracy_score(t, p >= 0.5)),
        ("sensitivity", BINARY, lambda t, p: reference.recall_score(t, p >= 0.5)),
        ("average_precision", BINARY, reference.average_precision_score),
        ("brier", BINARY, reference.brier_score_loss),
        ("log_loss", BINARY, reference.log_loss),
        ("mcc", BINARY, lambda t, p: reference.matthews_corrcoef(t, p >= 0.5)),
    ],
)
def test_other_metrics_are_those_of_scikit_learn(metric: str, task: Task, function) -> None:
    frames = {"a": table(task, noise=0.5), "b": table(task, noise=2, seed=1)}
    (result,) = compared(frames, task, metric, draws=50)
    values = [function(frame["target"] == "yes", frame["p_yes"]) for frame in frames.values()]
    assert (result.value, result.reference_value) == pytest.approx(tuple(values))
    assert result.method == "bootstrap"


def test_grades_and_labels() -> None:
    frames = {"a": table(GRADES, noise=0.5), "b": table(GRADES, noise=4, seed=1)}
    (result,) = compared(frames, GRADES, "kappa")
    kappas = [
        reference.cohen_kappa_score(
            f["target"].astype(int), f[GRADES.p_columns].to_numpy().argmax(1), weights="quadratic"
        )
        for f in frames.values()
    ]
    assert (result.value, result.reference_value) == pytest.approx(tuple(kappas))
    (macro,) = compared(frames, GRADES, "auroc")
    aurocs = reference.roc_auc_score(
        frames["a"]["target"].astype(int), frames["a"][GRADES.p_columns], multi_class="ovr"
    )
    assert macro.value == pytest.approx(aurocs)
    assert macro.method == "bootstrap"
    (one,) = compared(frames, GRADES, "auroc", of="2")
    assert one.method == "delong"
    labels = {"a": table(FINDINGS), "b": table(FINDINGS, seed=1)}
    (macro,) = compared(labels, FINDINGS, "auroc")
    assert macro.decisions is None
    (one,) = compared(labels, FINDINGS, "accuracy", of="effusion")
    assert one.decisions.only_first + one.decisions.only_second > 0


def test_tests_are_those_of_statsmodels() -> None:
    """What statsmodels 0.15.0 gives (mcnemar with exact=True, multipletests by holm, Wilson, weighted kappa)."""
    for only_first, only_second, p in ((6, 16, 0.052478790283203125), (3, 12, 0.03515625)):
        first = np.repeat([True, False, True], [only_first, only_second, 20])
        second = np.repeat([False, True, True], [only_first, only_second, 20])
        assert mcnemar(first, second).p == pytest.approx(p, rel=1e-12)
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2], rel=1e-12)
    interval = binomtest(81, 263).proportion_ci(0.95, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((0.2552885198782742, 0.36620957698280004), rel=1e-12)
    counts = np.array([[20, 5, 1, 0], [4, 15, 6, 1], [0, 3, 12, 7], [1, 0, 2, 9]], dtype=float)
    assert agreement.kappa(counts[None])[0] == pytest.approx(0.7755634638196915, rel=1e-12)


def test_holm_by_hand() -> None:
    # Sorted: 0.005 × 4, 0.01 × 3, 0.03 × 2, 0.04 × 1, made to rise.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, None, 0.6]) == [1.0, None, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_holm_keeps_the_order_and_lies_between_plain_and_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    for a, b in zip(p, corrected, strict=True):
        assert a <= b <= min(1, len(p) * a) + 1e-12
    assert np.argsort(p, kind="stable").tolist() == sorted(range(len(p)), key=lambda i: (corrected[i], p[i]))


def test_every_model_is_held_against_the_last_and_corrected() -> None:
    frames = {"a": table(noise=0.5), "b": table(noise=1, seed=1), "c": table(noise=2, seed=2)}
    found = compared(frames)
    assert [(result.model, result.reference) for result in found] == [("a", "c"), ("b", "c")]
    assert [result.p_holm for result in found] == holm([result.p for result in found])


def test_not_worse_by_the_margin() -> None:
    frames = {"new": table(noise=1.0), "old": table(noise=1.0, seed=1)}
    (wide,), (narrow,) = compared(frames, margin=0.2), compared(frames, margin=0.001)
    assert wide.not_worse
    assert wide.p_not_worse < 0.025
    assert not narrow.not_worse
    assert narrow.p_not_worse > 0.025
    assert (wide.low > -0.2, narrow.low > -0.001) == (True, False)
    # Where less is better, more is the loss.
    for margin in (0.2, 0.001):
        (result,) = compared(frames, metric="brier", margin=margin)
        assert result.not_worse == (result.high < margin)
        assert (result.p_not_worse < 0.025) == result.not_worse


def test_mcnemar_exact_and_clustered() -> None:
    # Only the first is right on 10 rows, only the second on 3.
    first = np.array([True] * 30 + [True] * 10 + [False] * 3 + [False] * 7)
    second = np.array([True] * 30 + [False] * 10 + [True] * 3 + [False] * 7)
    result = mcnemar(first, second)
    assert (result.only_first, result.only_second, result.method) == (10, 3, "exact")
    assert result.p == pytest.approx(binomtest(10, 13).pvalue)
    assert result.p == pytest.approx(0.0923, abs=5e-5)
    # Every row twice: as rows it would look surer, by patient it does not.
    twice = np.repeat(np.arange(50), 2)
    clustered = mcnemar(first[twice], second[twice], twice)
    z = (10 - 3) / np.sqrt(50 / 49 * 13)
    assert clustered.p == pytest.approx(2 * norm.sf(z))
    assert mcnemar(first, first).p is None
    assert mcnemar(np.array([True, True, True]), np.array([False, False, True]), np.array([0, 0, 1])).p is None


def test_folds_are_averaged_and_share_their_patients() -> None:
    def folds(noise: float, seed: int) -> pd.DataFrame:
        frame = table(noise=noise, seed=seed)
        return frame.assign(fold=np.where(np.arange(200) < 100, "0", "1"))

    frames = {"a": folds(0.5, 0), "b": folds(2, 1)}
    (result,) = compared(frames)
    own = [reference.roc_auc_score(part["target"] == "yes", part["p_yes"]) for _, part in frames["a"].groupby("fold")]
    assert result.value == pytest.approx(np.mean(own))
    assert result.method == "bootstrap"
    # A repeated cross-validation: the same samples in both folds do not count twice.
    once = table(noise=0.5), table(noise=2, seed=1)
    repeated = {
        name: pd.concat([frame.assign(fold="0"), frame.assign(fold="1")], ignore_index=True)
        for name, frame in zip("ab", once, strict=True)
    }
    (result,) = compared(repeated)
    (single,) = compared(dict(zip("ab", once, strict=True)))
    assert result.difference == pytest.approx(single.difference)
    width = result.high - result.low
    assert width == pytest.approx(single.bootstrap_high - single.bootstrap_low, rel=0.15)


def test_thresholds_are_each_models_own_from_its_validation_rows() -> None:
    frames = {}
    for name, noise in (("a", 0.5), ("b", 2)):
        frames[name] = pd.concat([table(noise=noise), table(noise=noise, seed=7, split="val")], ignore_index=True)
    paired = pair(list(frames.items()), BINARY, split=None, level="row", rule=parse_rule("youden"))
    points = [model.points_of("")[0].threshold for model in paired.models]
    assert points[0] != points[1]
    (result,) = compared(frames, metric="specificity", rule="youden")
    negatives = frames["a"][(frames["a"]["split"] == "test") & (frames["a"]["target"] == "no")]
    assert result.value == pytest.approx((negatives["p_yes"] < points[0]).mean())
    with pytest.raises(InputError, match="would be chosen"):
        compared({"a": table(), "b": table(seed=1)}, metric="specificity", rule="youden")
    with pytest.raises(InputError, match="that is compared"):
        pair(list(frames.items()), BINARY, split="val", level="row", rule=parse_rule("youden"))


def test_different_samples_are_refused_or_left_out_loudly() -> None:
    whole, part = table(), table(seed=1)[:150]
    with pytest.raises(InputError, match=r"50 of 200 in a, 0 of 150 in b are not in all tables, such as id 's150'"):
        compared({"a": whole, "b": part})
    paired = pair([("a", whole), ("b", part)], BINARY, split=None, level="row", rule=parse_rule("0.5"), common=True)
    assert len(paired.models[0].frame) == 150
    assert paired.notes[0].startswith("left out: 50 of 200 in a")
    other = part.assign(id="x" + part["id"])
    with pytest.raises(InputError, match="no sample in common"):
        compared({"a": whole, "b": other}, common=True)
    flipped = table(seed=1)
    flipped.loc[3, "target"] = "no" if flipped.loc[3, "target"] == "yes" else "yes"
    with pytest.raises(InputError, match="a and b do not agree about 'target' of 1 samples, such as 's3'"):
        compared({"a": whole, "b": flipped})
    with pytest.raises(InputError, match="do not agree about 'patient'"):
        compared({"a": whole, "b": table(seed=1, per_patient=2).assign(target=whole["target"])})
    with pytest.raises(InputError, match=r"no split is in all tables: .* there is test; val"):
        compared({"a": whole, "b": part.assign(split="val")})


def test_what_a_task_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="for binary there are auroc"):
        wanted_key(Asked("kappa"), BINARY)
    with pytest.raises(InputError, match="for regression there are mae"):
        wanted_key(Asked("auroc"), Task.of("regression"))
    with pytest.raises(InputError, match="class 'x': there are yes"):
        wanted_key(Asked("auroc", "x"), BINARY)
    with pytest.raises(InputError, match="leave the class out"):
        wanted_key(Asked("kappa", "1"), GRADES)
    one_class = table()[lambda f: f["target"] == "yes"]
    (result,) = compared({"a": one_class, "b": one_class})
    assert result.difference is None
    assert "undefined" in result.note


def test_names_that_tell_files_apart() -> None:
    assert short_names(["runs/a/predictions.csv", "runs/b/predictions.csv"]) == ["a", "b"]
    assert short_names(["x/a.csv", "y/b.csv"]) == ["a", "b"]
    assert short_names(["x/a/p.csv", "y/a/p.csv", "y/b/p.csv"]) == ["x/a", "y/a", "y/b"]
    with pytest.raises(InputError, match="named twice"):
        short_names(["a.csv", "a.csv"])


def test_the_command(medsoft) -> None:
    write_predictions(table(noise=0.5), "good/predictions.csv")
    write_predictions(table(noise=1, seed=1), "fair/predictions.csv")
    write_predictions(table(noise=3, seed=2), "bad/predictions.csv")
    files = [f"{name}/predictions.csv" for name in ("good", "fair", "bad")]
    words = ("compare", *files, "--metric", "auroc", "--margin", "0.02", "--draws", "100")
    code, out, err = medsoft(*words)
    assert code == 0, err
    assert "good − bad: " in out
    assert "by Holm" in out
    assert "non-inferior (margin 0.02): shown" in out
    assert "McNemar (exact)" in out
    assert "every sample is taken as independent" in out
    code, out, err = medsoft(*words, "--out", "cmp")
    assert code == 0, err
    values = json.loads(Path("cmp/comparison.json").read_text(), parse_constant=pytest.fail)
    rows = pd.read_csv("cmp/comparison.csv")
    assert [c["model"] for c in values["comparisons"]] == rows["model"].tolist() == ["good", "fair"]
    assert rows["low"].tolist() == pytest.approx([c["low"] for c in values["comparisons"]])
    assert Path("cmp/comparison.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.csv"], "two or more predictions tables"),
        (["a.csv", "b.csv", "--metric", "accuracy2"], "for binary there are"),
        (["a.csv", "b.csv", "--margin", "-1"], "margin -1"),
        (["a.csv", "b.csv", "--by", "eye"], "one of row, exam, patient"),
        (["a.csv", "grades.csv"], "have different tasks or classes"),
        (["a.csv", "b.csv", "--split", "val"], "name the split"),
        (["a.csv", "b.csv", "--threshold", "best"], "no rule"),
        (["a.csv", "no.csv"], "No such file"),
    ],
)
def test_wrong_calls(medsoft, words: list[str], message: str) -> None:
    write_predictions(table(), "a.csv")
    write_predictions(table(seed=1), "b.csv")
    write_predictions(table(GRADES), "grades.csv")
    code, _, err = medsoft("compare", *words)
    assert code == 2
    assert message in err


def test_regression_is_compared_too(medsoft) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"id": range(80), "target": rng.normal(size=80)})
    for name, noise in (("a", 0.3), ("b", 1)):
        frame.assign(prediction=frame["target"] + noise * rng.normal(size=80)).to_csv(f"{name}.csv", index=False)
    code, out, err = medsoft("compare", "a.csv", "b.csv", "--margin", "0.1", "--draws", "100")
    assert code == 0, err
    assert out.startswith("mae, "), "the metric that the task is judged by"
    assert "non-inferior (margin 0.1): shown" in out
    assert "McNemar" not in out


def test_a_variance_of_rounding_size_is_zero_and_gives_no_p() -> None:
    """Six rows: placements that differ by the same in every row of a class leave 1e-17 of variance, or less than 0."""
    truth = np.array([1, 1, 1, 0, 0, 0])
    scores = {"a": [0.8, 0.5, 0.8, 0.8, 0.8, 0.3], "b": [0.5, 0.1, 0.5, 0.6, 0.7, 0.3]}
    frames = {
        name: make_predictions(BINARY, list("uvwxyz"), [[1 - p, p] for p in ps], truth, split="test")
        for name, ps in scores.items()
    }
    (result,) = compared(frames, margin=0.02)
    assert result.difference == pytest.approx(1 / 3)
    assert (result.p, result.low, result.not_worse, result.method) == (None, None, None, "")
    assert "the variance of the difference is 0 but for rounding" in result.note
    # A single pair in other order is no rounding, of however many rows.
    rng = np.random.default_rng(0)
    truth = np.arange(4000) % 2
    p = rng.random(4000).round(6)
    order = np.sort(p)
    pair_ = [np.flatnonzero(p == value)[0] for value in order]
    at = next(i for i in range(len(order) - 1) if truth[pair_[i]] != truth[pair_[i + 1]])
    swapped = p.copy()
    swapped[[pair_[at], pair_[at + 1]]] = p[[pair_[at + 1], pair_[at]]]
    ids = [str(i) for i in range(4000)]
    near = {n: make_predictions(BINARY, ids, np.stack([1 - q, q], 1), truth) for n, q in (("a", p), ("b", swapped))}
    (result,) = compared(near, draws=20)
    assert result.p is not None


def test_of_several_models_holm_decides_what_is_shown() -> None:
    """Five models that are worse by just the margin: by intervals one in eight studies would show one of them."""
    rng = np.random.default_rng(0)
    level = 0.025
    wrong_by_interval = wrong = 0
    studies = 1000
    for _ in range(studies):
        z = rng.normal(size=5)
        given = [
            Difference(f"m{k}", "r", "auroc", 0.8, 0.85, -0.05, low=-0.05 + 0.01 * (v - norm.ppf(1 - level)),
                       high=0.1, margin=0.05, not_worse=bool(v > norm.ppf(1 - level)), p_not_worse=float(norm.sf(v)))
            for k, v in enumerate(z)
        ]  # fmt: skip
        wrong_by_interval += any(result.not_worse for result in given)
        wrong += any(result.not_worse for result in with_holm(given, 0.95))
    assert wrong_by_interval / studies > 0.10
    assert wrong / studies < 0.05
    (alone,) = with_holm(given[:1], 0.95)
    assert alone.not_worse == given[0].not_worse


def test_compare_says_what_decides_and_warns_of_few_patients(medsoft) -> None:
    for k, name in enumerate(("a", "b", "c")):
        frame = table(noise=1, seed=k)
        frame = pd.concat([frame[frame["target"] == "no"], frame[frame["target"] == "yes"][:4]])
        write_predictions(frame, f"runs/{name}/2026-01-0{k + 1}_10-00-00/predictions.csv")
    folders = sorted(Path("runs").glob("*/*"))
    code, out, err = medsoft("compare", *folders, "--margin", "0.9", "--draws", "50", "--out", "cmp")
    assert code == 0, err
    assert "a/2026-01-01_10-00-00 − c/2026-01-03_10-00-00: " in out
    assert "non-inferior (margin 0.9): shown" in out
    assert "by Holm over 2 models" in out
    assert "which decides" in out
    assert "few rows: 4 of 'yes'" in out
    assert any("few rows" in note for note in json.loads(Path("cmp/comparison.json").read_text())["notes"])
    code, out, _ = medsoft("compare", *folders[1:], "--margin", "0.9", "--draws", "50")
    assert code == 0
    assert "Holm" not in out


def test_runs_are_named_by_their_folders(tmp_path: Path) -> None:
    for name in ("runs/a", "runs/b.v2", "other/a"):
        (tmp_path / name).mkdir(parents=True)
    assert short_names(["runs/a", "runs/b.v2"]) == ["a", "b.v2"]
    assert short_names(["runs/a", "runs/b.v2/predictions.csv"]) == ["a", "b.v2"]
    assert short_names(["x.csv", "runs/a/predictions.csv"]) == ["x", "a"]
    assert short_names(["runs/a", "other/a", "x.csv"]) == ["runs/a", "other/a", f"{tmp_path.name}/x"]
    assert short_names(["runs/a/predictions.csv", "runs/a/predictions_exams.csv"]) == [
        "predictions",
        "predictions_exams",
    ]

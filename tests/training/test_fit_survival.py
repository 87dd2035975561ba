"""Survival on the command line: trained, crossed, predicted, exported and explained, with known hazards throughout."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.runs.crossval_folder import CrossvalFolder
from medsoft.task import Task
from tests.builders.forked import two_ranks
from tests.builders.survival import plain_concordance, write_survival

QUIET = ["--figures=false", "--shortcuts=false", "--report=false", "--trainer.accelerator=cpu"]
SURVIVAL = ["--data.task=survival", "--data.time=days", "--data.event=dead", "--data.patient=patient"]


def words(table: Path, instances: Path, *more: str, unit: str = "days") -> list[str]:
    of_data = [f"--data.table={table}", f"--data.features={instances}", f"--data.time_unit={unit}", *SURVIVAL]
    return [*QUIET, *of_data, *more]


BAGS = ["--config=bags", "--model.aggregator=mean", "--model.aggregator_args={dim: null}", "--model.lr=0.1"]
BAGS += ["--trainer.max_epochs=5", "--model.warmup_epochs=0"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> tuple[Path, Path]:
    return write_survival(tmp_path_factory.mktemp("cohort"), 160)


@pytest.fixture(scope="module")
def run(tmp_path_factory, cohort) -> Path:
    """Cox with steps of 16 bags."""
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("fit") / "run"
    assert main(["fit", *words(*cohort, *BAGS, "--trainer.accumulate_grad_batches=16", f"--out={out}")]) == 0
    return out


def predictions(folder: Path) -> tuple[pd.DataFrame, Task]:
    return read_predictions(folder / "predictions.csv")


def concordances(frame: pd.DataFrame, table: Path) -> tuple[float, float]:
    """Of the predicted risk, and of the hazard that made the times."""
    hazard = pd.read_csv(table).set_index("path")["hazard"].loc[frame["id"]].to_numpy()
    targets = frame[["time", "event"]].to_numpy(float)
    return plain_concordance(frame["risk"].to_numpy(), targets), plain_concordance(hazard, targets)


def test_a_trained_model_ranks_as_the_known_hazard_does(run, cohort):
    frame, task = predictions(run)
    found, oracle = concordances(frame, cohort[0])
    assert oracle > 0.7
    assert found > oracle - 0.05
    hazard = pd.read_csv(cohort[0]).set_index("path")["hazard"].loc[frame["id"]]
    assert np.corrcoef(frame["risk"], hazard)[0, 1] > 0.9
    for column in task.p_columns[1:]:
        assert np.corrcoef(frame[column], hazard)[0, 1] < -0.7, "who has the higher risk survives less often"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["overall"]["c_index"] > 0.6
    epochs = pd.read_csv(run / "metrics.csv")
    assert {"val_c_index", "val_loss", "train_loss"} <= set(epochs)


def test_the_run_can_be_repeated_from_its_configuration_and_times_are_those_of_training_events(run, cohort):
    config = yaml.safe_load((run / "config.yaml").read_text())["data"]
    split = pd.read_csv(run / "split.csv").set_index("id")["split"]
    table = pd.read_csv(cohort[0])
    train = table[table["path"].map(split) == "train"]
    quartiles = np.quantile(train.loc[train["dead"] == 1, "days"], [0.25, 0.5, 0.75], method="inverted_cdf")
    np.testing.assert_allclose(config["times"], quartiles, rtol=5e-3)
    assert (config["time"], config["event"], config["time_unit"]) == ("days", "dead", "days")
    assert predictions(run)[1].p_columns == ["risk", *(f"s_{time:.10g}" for time in config["times"])]


def test_the_checkpoint_keeps_the_baseline_hazard_of_its_own_weights(run, cohort):
    from medsoft.classifiers.slide import load_slide_classifier
    from medsoft.ops.survival import breslow

    known = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["medsoft"]
    assert known["task"]["unit"] == "days"
    loaded = load_slide_classifier(run)
    instances = pd.read_csv(cohort[1]).groupby("bag")
    split = pd.read_csv(run / "split.csv").set_index("id")["split"]
    table = pd.read_csv(cohort[0]).set_index("path").loc[split.index[split == "train"]]
    rows = [torch.tensor(instances.get_group(name)[["a", "b", "c"]].to_numpy(np.float32)) for name in table.index]
    with torch.no_grad():
        risk = torch.cat([loaded.model(row[None]) for row in rows])[:, 0]
    centre = known["hazards"]["centre"]
    assert centre == pytest.approx(float(risk.mean()), abs=1e-4)
    times, hazard = breslow(
        risk - centre, torch.tensor(table["days"].to_numpy()), torch.tensor(table["dead"].to_numpy())
    )
    np.testing.assert_allclose(known["hazards"]["baseline"], [times.tolist(), hazard.tolist()], rtol=1e-4)


def test_censoring_of_the_training_part_is_kept_and_used_wherever_the_model_is_evaluated(medsoft, run, cohort):
    from medsoft.classifiers.slide import load_slide_classifier
    from medsoft.evaluation.survival.basis import Censoring, Outcomes

    split = pd.read_csv(run / "split.csv").set_index("id")["split"]
    rows = pd.read_csv(cohort[0]).set_index("path").loc[split.index[split == "train"]]
    known = Censoring.of(Outcomes(rows["days"].to_numpy(), rows["dead"].to_numpy() == 1))
    kept = load_slide_classifier(run).model.kept["censoring"]
    for name, values in known.to_json().items():
        np.testing.assert_allclose(kept[name], values, rtol=1e-6)
    # The training part's own rows say the same, where they are in the table.
    options = [f"--data.table={cohort[0]}", f"--data.features={cohort[1]}", "--out=all", *QUIET]
    assert medsoft("predict", f"--checkpoint={run}", *options)[0] == 0
    for folder, out in ((run, "of_run"), (Path("all"), "of_all")):
        assert medsoft("evaluate", str(folder), f"--out={out}", "--draws=20", "--figures=false", "--by=row")[0] == 0
    of_run, of_all = (json.loads(Path(out, "evaluation.json").read_text())["parts"] for out in ("of_run", "of_all"))
    test = [next(part for part in parts if part["split"] == "test") for parts in (of_run, of_all)]
    uno = [next(e["value"] for e in part["estimates"] if e["metric"] == "uno_c") for part in test]
    assert uno[0] == pytest.approx(uno[1], abs=1e-6)
    assert "kept with the model" in json.dumps(test[0]["notes"])
    assert "estimated on the training part;" in json.dumps(test[1]["notes"])


def test_a_table_without_times_is_predicted_as_in_the_training(medsoft, run, cohort, tmp_path):
    table = tmp_path / "new.csv"
    pd.read_csv(cohort[0])[["path"]].to_csv(table, index=False)
    options = [f"--data.table={table}", f"--data.features={cohort[1]}", "--out=new", *QUIET]
    assert medsoft("predict", f"--checkpoint={run}", *options)[0] == 0
    frame, task = predictions(Path("new"))
    before, asked = predictions(run)
    assert task == asked
    assert frame["time"].isna().all()
    again = frame.set_index("id").loc[before["id"], task.p_columns]
    np.testing.assert_allclose(again, before[task.p_columns], atol=1e-5)


@pytest.mark.long
def test_the_risk_set_is_that_of_all_processes(medsoft, tmp_path):
    """Two processes that each accumulate 4 bags learn what one learns that accumulates 8."""
    words_of = words(*write_survival(tmp_path / "cohort", 60), *BAGS, "--trainer.max_epochs=2")
    one, two = tmp_path / "one", tmp_path / "two"
    assert medsoft("fit", *words_of, "--trainer.accumulate_grad_batches=8", f"--out={one}")[0] == 0
    more = ["--trainer.accumulate_grad_batches=4", "--trainer.devices=2", f"--out={two}"]
    assert [rank.wait() for rank in two_ranks("fit", *words_of, *more)] == [0, 0]
    frames = [pd.read_csv(run / "predictions.csv") for run in (one, two)]
    pd.testing.assert_frame_equal(*frames, rtol=0, atol=1e-5)
    # Not the centre: a constant in the risk has no gradient but rounding, and the baseline hazard takes it up.
    kept = [
        torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["medsoft"]["hazards"] for run in (one, two)
    ]
    np.testing.assert_allclose(kept[1]["baseline"], kept[0]["baseline"], rtol=1e-4)


@pytest.mark.parametrize("head", ["discrete", "logistic"])
def test_heads_of_intervals_are_trained_alike(medsoft, cohort, head):
    options = [f"--model.survival={head}", "--model.intervals=4", "--data.times=100,400", "--out=run"]
    assert medsoft("fit", *words(*cohort, *BAGS, *options))[0] == 0
    frame, task = predictions(Path("run"))
    assert task.p_columns == ["risk", "s_100", "s_400"]
    found, oracle = concordances(frame, cohort[0])
    assert found > oracle - 0.08
    assert (frame["s_100"] >= frame["s_400"]).all()


def test_times_of_two_units_are_warned_of_before_the_training(medsoft, cohort, tmp_path):
    frame = pd.read_csv(cohort[0])
    frame["days"] = np.random.default_rng(0).uniform(300, 900, len(frame))
    frame["days"] = frame["days"].where(np.arange(len(frame)) % 3 > 0, frame["days"] / 30.4).round(2)
    frame.to_csv(tmp_path / "table.csv", index=False)
    options = ["--config=probe", "--model.C=1", f"--out={tmp_path / 'run'}"]
    code, said, err = medsoft("fit", *words(tmp_path / "table.csv", cohort[1], *options))
    assert code == 0, err
    assert "are some in other units, such as days and months? All must be in days" in said + err


def test_a_patient_of_two_splits_is_one_message_here_too(medsoft, cohort, tmp_path):
    frame = pd.read_csv(cohort[0])
    frame["split"] = np.where(np.arange(len(frame)) % 4 == 0, "val", "train")
    frame.loc[1, "patient"] = frame.loc[0, "patient"]
    frame.to_csv(tmp_path / "table.csv", index=False)
    code, _, err = medsoft("fit", *words(tmp_path / "table.csv", cohort[1], *BAGS, f"--out={tmp_path / 'run'}"))
    assert code == 2
    assert "patient in two splits" in err
    assert not (tmp_path / "run").exists()


def test_folds_share_their_times_and_make_an_ensemble(medsoft, cohort):
    options = ["--folds=2", "--out=cv", "--trainer.accumulate_grad_batches=16"]
    assert medsoft("crossval", *words(*cohort, *BAGS, *options))[0] == 0
    frame, _ = predictions(Path("cv"))
    assert len(frame) == 160
    found, oracle = concordances(frame, cohort[0])
    assert found > oracle - 0.05
    options = [f"--data.table={cohort[0]}", f"--data.features={cohort[1]}", "--out=mean", *QUIET]
    code, _, error = medsoft("predict", "--checkpoint=cv", *options)
    assert code == 0, error
    mean, task = predictions(Path("mean"))
    one = f"--checkpoint={CrossvalFolder(Path('cv')).run(0).path}"
    assert medsoft("predict", one, *options, "--out=one")[0] == 0
    first = predictions(Path("one"))[0].set_index("id").loc[mean["id"], task.p_columns].to_numpy()
    spread = mean[[f"spread_{name}" for name in task.p_columns]].to_numpy(float)
    np.testing.assert_allclose(np.abs(mean[task.p_columns].to_numpy() - first), spread / np.sqrt(2), atol=1e-6)
    assert spread.max() > 1e-3


def test_a_bundle_answers_as_its_run_and_so_does_its_network(medsoft, run, cohort):
    assert medsoft("export", run, "--out=bundle", "--format=torch-export")[0] == 0
    about = json.loads(Path("bundle/bundle.json").read_text())
    assert about["model"]["hazards"]["head"] == "cox"
    options = [f"--data.table={cohort[0]}", f"--data.features={cohort[1]}", "--out=again", *QUIET]
    assert medsoft("predict", "--bundle=bundle", *options)[0] == 0
    frame, task = predictions(Path("again"))
    before, _ = predictions(run)
    again = frame.set_index("id").loc[before["id"], task.p_columns]
    np.testing.assert_allclose(again, before[task.p_columns], atol=1e-5)


def test_covariates_alone_are_the_cox_regression_of_scikit_survival(medsoft, cohort):
    linear = pytest.importorskip("sksurv.linear_model", reason="scikit-survival is not installed")
    table, instances = cohort
    assert medsoft("fit", "--config=probe", *words(table, instances, "--model.C=.inf", "--out=probe"))[0] == 0
    split = pd.read_csv("probe/split.csv").set_index("id")["split"]
    x = pd.read_csv(instances).groupby("bag")[["a", "b", "c"]].mean()
    rows = pd.read_csv(table).set_index("path")[["days", "dead"]].join(x)
    train = rows[rows.index.map(split) == "train"]
    outcome = np.array(list(zip(train["dead"] == 1, train["days"], strict=True)), dtype=[("e", bool), ("t", float)])
    known = linear.CoxPHSurvivalAnalysis(ties="efron", tol=1e-12).fit(train[["a", "b", "c"]].to_numpy(), outcome)
    frame, task = predictions(Path("probe"))
    own = rows.loc[frame["id"], ["a", "b", "c"]].to_numpy()
    mean = train[["a", "b", "c"]].to_numpy().mean(axis=0)
    np.testing.assert_allclose(frame["risk"], (own - mean) @ known.coef_, atol=1e-4)
    survival = np.stack([step(task.to_json()["times"]) for step in known.predict_survival_function(own)])
    np.testing.assert_allclose(frame[task.p_columns[1:]], survival, atol=1e-4)


def test_a_probe_of_neighbours_has_no_risk(medsoft, cohort):
    code, _, error = medsoft("fit", "--config=probe", *words(*cohort, "--model.head=knn", "--out=probe"))
    assert code == 2
    assert "model.head knn has no risk of survival" in error


def test_what_a_survival_task_cannot_have_is_said_before_training(medsoft, cohort, tmp_path):
    table = pd.read_csv(cohort[0])
    for change, said in (
        ({"dead": 0}, "no event in the table"),
        ({"dead": 2}, "competing risks are not modelled"),
        ({"days": -1}, "the time is negative"),
    ):
        table.assign(**change).to_csv(tmp_path / "bad.csv", index=False)
        code, _, error = medsoft("fit", *words(tmp_path / "bad.csv", cohort[1], *BAGS, "--out=bad"))
        assert code == 2
        assert said in error
    code, _, error = medsoft("fit", *words(*cohort, *BAGS, "--data.balanced_sampling=true", "--out=bad"))
    assert code == 2
    assert "a survival task has no classes to balance" in error
    code, _, error = medsoft("fit", *words(*cohort, *BAGS, "--trainer.accumulate_grad_batches=1", "--out=bad"))
    assert code == 2
    assert "compares the samples of a step with each other, and a step is a single one" in error
    assert not Path("bad").exists()


def test_plan_and_auto_refuse_bags_before_they_look_at_files(medsoft, cohort):
    for verb in ("plan", "auto"):
        given = [word for word in words(*cohort, "--config=bags") if not word.startswith("--figures")]
        code, _, error = medsoft(verb, *given, *(["--out=auto"] if verb == "auto" else []))
        assert code == 2, error
        assert "plan and auto are for images and volumes; of slides and other bags" in error

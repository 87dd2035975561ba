"""Training on two processes: each sample once, the numbers of one process, one writer, and a stop that all agree on."""

import json
import os
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities import rank_zero_only

from medsoft.data.datasets.sampling import BucketBatchSampler, EpochBatchSampler, rows_of_process
from medsoft.errors import InputError
from medsoft.system.signals import Stopped
from medsoft.training.callbacks import SeedEachStep, StopGracefully
from medsoft.training.distributed import RUN, Processes
from medsoft.training.silence_warnings import silence_warnings
from medsoft.training.slurm import requeue, stopped_by_sigusr1
from tests.builders.forked import two_ranks
from tests.builders.images import TINY, without_progress
from tests.builders.waiting import wait_until

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _first_again():
    """Lightning keeps the rank that a test has pretended, and would write nothing in the tests that follow."""
    yield
    rank_zero_only.rank = 0


sizes = st.tuples(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5))


@given(sizes, st.booleans())
def test_each_sample_is_learnt_from_once_an_epoch_and_counts_the_same(size, bucket):
    n, batch_size, processes = size
    samplers = []
    for rank in range(processes):
        lengths = np.arange(n) % 7 + 1
        sampler = BucketBatchSampler(lengths, batch_size, 0) if bucket else EpochBatchSampler(n, batch_size, 0)
        sampler.divide(rank, processes)
        sampler.set_epoch(2)
        samplers.append(sampler)
    steps = [list(sampler) for sampler in samplers]
    assert len({len(own) for own in steps}) == 1, "all step together"
    seen = []
    for step, parts in enumerate(zip(*steps, strict=True)):
        assert all(1 <= len(part) <= batch_size for part in parts)
        shares = [sampler.share(2, step) for sampler in samplers]
        counted = [part for part, share in zip(parts, shares, strict=True) if share]
        together = [key.sample for part in counted for key in part]
        seen += together
        # The mean over the processes of share times mean is the mean over the batch.
        values = [share * np.mean([key.sample for key in part]) for part, share in zip(parts, shares, strict=True)]
        assert np.mean(values) == pytest.approx(np.mean(together))
    assert sorted(seen) == list(range(n))


def test_one_process_steps_as_it_always_did():
    alone = EpochBatchSampler(21, 8, seed=0)
    assert [len(batch) for batch in alone] == [7, 7, 7]
    assert {alone.share(0, step) for step in range(3)} == {1.0}


@given(sizes)
def test_each_row_is_predicted_in_the_batch_of_a_single_process(size):
    n, batch_size, processes = size
    alone = {tuple(rows) for rows in np.split(np.arange(n), range(batch_size, n, batch_size))}
    batches = []
    for rank in range(processes):
        rows = rows_of_process(n, batch_size, rank, processes)
        batches.append([tuple(part) for part in np.split(rows, range(batch_size, len(rows), batch_size))])
    assert len({len(own) for own in batches}) == 1, "none waits for another"
    assert {rows for own in batches for rows in own} == alone


def command(*words: object, main: str = "medsoft") -> list[str]:
    return [sys.executable, "-m", main, *map(str, words)]


def environment(**further: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **further}


def words_for(table: Path, out: Path, *further: str) -> list[str]:
    labels = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient"]
    tuned = ["--model.freeze_epochs=1", "--model.layer_decay=0.8", "--ema_decay=0.9"]
    return ["fit", *labels, *TINY, *tuned, "--trainer.max_epochs=2", f"--out={out}", *further]


def state(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def two(tmp_path_factory, table) -> Path:
    """A run of two processes with 4 samples a step each, and what it said."""
    out = tmp_path_factory.mktemp("two") / "run"
    words = words_for(table, out, "--data.batch_size=4", "--trainer.devices=2")
    done = subprocess.run(command(*words), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert without_progress(done.stderr) == ""
    assert [done.stdout.count(word) for word in ("Run: ", "Results: ", "epoch 2/2")] == [1, 1, 1]
    return out


def test_two_processes_learn_what_one_learns(tmp_path, table, medsoft, two):
    """28 training samples: global batches of 7, which two processes cannot share evenly."""
    one = tmp_path / "one"
    assert medsoft(*words_for(table, one, "--data.batch_size=8"))[0] == 0
    theirs = state(two)
    # What the sequence normalisation subtracts has no gradient but rounding, which AdamW blows up.
    free = ("norm1.bias", "qkv_norm.bias")
    mine = {name: value for name, value in state(one).items() if not name.endswith(free)}
    assert all(torch.allclose(value, theirs[name], atol=1e-5) for name, value in mine.items())
    tables = [pd.read_csv(run / "metrics.csv").drop(columns="seconds") for run in (one, two)]
    assert tables[1]["step"].tolist() == [4, 8]
    pd.testing.assert_frame_equal(*tables, atol=1e-5)
    frames = [pd.read_csv(run / "predictions.csv") for run in (one, two)]
    pd.testing.assert_frame_equal(*frames, atol=1e-4)
    scores = [json.loads((run / "metrics.json").read_text()) for run in (one, two)]
    assert [part["n"] for part in scores[1].values()] == [part["n"] for part in scores[0].values()]
    assert sorted(path.name for path in two.rglob("*") if "tfevents" not in path.name) == sorted(
        path.name for path in one.rglob("*") if "tfevents" not in path.name
    )
    assert len(list((two / "tensorboard").glob("*tfevents*"))) == 1


@pytest.fixture
def scontrol(tmp_path, monkeypatch) -> Path:
    """A stub; gives the file in which it notes its calls."""
    notes, file = tmp_path / "requeued", tmp_path / "bin" / "scontrol"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\n[ "$2" = 13 ] && echo "scontrol: refused" >&2 && exit 1\necho "$@" >>{notes}\n')
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{file.parent}:{os.environ['PATH']}")
    return notes


def test_a_job_of_two_processes_that_must_make_room_is_requeued_and_goes_on(tmp_path, table, two, scontrol, medsoft):
    """The signal reaches the first process alone, in the middle of an epoch; both stop after the same step."""
    out = tmp_path / "run"
    words = words_for(table, out, "--data.batch_size=4", "--trainer.devices=2")
    first, second = two_ranks(*words, before=partial(wait_in_the_second_epoch, out), environment=SLURM_JOB)
    wait_until(Path(f"{out}.ready").exists, first)
    first.send_signal(signal.SIGUSR1)
    Path(f"{out}.go").touch()
    _, err = first.communicate()
    assert [first.returncode, second.wait()] == [128 + signal.SIGUSR1, 0], err  # the first speaks for both
    assert "Job 77 is requeued." in err
    assert "Traceback" not in err
    assert scontrol.read_text() == "requeue 77\n"
    position = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["ImageDataModule"]
    assert position == {"epoch": 1, "batch": 2, "processes": 2}

    code, _, err = medsoft("fit", "--resume", out, "--trainer.devices=1")
    assert code == 2
    assert "has trained on 2 process(es), not 1" in err
    assert [rank.wait() for rank in two_ranks("fit", "--resume", out)] == [0, 0]
    theirs = state(two)
    assert all(torch.equal(value, theirs[name]) for name, value in state(out).items())
    losses = [pd.read_csv(run / "metrics.csv")["train_loss"] for run in (out, two)]
    assert losses[0].tolist() == pytest.approx(losses[1].tolist(), rel=1e-6)
    assert (out / "predictions.csv").read_bytes() == (two / "predictions.csv").read_bytes()


SLURM_JOB = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "bash"}


def wait_in_the_second_epoch(out: Path) -> None:
    """Each process waits at a step for the test to have sent its signal."""
    seed = SeedEachStep.on_train_batch_start

    def wait(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 1):
            if trainer.is_global_zero:
                Path(f"{out}.ready").touch()
            wait_until(Path(f"{out}.go").exists)
        seed(self, trainer, pl_module, batch, batch_idx)

    SeedEachStep.on_train_batch_start = wait


def test_a_signal_that_comes_while_the_processes_agree_is_kept_for_the_next_time(tmp_path, capsys):
    """All have said no by then: it must not be forgotten, nor stop this process alone."""
    stop = StopGracefully(tmp_path / "last.ckpt")
    meanwhile = [lambda: stop._ask(signal.SIGUSR1), lambda: None]

    def reduce(own, reduce_op):
        meanwhile.pop(0)()
        return own

    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=reduce)
    trainer = SimpleNamespace(world_size=2, strategy=strategy)
    assert stop._agree(trainer) is None
    assert stop._agree(trainer) == signal.SIGUSR1
    assert capsys.readouterr().err.count("Stopping after this step") == 1


def test_predictions_of_two_processes_are_those_of_one(tmp_path, table, two, medsoft):
    words = ["predict", "--checkpoint", two, f"--data.table={table}", "--data.batch_size=6", "--figures=false"]
    assert medsoft(*words, "--trainer.devices=1", "--out", tmp_path / "one")[0] == 0
    assert [rank.wait() for rank in two_ranks(*words, "--out", tmp_path / "both")] == [0, 0]
    one, both = ((tmp_path / name / "predictions.csv").read_bytes() for name in ("one", "both"))
    assert one == both
    assert len(pd.read_csv(tmp_path / "both" / "predictions.csv")) == 40


def test_processes_that_others_started_must_be_told_the_folder(table, medsoft, monkeypatch):
    """As with srun and torchrun: no process starts the other."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    words = [word for word in words_for(table, "", "--trainer.devices=2") if not word.startswith("--out")]
    code, _, err = medsoft(*words)
    assert code == 2
    assert "--out is missing: several processes were started" in err


def srun(monkeypatch, tasks: int, nodes: int, rank: int = 0) -> None:
    """The variables of a step of SLURM, and of its job."""
    values = {
        "JOB_ID": 77, "JOB_NAME": "eyes", "STEP_ID": 0, "STEP_NUM_TASKS": tasks, "STEP_NUM_NODES": nodes,
        "NTASKS": tasks, "NTASKS_PER_NODE": tasks // nodes, "NNODES": nodes, "PROCID": rank,
        "LOCALID": rank % (tasks // nodes), "NODEID": rank // (tasks // nodes),
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))


@pytest.mark.parametrize(
    ("tasks", "nodes", "devices", "num_nodes"), [(2, 1, 1, 1), (2, 1, 3, 1), (2, 2, 2, 1), (4, 2, 2, 1), (1, 1, 2, 2)]
)
def test_other_processes_than_srun_has_started_are_refused(monkeypatch, tasks, nodes, devices, num_nodes):
    """Two that each take themselves for the only one would train twice into one folder."""
    options = {"accelerator": "cpu", "strategy": "auto", "devices": devices, "num_nodes": num_nodes, "plugins": None}
    srun(monkeypatch, tasks, nodes)
    said = rf"srun has started {tasks} .* on {nodes} .*--nodes={num_nodes} --ntasks-per-node={devices}"
    with pytest.raises(InputError, match=said):
        Processes.of(options)


def test_srun_that_was_told_a_number_of_tasks_alone_is_refused_in_one_line(monkeypatch, table, medsoft):
    srun(monkeypatch, tasks=2, nodes=1)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    words = words_for(table, "run", "--trainer.devices=2")
    code, _, err = medsoft(*words)
    assert code == 2
    assert err == (
        "medsoft: error: srun was told a number of tasks alone (-n, --ntasks): give it --ntasks-per-node instead\n"
    )
    assert not Path("run").exists()


@pytest.mark.parametrize("interactive", [True, False])
def test_in_a_job_without_srun_medsoft_starts_its_processes_itself(monkeypatch, tmp_path, interactive):
    """In the shell of salloc, and in a job's script, whose variables look as if another process were to come."""
    options = {"accelerator": "cpu", "strategy": "auto", "devices": 2, "num_nodes": 1, "plugins": None}
    values = {"JOB_ID": 77, "JOB_NAME": "interactive", "NNODES": 1, "NTASKS": 2}
    if not interactive:
        values |= {"JOB_NAME": "eyes", "NTASKS_PER_NODE": 2, "PROCID": 0, "NODEID": 0, "LOCALID": 0}
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert Processes.of({**options, "devices": 1}) == Processes()
    assert Processes.of(options) == Processes(0, 2, started_outside=False)
    with pytest.raises(InputError, match=r"srun has started 1 .*--nodes=2 --ntasks-per-node=2"):
        Processes.of({**options, "num_nodes": 2})


def test_srun_on_the_path_of_a_login_node_is_no_news(monkeypatch, tmp_path, recwarn):
    file = tmp_path / "srun"
    file.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    silence_warnings()
    Processes.of({"accelerator": "cpu", "strategy": "auto", "devices": 1, "num_nodes": 1, "plugins": None})
    assert not [str(one.message) for one in recwarn if "srun" in str(one.message)]


def test_which_process_this_is(monkeypatch, tmp_path):
    options = {"accelerator": "cpu", "strategy": "auto", "devices": 1, "num_nodes": 1, "plugins": None}
    assert Processes.of(options) == Processes(0, 1, False)
    assert Processes.of({**options, "devices": 2}) == Processes(0, 2, False)
    srun(monkeypatch, tasks=6, nodes=3, rank=5)
    mine = Processes.of({**options, "devices": 2, "num_nodes": 3})
    assert mine == Processes(5, 6, True)
    assert mine.choose_run(str(tmp_path), "x").path == tmp_path
    with pytest.raises(SystemExit):  # the first says why
        Processes.of({**options, "devices": 3, "num_nodes": 3})
    assert RUN not in os.environ


@pytest.mark.parametrize("strategy", ["ddp_spawn", "fsdp"])
def test_other_ways_to_share_are_refused(table, medsoft, strategy):
    code, _, err = medsoft(*words_for(table, "", "--trainer.devices=2", f"--trainer.strategy={strategy}"))
    assert code == 2
    assert err.startswith("medsoft: error: trainer")
    assert err.count("\n") == 1


def test_crossval_keeps_a_fold_in_one_process(table, medsoft):
    words = [word for word in words_for(table, "", "--trainer.devices=2") if not word.startswith("--out")]
    code, _, err = medsoft("crossval", *words[1:], "--folds=2", "--out=cv")
    assert code == 2
    assert "crossval trains each fold in one process" in err
    assert not Path("cv").exists()


def test_only_sigusr1_in_a_job_of_slurm_asks_to_run_again(monkeypatch, scontrol):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue(signal.SIGUSR1) == ""
    with stopped_by_sigusr1():
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    assert requeue(signal.SIGTERM) == requeue(signal.SIGINT) == ""
    assert requeue(signal.SIGUSR1) == "Job 13 could not be requeued: scontrol: refused"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert requeue(signal.SIGUSR1) == "Job 12_4 is requeued."
    assert scontrol.read_text() == "requeue 12_4\n"
    srun(monkeypatch, tasks=2, nodes=1, rank=1)
    assert requeue(signal.SIGUSR1) == "", "the first asks"
    srun(monkeypatch, tasks=2, nodes=1)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "exit code 138 asks the job's script to requeue job 12_4" in requeue(signal.SIGUSR1)
    with pytest.raises(Stopped), stopped_by_sigusr1():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL

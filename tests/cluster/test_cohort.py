"""Slides over worker processes: each done once and right, whoever dies on the way."""

import csv
import http.client
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image

from medsoft.cluster import client as cluster
from medsoft.cluster import jobs as cluster_jobs
from medsoft.cluster import map as cluster_map
from medsoft.cluster.client import Cluster
from medsoft.cluster.options import ClusterSettings, Workers
from medsoft.errors import InputError, RunError
from medsoft.inference.slides.cases import Case
from medsoft.inference.slides.encode_cohort import EncodeJob, encode_slides
from medsoft.inference.slides.model import SlideModel
from medsoft.inference.slides.predict import HeatmapRequest
from medsoft.inference.slides.predict_cohort import PredictJob, predict_slides
from medsoft.inference.slides.worker import KILLED
from medsoft.slides.find import find_slides
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.heatmaps import figure as heatmap_picture
from medsoft.slides.heatmaps.write import SUFFIXES
from medsoft.slides.progress import slides_progress
from medsoft.slides.source import SlideInput
from medsoft.slides.tiling.settings import EncodingSettings
from medsoft.storage import files as partial_files
from medsoft.storage.files import replacing
from tests.builders.coloured_slides import SETTINGS, Colours, encode, features, statuses, write_slide
from tests.builders.encoders_in_workers import colours, deadly, kill_job
from tests.builders.images import without_progress
from tests.builders.slides import ENCODER, TILES, write_checkpoint
from tests.builders.slides import write_slide as write_pyramid
from tests.builders.waiting import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


def coloured(path: Path, red: int) -> None:
    """A slide whose tiles are of this red, after some that are pale."""
    pixels = np.full((640, 512, 3), 245, np.uint8)
    noise = np.random.default_rng(red).integers(-8, 8, (512, 384, 3))
    pixels[64:576, 64:448] = np.array([190, 100, 170]) + noise
    pixels[320:576, 64:448] = np.array([red, 20, 120]) + noise[256:]
    Image.fromarray(pixels).save(path)


def encode_over(workers: Workers, slides, folder: SlidesFolder, build, told=lambda *_: None, **changes):
    """Encode slides in worker processes; gives what became of them, and the progress."""
    values = {"tiles": SETTINGS, "encoding": EncodingSettings(batch_size=5, workers=1), "sha256": Colours.sha256}
    job = EncodeJob(**{"out": folder.path, "where": workers, "build": build} | values | changes)
    with Cluster(workers, folder) as cluster, slides_progress(len(slides), "encoding") as progress:
        done = progress.done
        progress.done = lambda *what: (told(), done(*what))
        return encode_slides(slides, folder, job, None, cluster, progress), progress


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def addresses() -> set[str]:
    """Where this process and those that it has started listen."""
    me = psutil.Process()
    found = []
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, FileNotFoundError):  # it may end while it is looked at
            found += process.net_connections("inet")
    return {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN}


def workers(parent: psutil.Process | None = None) -> set[psutil.Process]:
    """Processes that the fork server of this one, or of another parent, has started."""
    found: set[psutil.Process] = set()
    for child in (parent or psutil.Process()).children():
        with suppress(psutil.NoSuchProcess):
            found |= set(child.children()) if "forkserver" in " ".join(child.cmdline()) else set()
    return found


@pytest.fixture
def slides(tmp_path):
    return [write_slide(tmp_path / "slides" / f"Schnitt {i} ä.png", i) for i in range(4)]


def test_slides_of_lost_workers_are_done_again_and_a_slide_that_kills_is_listed(tmp_path, slides, monkeypatch):
    """Two processes: one dies once in the middle of a slide; another slide kills whoever takes it."""
    monkeypatch.setattr(partial_files, "JUST_BEGUN_SECONDS", 0.2)
    for name, red in (("unlucky", 90), ("deadly", 30)):
        slides.append(write_slide(tmp_path / "slides" / f"{name}.png", 0))
        coloured(slides[-1].path, red)
    (tmp_path / "slides" / "broken.png").write_bytes(b"no picture")
    broken = write_slide(tmp_path / "slides" / "broken.png", 0)
    broken.path.write_bytes(b"no picture")
    undisturbed = SlidesFolder(tmp_path / "undisturbed")
    encode(slides, undisturbed)

    folder = SlidesFolder(tmp_path / "out")
    listening, before = set(), workers()
    build, told = partial(deadly, tmp_path / "once"), lambda: listening.update(addresses())
    slide_statuses, progress = encode_over(Workers("local", 2), [*slides, broken], folder, build, told)

    assert (tmp_path / "once").exists(), "a worker was killed"
    assert listening == {"127.0.0.1"}
    assert [slide_status.status for slide_status in slide_statuses] == [*["encoded"] * 5, "failed", "failed"]
    failed = {row["id"]: (row["stage"], row["reason"]) for row in rows(folder.errors_csv)}
    assert failed.keys() == {"deadly", "broken"}
    assert failed["deadly"] == ("encode", KILLED)
    assert "is not a picture" in failed["broken"][1]
    assert len(rows(folder.slides_csv)) == 7
    assert progress.slides == 7
    for source in slides[:5]:
        assert np.array_equal(features(folder, source.id), features(undisturbed, source.id))
    assert {path.stem for path in (folder.path / "features").iterdir()} == {source.id for source in slides[:5]}
    assert hidden(folder.path) == []
    wait_until(lambda: not workers() - before)


def test_nobody_can_read_pages_of_dask(tmp_path, slides):
    """Each worker and the scheduler have a plug for pages, at 127.0.0.1, where any user of the machine may knock."""
    folder, answered = SlidesFolder(tmp_path / "out"), {}

    def knock(*_: object) -> None:
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, FileNotFoundError):
                for one in process.net_connections("tcp"):
                    if one.status == psutil.CONN_LISTEN and (code := page_code(one.laddr.port)) is not None:
                        answered[one.laddr.port] = code

    encode_over(Workers("local", 2), slides, folder, colours, knock)
    assert set(answered.values()) == {404}
    assert len(answered) >= 3


def page_code(port: int) -> int | None:
    """What a page of Dask's is answered with; None where there is no HTTP."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=LIMIT_SECONDS)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None
    return 200


WITHOUT_NETWORK = """
import fcntl, socket, struct, sys
from medsoft.cli.main import main
if __name__ == "__main__":
    plug = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(plug, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # lo up, and nothing else is there
    assert [name for _, name in socket.if_nameindex() if name == "lo"]
    sys.exit(main(sys.argv[1:]))
"""


def test_the_command_line_without_a_network_gives_what_one_process_gives(tmp_path, slides, medsoft):
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("taking the network away needs rights that this user has not")
    words = [
        "slides", "encode", tmp_path / "slides", "--encoder", "resnet10t", "--encoder-init=random", "--slide-mpp=1",
        "--mpp=1", "--tile=64", "--device=cpu",
    ]  # fmt: skip
    script = tmp_path / "without_network.py"
    script.write_text(WITHOUT_NETWORK)
    words_of_two = [str(word) for word in [*words, "--jobs=2", "--out", tmp_path / "two"]]
    done = subprocess.run(
        ["unshare", "--net", sys.executable, script, *words_of_two],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "4 slides" in done.stdout
    assert medsoft(*words, "--out", tmp_path / "one")[0] == 0
    one, two = SlidesFolder(tmp_path / "one"), SlidesFolder(tmp_path / "two")
    for source in slides:
        np.testing.assert_allclose(features(two, source.id), features(one, source.id), rtol=2e-3, atol=2e-4)
    assert statuses(two) == statuses(one)
    assert hidden(two.path) == []


def test_a_signal_to_every_process_as_the_workers_begin_is_one_line(tmp_path, slides):
    """As SLURM sends it to a whole job: to processes of Python too that know nothing of it yet."""
    words = ["slides", "encode", str(tmp_path / "slides"), "--encoder=resnet10t", "--encoder-init=random"]
    words += ["--slide-mpp=1", "--mpp=1", "--tile=64", "--jobs=2", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "medsoft", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: len(workers(psutil.Process(process.pid))) == 2, process)
    os.killpg(process.pid, signal.SIGUSR1)
    out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 128 + signal.SIGUSR1, err
    assert without_progress(err).strip().count("\n") == 0, err
    assert err.splitlines()[-1].startswith("medsoft: error: stopped: ")
    assert "Traceback" not in out


@pytest.fixture
def stub_slurm(tmp_path, monkeypatch):
    """``sbatch``, ``scancel``, ``squeue``: jobs are processes of this machine; gives the folder of its notes."""
    notes = tmp_path / "slurm"
    (notes / "bin").mkdir(parents=True)
    scripts = {
        "sbatch": f"""
            if [ "$1" = --test-only ]; then
              grep -q -- "-p nowhere" "$2" && echo "sbatch: error: invalid partition specified: nowhere" >&2 && exit 1
              exit 0
            fi
            cp "$1" {notes}/job.$$.sh
            log=$(sed -n 's/^#SBATCH -e //p' "$1")
            setsid bash -c 'exec bash "$0" >"${{1//%J/$$}}" 2>&1' {notes}/job.$$.sh "$log" &
            echo $! >>{notes}/submitted
            echo "Submitted batch job $!"
            """,
        "scancel": f"""
            echo "$1" >>{notes}/cancelled
            kill -TERM -- "-$1"
            """,
        "squeue": f"""
            for job in $(cat {notes}/submitted); do
              kill -0 "$job" 2>/dev/null && echo "$job"
            done
            exit 0
            """,
    }
    for name, text in scripts.items():
        file = notes / "bin" / name
        file.write_text("#!/usr/bin/env bash\n" + textwrap.dedent(text))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{notes / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield notes
    submitted = notes / "submitted"
    for job in submitted.read_text().split() if submitted.exists() else []:
        subprocess.run(["kill", "-KILL", "--", f"-{job}"], capture_output=True)


def test_jobs_of_slurm_are_submitted_replaced_and_cancelled(tmp_path, slides, stub_slurm, monkeypatch, capfd):
    """A slide that kills its worker once: here the whole job goes."""
    monkeypatch.setattr(partial_files, "JUST_BEGUN_SECONDS", 0.2)
    folder = SlidesFolder(tmp_path / "out")
    settings = ClusterSettings(
        cores=2, memory="3GB", walltime="00:10:00", queue="short", directives=["--gres=gpu:1"],
        prologue=["export FROM_PROLOGUE=1"], interface="lo",
    )  # fmt: skip
    slide_statuses, _ = encode_over(Workers("slurm", 1, settings), slides, folder, partial(kill_job, tmp_path / "once"))
    assert [slide_status.status for slide_status in slide_statuses] == ["encoded"] * 4
    submitted = (stub_slurm / "submitted").read_text().split()
    assert len(submitted) == 2, "the job that was lost was submitted again"
    assert submitted[1] in (stub_slurm / "cancelled").read_text().split()
    script = min(stub_slurm.glob("job.*.sh")).read_text()
    for line in ("-p short", "--mem=3G", "--cpus-per-task=2", "-t 00:10:00", "--gres=gpu:1", "export FROM_PROLOGUE=1"):
        assert line in script
    assert "--tls-key" in script
    assert hidden(folder.path) == []
    assert not list((folder.path / "slurm").glob("keys-*")), "keys of this run alone"
    assert "1 at a time" in capfd.readouterr().out


def test_a_job_that_ends_before_its_worker_comes_is_said_and_submitted_again(
    tmp_path, slides, stub_slurm, monkeypatch, capfd
):
    monkeypatch.setattr(cluster_jobs, "LOOK_SECONDS", 0.2)
    folder = SlidesFolder(tmp_path / "out")
    once = tmp_path / "once"
    prologue = [f"[ -e {once} ] || {{ touch {once}; echo 'module: no cuda here' >&2; exit 1; }}"]
    settings = ClusterSettings(cores=1, memory="3GB", prologue=prologue, interface="lo")
    slide_statuses, _ = encode_over(Workers("slurm", 1, settings), slides, folder, colours)
    assert [slide_status.status for slide_status in slide_statuses] == ["encoded"] * 4
    first, second = (stub_slurm / "submitted").read_text().split()
    out = capfd.readouterr().out
    log = folder.path / "slurm" / f"medsoft-{first}.err"
    assert f"Job {first} ended before it began to work: module: no cuda here ({log})" in out
    assert f"Job {second} ended" not in out


def test_jobs_that_keep_ending_end_the_run_with_what_the_last_one_said(
    tmp_path, slides, medsoft, stub_slurm, monkeypatch
):
    monkeypatch.setattr(cluster_jobs, "LOOK_SECONDS", 0.2)
    code, out, err = medsoft(
        "slides", "encode", tmp_path / "slides", "--encoder=resnet10t", "--encoder-init=random", "--slide-mpp=1",
        "--mpp=1", "--tile=64", "--out", tmp_path / "out", "--scheduler=slurm", "--jobs=2",
        "--cluster.python=/nowhere/python", "--cluster.interface=lo",
    )  # fmt: skip
    assert code == 1
    assert err.count("\n") == 1
    assert "jobs in a row ended before they began to work, and none works" in err
    assert "/nowhere/python: No such file or directory" in err
    assert "medsoft-" in err, "where the output is"
    submitted = (stub_slurm / "submitted").read_text().split()
    assert out.count("ended before it began to work") == len(submitted) >= cluster_jobs.FEW
    assert not list((tmp_path / "out" / "slurm").glob("keys-*"))


def test_without_an_answer_of_slurm_no_job_counts_as_ended(tmp_path, monkeypatch):
    jobs = SimpleNamespace(workers={0: SimpleNamespace(job_id="7")}, scheduler_info={"workers": {}})
    monkeypatch.setattr(cluster_jobs, "LOOK_SECONDS", 0)
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact slurm controller >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    watch = cluster_jobs.EarlyEnds(jobs, 1, tmp_path)
    for _ in range(5):
        watch.look()
    assert jobs.workers.keys() == {0}


def test_a_job_whose_worker_came_and_went_between_two_looks_has_begun_to_work(tmp_path, monkeypatch, capsys):
    jobs = SimpleNamespace(
        workers={0: SimpleNamespace(job_id="7"), 1: SimpleNamespace(job_id="8")},
        scheduler_info={"workers": {}},
        scale=lambda jobs: None,
    )
    monkeypatch.setattr(cluster_jobs, "LOOK_SECONDS", 0)
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\nexit 0\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    watch = cluster_jobs.EarlyEnds(jobs, 2, tmp_path)
    watch.came("0")
    for _ in range(3):
        watch.look()
    assert jobs.workers.keys() == {0}, "Dask itself replaces the other"
    assert "Job 8 ended before" in capsys.readouterr().out


@pytest.fixture
def scheduler():
    """A scheduler with one worker, in this process."""
    import torch
    from distributed import LocalCluster

    threads = torch.get_num_threads()
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
    ) as running:
        yield running.scheduler_address
    torch.set_num_threads(threads)


def test_a_scheduler_that_runs_already(tmp_path, slides, scheduler):
    folder = SlidesFolder(tmp_path / "out")
    there = Workers(scheduler)
    slide_statuses, progress = encode_over(there, slides, folder, colours)
    assert progress.tiles == sum(slide_status.tiles for slide_status in slide_statuses)
    again, progress = encode_over(there, slides, folder, colours)
    assert all(slide_status.kept for slide_status in again)
    assert progress.tiles == 0
    with pytest.raises(InputError, match="SHA-256"):
        encode_over(there, slides, folder, colours, sha256="cd" * 32)
    with pytest.raises(InputError, match=r"a worker has medsoft .*, not 0\.0"):
        encode_over(there, slides, folder, colours, version="0.0")
    assert statuses(folder) == {source.id: "encoded" for source in slides}


def test_a_scheduler_without_workers_is_said(tmp_path, capfd):
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0") as running:
        address = running.scheduler_address
        with Cluster(Workers(address), SlidesFolder(tmp_path)) as group:
            assert not group.client.nthreads()
    assert f"The scheduler {address} has no workers yet: waiting for them" in capfd.readouterr().out


def test_predictions_of_a_cluster_are_those_of_one_process(tmp_path, medsoft, scheduler):
    (tmp_path / "slides").mkdir()
    for seed, name in enumerate(("a", "b ü")):
        write_pyramid(tmp_path / "slides" / f"{name}.tif", seed)
    write_pyramid(tmp_path / "slides" / "glass.tif", 0, tissue=False)
    encode = ["slides", "encode", tmp_path / "slides", *ENCODER, *TILES, "--out", tmp_path / "work"]
    assert medsoft(*encode)[0] == 0
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", tmp_path / "work" / "features" / "a.h5")
    words = ["slides", "predict", tmp_path / "slides", "--checkpoint", checkpoint, "--device=cpu"]
    assert medsoft(*words, "--out", tmp_path / "one")[0] == 3
    assert medsoft(*words, "--out", tmp_path / "many", "--scheduler", scheduler)[0] == 3
    one, many = (rows(tmp_path / name / "predictions.csv") for name in ("one", "many"))
    assert [row["id"] for row in many] == ["a", "b ü"]
    for mine, theirs in zip(one, many, strict=True):
        assert float(mine["p_tumour"]) == pytest.approx(float(theirs["p_tumour"]), abs=1e-4)
    for name in ("one", "many"):
        drawn = {path.name for path in (tmp_path / name / "heatmaps").glob("*.png")}
        assert drawn == {"a.png", "a.tiles.png", "b ü.png", "b ü.tiles.png", "cohort_tumour.tiles.png"}
        assert [row["id"] for row in rows(tmp_path / name / "errors.csv")] == ["glass"]
    assert statuses(SlidesFolder(tmp_path / "many")) == {"a": "predicted", "b ü": "predicted", "glass": "failed"}


def deadly_model(once: Path, checkpoint: Path, device: str) -> SlideModel:
    """Kills its process once in the middle of a heatmap's picture."""

    def write_half(path: Path, *rest) -> None:
        if once.exists():
            write_picture(path, *rest)
            return
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    write_picture = heatmap_picture.write_picture
    heatmap_picture.write_picture = write_half
    return SlideModel([checkpoint], device)


def test_a_worker_killed_in_the_middle_of_a_heatmap_leaves_nothing_half_written(tmp_path, medsoft, monkeypatch):
    monkeypatch.setattr(partial_files, "JUST_BEGUN_SECONDS", 0.2)
    (tmp_path / "slides").mkdir()
    write_pyramid(tmp_path / "slides" / "a.tif", 0)
    out = tmp_path / "work"
    assert medsoft("slides", "encode", tmp_path / "slides", *ENCODER, *TILES, "--out", out)[0] == 0
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", out / "features" / "a.h5")
    model, folder, once = SlideModel([checkpoint], "cpu"), SlidesFolder(out), tmp_path / "once"
    job = PredictJob(
        out=out,
        where=Workers("local", 1),
        build=partial(deadly_model, once, checkpoint),
        heatmaps=HeatmapRequest.of(model.task, ["normal", "tumour"]),
    )
    sources = find_slides(SlideInput([str(tmp_path / "slides")]))
    monkeypatch.setattr(Workers, "is_this_process", False)  # one process that is lost is enough
    with Cluster(job.where, folder) as group, slides_progress(1, "predicting") as progress:
        cases = [Case(source.id, (source,), (1,)) for source in sources]
        found = predict_slides(cases, folder.slide_statuses(), folder, job, model, group, progress)
    assert once.exists(), "a worker was killed"
    assert found.keys() == {"a"}
    assert hidden(out) == []
    for name in ("normal", "tumour"):
        endings = {Path(f"x{suffix}").suffix for suffix in SUFFIXES}
        assert {path.suffix for path in (out / "heatmaps" / name).iterdir()} == endings
        Image.open(out / "heatmaps" / name / "a.png").load()


def test_many_tasks_are_each_done_once_in_few_messages(scheduler, monkeypatch):
    from distributed import Client

    monkeypatch.setattr(cluster_map, "SUBMITTED_AT_ONCE", 30)
    with Client(scheduler) as client:
        maps, submit_many = [], client.map
        monkeypatch.setattr(client, "map", lambda *words, **how: maps.append(words) or submit_many(*words, **how))
        done = [
            one for some in cluster_map.each(client, divmod, [(n, 7) for n in range(100)], lambda: None) for one in some
        ]
    assert sorted(done) == [(n, divmod(n, 7)) for n in range(100)]
    assert len(maps) == 4


def test_a_connection_to_the_scheduler_that_is_lost_ends_the_run(scheduler, tmp_path):
    """As it was seen on a busy machine: a client that was to connect again, and never had its tasks' results."""
    from distributed import Client

    let_go = tmp_path / "let go"
    with Client(scheduler) as client:
        with pytest.raises(RunError, match="connection to the cluster's scheduler is lost; finished work is kept"):
            list(cluster_map.each(client, wait_for, [(let_go,)], lambda: setattr(client, "status", "connecting")))
        let_go.touch()
        client.status = "running"


def wait_for(file: Path) -> None:
    wait_until(file.exists)


def test_a_full_disk_of_a_worker_ends_the_run(tmp_path, slides, scheduler, monkeypatch):
    folder = SlidesFolder(tmp_path / "out")
    monkeypatch.setattr("medsoft.storage.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        encode_over(Workers(scheduler), slides, folder, colours)
    assert not list((folder.path / "features").glob("*"))


def full(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--scheduler", "condor"], "local, slurm, pbs, lsf, sge, or an address such as tcp://node:8786"),
        (["--scheduler", "slurm", "--jobs", "2", "--cluster.resources", "mem=2GB"], "is for pbs and sge"),
        (["--scheduler", "slurm"], "say how many jobs may run at once"),
        (["--scheduler", "tcp://127.0.0.1:1", "--jobs", "2"], "has workers of its own"),
        (["--scheduler", "tcp://127.0.0.1:1"], "--scheduler tcp://127.0.0.1:1: "),
        (["--jobs", "0"], "jobs 0 must be 1 or more"),
        (["--cluster.queue", "gpu"], "--cluster options are for --scheduler slurm"),
        (["--scheduler", "slurm", "--jobs", "1", "--cluster.cores", "0"], "cluster.cores 0 must be 1 or more"),
        (["--scheduler", "slurm", "--jobs", "1", "--cluster.logs", "my logs"], "choose another --cluster.logs"),
    ],
)
def test_a_wrong_call_is_one_message(tmp_path, slides, medsoft, monkeypatch, words, reason):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    code, _, err = medsoft(
        "slides", "encode", tmp_path / "slides", "--encoder=resnet10t", "--encoder-init=random", "--slide-mpp=1",
        "--mpp=1", "--tile=64", "--out", tmp_path / "out", *words,
    )  # fmt: skip
    assert code == 2
    assert reason in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "slides.csv").exists()


@pytest.mark.parametrize("there", [True, False])
def test_slurm_that_takes_no_jobs_is_one_message(tmp_path, slides, medsoft, stub_slurm, monkeypatch, there):
    if not there:
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        if shutil.which("sbatch"):
            pytest.skip("SLURM is on this machine")
    code, _, err = medsoft(
        "slides", "encode", tmp_path / "slides", "--encoder=resnet10t", "--encoder-init=random", "--slide-mpp=1",
        "--mpp=1", "--tile=64", "--out", tmp_path / "out", "--scheduler=slurm", "--jobs=1", "--cluster.queue=nowhere",
    )  # fmt: skip
    assert code == 2
    assert ("invalid partition specified: nowhere" if there else "there is no sbatch here") in err
    assert err.count("\n") == 1

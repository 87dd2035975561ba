"""The container's files and the job scripts: no mistake that a linter knows, and run against stubs of SLURM."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.waiting import LIMIT_SECONDS

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "docker" / "slurm"
SCRIPTS = sorted(SLURM.glob("*.sbatch"))


def tool(name: str) -> Path:
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        pytest.skip(f"{name} is not installed (pip install 'medsoft[dev]')")
    return path


@pytest.mark.parametrize(
    "script",
    [
        *SCRIPTS,
        SLURM / "common.sh",
        ROOT / "docker" / "install.sh",
        *(ROOT / "scripts" / n for n in ("image", "test_cluster")),
    ],
    ids=lambda p: p.name,
)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run([tool("shellcheck"), "-x", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_nothing():
    done = subprocess.run([tool("hadolint"), ROOT / "docker" / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_images_are_made_from_the_same_parts():
    """And from what the installation takes, without weights, data and the rest of the repository."""
    install = (ROOT / "docker" / "install.sh").read_text()
    parts = install.partition("for part in ")[2].partition(";")[0].split()
    dockerfile, definition = ((ROOT / "docker" / name).read_text() for name in ("Dockerfile", "medsoft.def"))
    allowed = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for part in parts:
        assert (ROOT / part).exists()
        assert part in dockerfile
        assert f"{part} /src/{part}" in definition
        assert f"!{part}" in allowed
    assert allowed[0] == "*"
    for text in (dockerfile, definition):
        assert "3.11.13-slim-bookworm" in text
    assert "USER 10001" in dockerfile
    assert 'CMD ["medsoft", "doctor"]' in dockerfile


PIP = """#!/bin/sh
case "$*" in
  "-m venv"*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; printf '#!/bin/sh\necho medsoft 1.0\n' >"$3/bin/medsoft"
    chmod +x "$3/bin/medsoft" ;;
  "-m pip"*) echo "$*" >>"$NOTES" ;;
  -c*) exit "$CUDA" ;;
esac
"""
"""In place of Python: makes an environment of itself, installs nothing, and has PyTorch with CUDA or without."""


@pytest.mark.parametrize(
    ("words", "cuda", "code", "said", "index"),
    [
        (["cuda"], "1", 0, "", False),
        (["cpu", "https://example.org/cpu"], "0", 0, "", True),
        (["cpu", "https://example.org/cpu"], "1", 1, "pip found no wheels of PyTorch without CUDA", True),
        (["cpu"], "0", 2, "name the index of the CPU wheels of PyTorch", False),
        (["rocm"], "0", 2, "the variant is cuda or cpu, not rocm", False),
    ],
)
def test_an_image_for_processors_has_no_cuda_or_is_not_made(tmp_path, words, cuda, code, said, index):
    """pip takes the usual wheels where it cannot reach the index of those without."""
    python, notes = tmp_path / "python", tmp_path / "notes"
    python.write_text(PIP)
    python.chmod(0o755)
    done = subprocess.run(
        ["sh", ROOT / "docker" / "install.sh", ROOT, tmp_path / "venv", *words],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python), "NOTES": str(notes), "CUDA": cuda},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert (notes.is_file() and "--extra-index-url https://example.org/cpu" in notes.read_text()) == index


@pytest.mark.parametrize("tool", ["docker", "podman", "buildah"])
def test_an_image_is_built_with_further_options_and_tried_without_a_network_as_an_ordinary_user(tool):
    words = ["--dry-run", "--tool", tool, "--variant", "cpu", "--", "--volume", "/certificates:/certificates:ro"]
    done = subprocess.run([ROOT / "scripts" / "image", *words], capture_output=True, text=True, check=True)
    build, *rest = done.stdout.splitlines()
    assert "--volume /certificates:/certificates:ro --build-arg VARIANT=cpu" in build
    tried = [line for line in rest if line.startswith(f"{tool} run ")]
    assert len(tried) == 6, "doctor, two kinds of phantoms, a training, an encoding, and the list of packages"
    assert all("--network none" in line for line in tried)
    assert all(("--read-only" in line) != (tool == "buildah") for line in tried), "buildah has no such option"
    assert all("--user 10001" in line for line in tried if tool == "buildah")
    assert not any("/certificates" in line for line in rest)


def test_a_bill_of_materials_has_each_package_once_with_its_licence(tmp_path):
    packages = [
        {"name": "Zope.Interface_x", "version": "2.0", "license_expression": "MIT"},
        {"name": "a", "version": "1", "classifier": ["License :: OSI Approved :: BSD License"]},
        {"name": "b", "version": "3", "license": "A whole text\nof several lines"},
    ]
    source, target = tmp_path / "packages.json", tmp_path / "sbom.json"
    source.write_text(json.dumps({"pip_version": "26", "installed": [{"metadata": one} for one in packages]}))
    subprocess.run([sys.executable, ROOT / "scripts" / "sbom.py", source, target], check=True)
    bill = json.loads(target.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert [one["purl"] for one in bill["components"]] == [
        "pkg:pypi/a@1", "pkg:pypi/b@3", "pkg:pypi/zope-interface-x@2.0",
    ]  # fmt: skip
    assert [one.get("licenses") for one in bill["components"]] == [
        [{"license": {"name": "BSD License"}}], None, [{"expression": "MIT"}],
    ]  # fmt: skip


STUBS = {
    # Its own options go; the command runs once a task, here once.
    "srun": 'echo "srun $*" >>"$NOTES"\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"',
    "apptainer": 'echo "apptainer $*" >>"$NOTES"\nwhile [ "$1" != "$MEDSOFT_IMAGE" ]; do shift; done\nshift\nexec "$@"',
    "scontrol": 'echo "scontrol $*" >>"$NOTES"',
    "medsoft": 'echo "medsoft $*" >>"$NOTES"\nexit "${CODE:-0}"',
}


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Run a job script as SLURM would, in a folder of its own; gives the exit code and what the stubs noted."""
    for name, text in STUBS.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    notes = tmp_path / "notes"

    def run(script: str, *words: str, **settings: str) -> tuple[int, list[str]]:
        notes.write_text("")
        environment = {
            **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "NOTES": str(notes),
            "MEDSOFT_IMAGE": "/images/medsoft.sif", "MEDSOFT_SLURM": str(SLURM), "SLURM_JOB_ID": "77", **settings,
        }  # fmt: skip
        environment = {name: value for name, value in environment.items() if value}
        done = subprocess.run(
            ["bash", SLURM / script, *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        return done.returncode, [*notes.read_text().splitlines(), *done.stderr.splitlines()]

    return run


def test_a_fit_begins_under_srun_in_the_container(sbatch, tmp_path):
    code, said = sbatch(
        "fit.sbatch", "runs/a", "--config", "fundus", "--data.table", "my eyes.csv",
        SLURM_NTASKS_PER_NODE="4", SLURM_NNODES="2", MEDSOFT_BIND="/data,/out",
    )  # fmt: skip
    assert code == 0
    assert said[0].startswith("srun --kill-on-bad-exit=1 bash")
    assert any(line.startswith("apptainer exec --nv --bind /data,/out") for line in said)
    assert said[-1] == (
        "medsoft fit --config fundus --data.table my eyes.csv --out runs/a --trainer.devices 4 --trainer.num_nodes 2"
    )


def test_a_fit_that_was_requeued_goes_on(sbatch, tmp_path):
    checkpoint = tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert sbatch("fit.sbatch", "runs/a", "--config", "fundus")[1][-1] == "medsoft fit --resume runs/a"


def test_a_fit_that_was_killed_before_its_first_checkpoint_begins_anew(sbatch, tmp_path):
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    _, said = sbatch("fit.sbatch", "runs/a", "--config", "fundus", SLURM_RESTART_COUNT="2")
    assert said[-1].startswith("medsoft fit --config fundus --out runs/a")
    assert not run.exists()
    assert (tmp_path / "runs" / "a.without-checkpoint-77-2" / "config.yaml").exists()


@pytest.mark.parametrize(("code", "asks"), [(138, True), (143, False), (1, False), (3, False), (0, False)])
@pytest.mark.parametrize("script", ["fit.sbatch", "crossval.sbatch", "slides.sbatch"])
def test_a_job_that_must_make_room_is_requeued_and_no_other(sbatch, script, code, asks):
    """The container has no scontrol of its own."""
    got, said = sbatch(script, "runs/a", CODE=str(code), SLURM_ARRAY_TASK_ID="3")
    assert got == code
    assert ("scontrol requeue 77" in said) == asks


def test_a_stop_of_one_task_requeues_whatever_srun_says_of_the_others(sbatch, tmp_path):
    """srun ends the slower ones with SIGTERM, and returns the largest code."""
    file = tmp_path / "bin" / "srun"
    file.write_text(file.read_text().replace('exec "$@"', '"$@"; exit 143'))
    code, said = sbatch("fit.sbatch", "runs/a", CODE="138")
    assert code == 138
    assert "scontrol requeue 77" in said
    code, said = sbatch("fit.sbatch", "runs/a", CODE="143")
    assert code == 143
    assert "scontrol requeue 77" not in said
    assert not list(tmp_path.glob(".medsoft-*"))


def test_an_array_trains_a_fold_a_task_and_another_job_gathers(sbatch, tmp_path):
    _, said = sbatch("crossval.sbatch", "runs/cv", "--folds", "5", "--config", "histo", SLURM_ARRAY_TASK_ID="3")
    assert said[-1] == "medsoft crossval --folds 5 --config histo --out runs/cv --fold 3"
    odd = tmp_path / "medsoft-crossval-77_4294967294.out"  # what SLURM makes of %A_%a without an array
    odd.touch()
    _, said = sbatch("crossval.sbatch", "runs/cv", SLURM_ARRAY_TASK_ID="", SLURM_JOB_NAME="medsoft-crossval")
    assert said[-1] == "medsoft crossval --resume runs/cv --collect true"
    assert (tmp_path / "medsoft-crossval-77.out").is_file()
    assert not odd.exists()


UNTIL_SENT_HOME = """
case "$*" in
  *dask_worker*)
    until [ -s "$NOTES.scheduler" ]; do sleep 0.05; done
    while kill -0 "$(cat "$NOTES.scheduler")" 2>/dev/null; do sleep 0.05; done ;;
  *) echo $$ >"$NOTES.scheduler"; exec sleep 30 ;;
esac"""
"""A scheduler, and workers that end when it has."""


def test_slides_over_dask_workers(sbatch, tmp_path, monkeypatch):
    """A scheduler and workers with keys of the job alone, which are gone when it ends."""
    python = 'echo "python $*" >>"$NOTES"\nls "$DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY" >>"$NOTES"' + UNTIL_SENT_HOME
    for name, text in {"python": python, "hostname": "echo node7"}.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    medsoft = tmp_path / "bin" / "medsoft"
    medsoft.write_text('#!/bin/sh\nsleep 1\necho "medsoft $*" >>"$NOTES"\nexit 3\n')
    code, said = sbatch("slides_dask.sbatch", "encode", "scans", "--out", "work", MEDSOFT_DASK_PORT="9001")
    assert code == 3
    assert "medsoft slides encode scans --out work --scheduler tls://node7:9001" in said
    (scheduler,) = [line for line in said if line.startswith("python -P -m distributed.cli.dask_scheduler")]
    assert "--protocol tls --port 9001" in scheduler
    (worker,) = [line for line in said if line.startswith("python -P -m distributed.cli.dask_worker")]
    assert "tls://node7:9001 --protocol tls" in worker
    keys = [Path(line) for line in said if line.endswith("key.pem")]
    assert len(keys) == 2
    assert not keys[0].parent.exists()


def test_slides_do_not_wait_for_workers_that_have_ended(sbatch, tmp_path):
    python = 'case "$*" in *dask_worker*) exit 1 ;; esac\nexec sleep 30'
    for name, text in {"python": python, "hostname": "echo node7"}.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    (tmp_path / "bin" / "medsoft").write_text('#!/bin/sh\necho "medsoft $*" >>"$NOTES"\nexec sleep 30\n')
    code, said = sbatch("slides_dask.sbatch", "encode", "scans", "--out", "work")
    assert code == 1
    assert any(line.startswith("The workers or the scheduler have ended before the work was done") for line in said)
    assert not list(tmp_path.glob(".dask-*")), "keys"


def test_a_job_of_dask_workers_that_must_make_room_sends_them_home_and_is_requeued(sbatch, tmp_path):
    """The signal reaches the job's script alone."""
    for name, text in {"python": UNTIL_SENT_HOME, "hostname": "echo node7"}.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    medsoft = tmp_path / "bin" / "medsoft"
    medsoft.write_text('#!/bin/sh\nkill -USR1 "$(cat "$NOTES.pid")"\nexec sleep 30\n')
    script = tmp_path / "told.sh"
    script.write_text(f'echo $$ >"$NOTES.pid"\n. {SLURM / "slides_dask.sbatch"}\n')
    code, said = sbatch(str(script), "encode", "scans", "--out", "work")
    assert code == 138
    assert "scontrol requeue 77" in said
    assert not list(tmp_path.glob(".dask-*")), "keys"


def test_dask_in_a_job_shows_nobody_its_pages(sbatch, tmp_path):
    python = 'echo "$* $DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES $DASK_DISTRIBUTED__WORKER__HTTP__ROUTES" >>"$NOTES"'
    for name, text in {"python": python + UNTIL_SENT_HOME, "hostname": "echo node7"}.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    (tmp_path / "bin" / "medsoft").write_text("#!/bin/sh\nsleep 1\n")
    _, said = sbatch("slides_dask.sbatch", "encode", "scans", "--out", "work")
    started = [line for line in said if line.startswith("-P -m distributed.cli")]
    assert len(started) == 2
    for line in started:
        assert "--no-dashboard --dashboard-address 127.0.0.1:0" in line
        assert line.endswith("[] []")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_what_is_missing_is_said(sbatch, script):
    code, said = sbatch(script.name, MEDSOFT_IMAGE="")
    assert code != 0
    assert "set MEDSOFT_IMAGE" in said[-1]

"""The manifests for Kubernetes: valid, closed, and of one mind with the job scripts."""

from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))


def manifests(file: Path) -> list[dict]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one]


def pods() -> list[tuple[str, dict]]:
    found = [(f"{file.name}: {one['metadata']['name']}", one) for file in FILES for one in manifests(file)]
    return [(name, one["spec"]["template"]["spec"]) for name, one in found if "template" in one.get("spec", {})]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_schema_of_kubernetes_finds_nothing(file):
    """Strictly: a word that it does not know is an error."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for one in manifests(file):
        kubernetes_validate.validate(one, "1.36", strict=True)


def test_a_wrong_word_would_be_found():
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    job = manifests(FOLDER / "fit.yaml")[0]
    job["spec"]["backofLimit"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.36", strict=True)


@pytest.mark.parametrize(("name", "pod"), pods(), ids=lambda value: value if isinstance(value, str) else "")
def test_pods_run_as_an_ordinary_user_and_can_write_to_their_volumes_alone(name, pod):
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["runAsNonRoot"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        closed = container["securityContext"]
        assert (closed["readOnlyRootFilesystem"], closed["allowPrivilegeEscalation"]) == (True, False)
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "memory" in container["resources"]["limits"]


def test_dask_is_encrypted_and_shows_nobody_its_pages():
    parts = manifests(FOLDER / "slides_dask.yaml")
    (settings,) = [one["data"] for one in parts if one["kind"] == "ConfigMap"]
    assert settings["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"
    script = (FOLDER.parent / "slurm" / "slides_dask.sbatch").read_text()
    for name in ("DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES", "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES"):
        assert settings[name] == "[]"
        assert f"{name}='[]'" in script
    (service,) = [one for one in parts if one["kind"] == "Service"]
    address = f"tls://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    words = [word for _, pod in pods() for one in pod["containers"] for word in one.get("args", [])]
    assert address in words
    assert f"--scheduler={address}" in words


def run_script(tmp_path: Path, run: Path) -> list[str]:
    """What the container of a fit calls, with the folder of its run in a place of the test."""
    import subprocess

    (container,) = manifests(FOLDER / "fit.yaml")[0]["spec"]["template"]["spec"]["containers"]
    script, *words = container["args"]
    medsoft = tmp_path / "bin" / "medsoft"
    medsoft.parent.mkdir(exist_ok=True)
    medsoft.write_text('#!/bin/sh\necho "$@"\n')
    medsoft.chmod(0o755)
    script = script.replace("/shared/runs/eyes", str(run))
    done = subprocess.run(
        [*container["command"], script, *words],
        env={"PATH": f"{medsoft.parent}:/usr/bin:/bin", "HOSTNAME": "pod-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_fit_begins_goes_on_and_begins_anew(tmp_path):
    run = tmp_path / "run"
    assert run_script(tmp_path, run)[:4] == ["fit", "--out", str(run), "--config=fundus"]
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    assert run_script(tmp_path, run)[:3] == ["fit", "--out", str(run)]
    assert (tmp_path / "run.without-checkpoint-pod-1").is_dir()
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    assert run_script(tmp_path, run) == ["fit", "--resume", str(run)]

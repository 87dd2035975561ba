#!/usr/bin/env python
"""Puts a cohort of slides through everything that goes wrong overnight, and checks what is left.

The results are in docs/experiments/reliability.md.

python scripts/reliability.py --work FOLDER [--slides 1000]

Needs the right to mount a small file system, which is filled on purpose.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
ENCODE = ["--encoder", "resnet10t", "--encoder-init", "random", "--mpp", "1", "--tile", "64", "--device", "cpu"]
BYTES_PER_SLIDE = 260_000
"""More than a slide leaves behind: features, tiles and picture."""


def cut(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        os.truncate(path, int(path.stat().st_size * share))

    return damage


def overwrite(start: float, end: float, content: Callable[[int], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        size = path.stat().st_size
        first, last = int(size * start), int(size * end)
        with path.open("r+b") as file:
            file.seek(first)
            file.write(content(last - first))

    return damage


def replace(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(content), None)[1]


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "slide.tif").write_bytes(b"inside a folder that bears a slide's name")


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.tif"))


def forget_resolution(path: Path) -> None:
    """The same pixels without µm per pixel."""
    import tifffile

    pixels = tifffile.imread(path)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg")


def noise(n: int) -> bytes:
    return np.random.default_rng(n).bytes(n)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty file": cut(0),
    "first 8 bytes": lambda path: os.truncate(path, 8),
    "first tenth": cut(0.1),
    "first half": cut(0.5),
    "without its last fifth": cut(0.8),
    "zeros over a third": overwrite(0.2, 0.53, bytes),
    "noise over a third": overwrite(0.2, 0.53, noise),
    "noise over the header": overwrite(0, 0.001, noise),
    "noise from end to end": overwrite(0, 1, noise),
    "text": replace(b"this is no slide\n" * 1000),
    "HTML of a failed download": replace(b"<!DOCTYPE html><html><body>403 Forbidden</body></html>"),
    "ZIP archive": replace(b"PK\x03\x04" + noise(50_000)),
    "link to nothing": dangle,
    "resolution missing": forget_resolution,
    "PNG, cut short, named .tif": replace(b"\x89PNG\r\n\x1a\n" + noise(2000)),
}


class Memory(threading.Thread):
    """Resident memory of a process and of each of its workers, twice a second."""

    def __init__(self, process: subprocess.Popen[str], count: Callable[[], int], rows: list[dict[str, float]]) -> None:
        super().__init__(daemon=True)
        self.process, self.count, self.rows = process, count, rows

    def run(self) -> None:
        while self.process.poll() is None:
            try:
                main = psutil.Process(self.process.pid)
                of_workers = [child.memory_info().rss for child in workers_of(main)]
                row = {"slides": self.count(), "main": main.memory_info().rss / 2**20}
                self.rows.append(row | {f"worker {i}": rss / 2**20 for i, rss in enumerate(of_workers)})
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.5)


def workers_of(main: psutil.Process) -> list[psutil.Process]:
    return [child for child in main.children() if "spawn_main" in " ".join(child.cmdline())]


class Trial:
    """One folder of results, and what was done to the runs that wrote into it."""

    def __init__(self, slides: Path, out: Path) -> None:
        self.slides, self.out = slides, out
        self.memory: list[dict[str, float]] = []
        self.said: list[str] = []

    def done(self) -> dict[str, int]:
        """When each finished feature file was written."""
        folder = self.out / "features"
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*.h5")} if folder.is_dir() else {}

    def run(self, jobs: int, disturb: Callable[[subprocess.Popen[str]], None] | None = None) -> tuple[int, str, float]:
        """Encode; gives exit code, what was said on standard error, and seconds."""
        words = [sys.executable, "-P", "-m", "medsoft", "slides", "encode", self.slides, *ENCODE, "--out", self.out]
        since = time.perf_counter()
        log = self.slides.parent / f"{self.out.name}.log"  # not on the disk that fills
        with log.open("a") as file:
            process = subprocess.Popen(
                [*map(str, words), "--jobs", str(jobs)], stdout=file, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip
        Memory(process, lambda: len(self.done()), self.memory).start()
        if disturb:
            threading.Thread(target=disturb, args=(process,), daemon=True).start()
        _, err = process.communicate()
        return process.returncode, err, time.perf_counter() - since

    def wait_for(self, slides: int, process: subprocess.Popen[str]) -> bool:
        while len(self.done()) < slides:
            if process.poll() is not None:
                return False
            time.sleep(0.1)
        return True


def features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        return file["features"][()], file["coords"][()]


def within_one_step(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether float16 numbers are neighbours or equal."""
    return bool((np.abs(a.astype(np.float32) - b.astype(np.float32)) <= np.spacing(np.maximum(abs(a), abs(b)))).all())


def rows_of(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def main() -> None:
    """Run the trial, check, and write ``result.json``, ``memory.csv`` and ``errors.csv`` into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--bad", type=int, default=20)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or a run started in the background would ignore Ctrl-C
    work = asked.work.resolve()
    phantoms, slides = work / "phantoms", work / "slides"
    if not phantoms.is_dir():
        words = ["data", "phantom", "slides", "--out", phantoms, "--n", asked.slides, "--size", "1024"]
        subprocess.run([sys.executable, "-P", "-m", "medsoft", *map(str, words)], check=True)
    shutil.rmtree(slides, ignore_errors=True)
    shutil.copytree(phantoms / "slides", slides)
    names = sorted(path.name for path in slides.iterdir())
    chosen = np.random.default_rng(0).choice(len(names), asked.bad, replace=False)
    kinds = list(DAMAGES)
    bad = {}
    for number, index in enumerate(sorted(chosen)):
        kind = kinds[number % len(kinds)]
        DAMAGES[kind](slides / names[index])
        bad[Path(names[index]).stem] = kind

    print("undisturbed, one process", flush=True)
    calm = Trial(slides, work / "calm")  # what it has finished in an earlier call it leaves as it is
    calm_code, _, _ = calm.run(1)
    good = {Path(name).stem for name in names} - bad.keys()

    disk = work / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["umount", disk], capture_output=True)
    small = int(asked.slides * 0.3 * BYTES_PER_SLIDE)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={small}", "tmpfs", disk], check=True)
    trial = Trial(slides, disk / "out")
    runs, written, rewritten = [], {}, []

    def note(what: str, result: tuple[int, str, float]) -> None:
        code, err, seconds = result
        now = trial.done()
        rewritten.extend(name for name, when in written.items() if now.get(name) != when)
        written.update(now)
        row = {"run": what, "exit code": code, "seconds": round(seconds), "feature files": len(now)}
        row["half-written files"] = len(list(trial.out.rglob(".*")))
        row["last line"] = (err.strip().splitlines() or [""])[-1]
        runs.append(row)
        print(json.dumps(row), flush=True)

    try:
        note("the disk fills", trial.run(2))
        room = asked.slides * BYTES_PER_SLIDE
        subprocess.run(["mount", "-o", f"remount,size={room}", disk], check=True)
        left = asked.slides - len(trial.done())
        first, second = (len(trial.done()) + int(left * share) for share in (0.3, 0.6))
        killed = []

        def kill_then_interrupt(process: subprocess.Popen[str]) -> None:
            if trial.wait_for(first, process):
                victim = workers_of(psutil.Process(process.pid))[0]
                victim.send_signal(signal.SIGKILL)
                killed.append(victim.pid)
            if trial.wait_for(second, process):
                process.send_signal(signal.SIGINT)

        note("a worker is killed, then Ctrl-C", trial.run(2, kill_then_interrupt))
        note("started again, to the end", trial.run(2))
        note("once more, with nothing to do", trial.run(2))

        errors = {row["id"]: f"{row['stage']}: {row['reason']}" for row in rows_of(trial.out / "errors.csv")}
        rows = {row["id"]: row["status"] for row in rows_of(trial.out / "slides.csv")}
        complete, equal = 0, 0
        for id in sorted(good):
            mine, theirs = trial.out / "features" / f"{id}.h5", calm.out / "features" / f"{id}.h5"
            if mine.is_file() and theirs.is_file():
                (a, places_a), (b, places_b) = features(mine), features(theirs)
                complete += 1
                equal += np.array_equal(places_a, places_b) and within_one_step(a, b)
        checks = {
            "slides": len(names),
            "damaged": len(bad),
            "good slides complete": f"{complete} of {len(good)}",
            "equal to the undisturbed run within one float16 step": f"{equal} of {len(good)}",
            "listed in errors.csv, in neither too many nor too few": errors.keys() == bad.keys(),
            "listed though good": sorted(errors.keys() - bad.keys()),
            "damaged but not listed": {id: f"{bad[id]} ({rows.get(id)})" for id in sorted(bad.keys() - errors.keys())},
            "feature files written twice": len(rewritten),
            "rows of slides.csv": len(rows),
            "half-written files left": len(list(trial.out.rglob(".*"))),
            "workers killed": len(killed),
            "undisturbed: exit code": calm_code,
        }
        told = {id: {"damage": bad.get(id, "none"), "listed as": reason} for id, reason in sorted(errors.items())}
        result = {"runs": runs, "checks": checks, "errors": told, "memory": summary(trial.memory, asked.slides)}
        (work / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(result, indent=2), flush=True)
        write_memory(trial.memory, work / "memory.csv")
        if asked.picture:
            draw(trial.memory, asked.picture, asked.slides)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=False)


def summary(memory: list[dict[str, float]], slides: int) -> dict[str, float]:
    """Median memory of a worker in MiB over fifths of the cohort."""
    found = {}
    for fifth in range(5):
        low, high = slides * fifth / 5, slides * (fifth + 1) / 5
        values = [
            value for row in memory for name, value in row.items()
            if name.startswith("worker") and low <= row["slides"] < high and value > 200
        ]  # fmt: skip
        found[f"{low:.0f} to {high:.0f} slides"] = round(float(np.median(values))) if values else float("nan")
    return found


def write_memory(memory: list[dict[str, float]], path: Path) -> None:
    """One row a sample, MiB."""
    columns = list(dict.fromkeys(name for row in memory for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: round(value, 1) for name, value in row.items()} for row in memory)


def draw(memory: list[dict[str, float]], path: Path, slides: int) -> None:
    """Memory of each process over the slides that are done."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, label, colour in (("worker", "a worker", "#1f77b4"), ("main", "the process that was started", "#d62728")):
        dots = [(row["slides"], value) for row in memory for key, value in row.items() if key.startswith(name)]
        axes.plot(*zip(*dots, strict=True), ".", markersize=2, color=colour, label=label)
    axes.set(xlabel="slides encoded", ylabel="resident memory in MiB", xlim=(0, slides), ylim=(0, None))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, markerscale=5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()

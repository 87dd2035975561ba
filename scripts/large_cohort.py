"""Puts a cohort of tasks that only wait through the scheduler: what the bookkeeping of 10,000 slides takes.

A task waits 0.1 s, in place of a slide's minutes; one in 250 fails. Workers are killed meanwhile, and the process that
was started (scheduler, records and progress) is killed once, and started again. Everything but the tasks is what
``slides encode --jobs`` runs: ``encode_slides`` with its records.

    python scripts/large_cohort.py --work trial --slides 10001

Above 10,000 slides the table is written as Parquet too. It prints what it found, as JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from medsoft.cluster.client import SLIDES_AT_ONCE, Cluster
from medsoft.cluster.options import Workers
from medsoft.inference.slides import encode_cohort
from medsoft.inference.slides.encode_cohort import EncodeJob, encode_slides
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.progress import slides_progress
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.settings import TileSettings

SECONDS = 0.1
FAILING = 250
WORKERS = 4
KILL_EVERY_SECONDS = 60.0
MIB = 2**20


def wait_in_worker(job: EncodeJob, source: SlideSource, before: SlideStatus | None, path: str | None) -> SlideStatus:
    """In place of encoding a slide: waits; what an earlier run has done is kept, as there."""
    if before is not None and before.status == "encoded":
        return SlideStatus("encoded", tiles=before.tiles, mpp=before.mpp, kept=True)
    time.sleep(SECONDS)
    if int(source.id.split("_")[1]) % FAILING == 0:
        return SlideStatus("failed", "open", "is damaged or cut short")
    return SlideStatus("encoded", tiles=5000, mpp=0.25, mpp_origin="openslide.mpp-x", tissue_mm2=80.0, seconds=SECONDS)


def run(out: Path, slides: int) -> None:
    """The process that is started; prints a line of JSON at its end."""
    encode_cohort.encode_in_worker = wait_in_worker
    sources = [SlideSource(f"slide_{i}", Path(f"/scans/slide_{i}.svs")) for i in range(slides)]
    folder = SlidesFolder(out)
    workers = Workers("local", WORKERS)
    job = EncodeJob(out=folder.path, where=workers, build=dict, sha256="", tiles=TileSettings(0.5, 224))
    begin, used = time.monotonic(), time.process_time()
    with Cluster(workers, folder) as cluster:
        _ = cluster.client
        started = time.monotonic()
        with slides_progress(slides, "encoding") as progress:
            statuses = encode_slides(sources, folder, job, None, cluster, progress)  # type: ignore[arg-type]
        seconds = time.monotonic() - started
    counts = {status: sum(one.status == status for one in statuses) for status in ("encoded", "failed")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {
        "seconds": round(seconds, 1),
        "seconds of starting and ending": round(time.monotonic() - begin - seconds, 1),
        "processor seconds": round(time.process_time() - used, 1),
        "processor milliseconds a slide": round(1000 * (time.process_time() - used) / slides, 2),
        "kept": sum(one.kept for one in statuses),
        "peak MiB": round(peak / MIB),
        **counts,
    }
    print("RESULT " + json.dumps(found), flush=True)


def watch(out: Path, slides: int, kill_at: int | None) -> dict[str, object]:
    """Start it, kill workers now and then, and itself where asked; gives its own result and the memory on the way."""
    words = [sys.executable, __file__, "--work", out.parent, "--slides", slides, "--run", out]
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.parent / "log.txt"
    with log.open("w") as opened:
        process = subprocess.Popen([str(word) for word in words], stdout=opened, start_new_session=True)
    me, memory, killed, done = psutil.Process(process.pid), list[tuple[int, int]](), 0, 0
    next_kill = time.monotonic() + KILL_EVERY_SECONDS
    with log.open() as said:
        while process.poll() is None:
            done += said.read().count("slide_")
            with suppress(psutil.Error):
                memory.append((done, round(me.memory_info().rss / MIB)))
                if done and time.monotonic() > next_kill:
                    next_kill = time.monotonic() + KILL_EVERY_SECONDS
                    if workers := [one for one in me.children() if "spawn_main" in " ".join(one.cmdline())]:
                        workers[0].kill()
                        killed += 1
            if kill_at is not None and done >= kill_at:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.2)
    text = log.read_text()
    results = [json.loads(line[7:]) for line in text.splitlines() if line.startswith("RESULT ")]
    fifths = [rss for at in range(1, 5) for rss in [next((r for d, r in memory if d >= slides * at / 5), None)]]
    found = {"exit code": process.returncode, "workers killed": killed, "MiB after each fifth": fifths}
    return found | (results[0] if results else {"lines of slides": text.count("slide_")})


def rows(file: Path) -> list[dict[str, str]]:
    """Of a table."""
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def parquet_rows(file: Path) -> int | None:
    """Of a table; None where there is none."""
    import pyarrow.parquet as pq

    return pq.read_metadata(file).num_rows if file.is_file() else None


def main() -> None:
    """The whole trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=10_001)
    parser.add_argument("--run", type=Path)
    asked = parser.parse_args()
    if asked.run:
        run(asked.run, asked.slides)
        return
    out = asked.work.resolve() / "out"
    first = watch(out, asked.slides, asked.slides * 2 // 5)
    print(json.dumps({"killed": first}), flush=True)
    kept = SlidesFolder(out).rows()
    second = watch(out, asked.slides, None)
    again = watch(out, asked.slides, None)
    table, errors = rows(out / "slides.csv"), rows(out / "errors.csv")
    expected = {f"slide_{i}" for i in range(0, asked.slides, FAILING)}
    print(
        json.dumps(
            {
                "killed": first, "rows that it left": len(kept), "started again": second, "once more": again,
                "at least seconds": asked.slides * SECONDS / (WORKERS * SLIDES_AT_ONCE),
                "rows": len(table), "rows as Parquet": parquet_rows(out / "slides.parquet"),
                "failed as expected": {row["id"] for row in errors} == expected,
                "other files": sorted(path.name for path in out.iterdir()),
            },
            indent=2,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

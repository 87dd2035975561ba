"""One development part: its candidates are run, cheapest first, compared, and chosen from."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from typing import Any

import yaml

from medsoft.errors import InputError, RunError
from medsoft.evaluation.metrics.table import lower_is_better, metric_name
from medsoft.parsing.lightning_cli import CommandLine
from medsoft.planning.budget import FOR_THE_REPORT, Clock, duration_in_words
from medsoft.planning.candidates import Candidate
from medsoft.planning.measure import cheapest_first
from medsoft.planning.selection import choose
from medsoft.planning.tuning import MOST_TRIALS, Search
from medsoft.runs.auto_folder import AutoFolder
from medsoft.task import Task
from medsoft.training.predict import show_path
from medsoft.workflows.plans.bench import Ran, Workbench, inner_predictions, run_candidate


@dataclass
class Call:
    """What the steps share.

    Attributes:
        line: the command line, parsed, with its table.
        folder: of the call.
        state: what the folder remembers.
        clock: of the budget.
        retries: whether candidates that failed are tried again, from the beginning.
    """

    line: CommandLine
    folder: AutoFolder
    state: dict[str, Any]
    clock: Clock
    retries: bool = False

    @property
    def task(self) -> Task:
        """The question."""
        task: Task = self.line.datamodule.task
        return task

    @property
    def is_finished(self) -> bool:
        """Whether it has reported on all it could, and a larger budget would bring nothing or is not given."""
        states = {entry["state"] for entry in self.state["candidates"]}
        if not self.state["finished"] or states & {"waiting", "running"}:  # stopped at work on a larger budget
            return False
        return not (states & {"no time", "stopped"} and self.state["budget"] > self.state["finished_with"])

    def save(self) -> None:
        """Write the state, with the seconds so far."""
        self.state["seconds"] = self.clock.spent
        self.folder.write(self.state)


def time_left(call: Call) -> float:
    return call.clock.left - FOR_THE_REPORT * call.clock.budget


def develop(call: Call, folder: AutoFolder, state: dict[str, Any], share: int = 1) -> int:
    """Run candidates, cheapest first, and choose.

    Args:
        call: whose budget it is.
        folder: of this development part.
        state: of this folder.
        share: the time that is left is for so many such parts.

    Returns:
        An exit code other than 0 where the user has stopped it.

    Raises:
        RunError: no candidate has finished.
    """
    part = Clock(max(time_left(call), 0.0) / share)
    bench = Workbench(call.line, len(call.line.datamodule.samples), int(state["folds"]))
    for entry in state["candidates"]:
        if entry["state"] == "failed" and call.retries:
            shutil.rmtree(folder.crossval(entry["name"]).path, ignore_errors=True)
            entry |= {"state": "waiting", "reason": ""}
            folder.write(state)
        if entry["state"] in ("no time", "stopped", "running"):
            entry["state"] = "waiting"
    while waiting := [entry for entry in state["candidates"] if entry["state"] == "waiting"]:
        entry = waiting[cheapest_first([needs_now(one, call.state) for one in waiting])[0]]
        needs = needs_now(entry, call.state)
        if needs > part.left:
            _no_time(waiting, part)
            break
        code = _run(call, folder, state, entry, bench, part)
        folder.write(state)
        call.save()
        if code:
            print(f"Stopped. Go on with: medsoft auto --resume {show_path(call.folder.path)}", file=sys.stderr)
            return code
    if call.line.config.tune and (code := _tune(call, folder, state, bench, part)):
        print(f"Stopped. Go on with: medsoft auto --resume {show_path(call.folder.path)}", file=sys.stderr)
        return code
    _choose(call.task, folder, state, call.line.config.seed_everything)
    folder.write(state)
    call.save()
    return 0


def needs_now(entry: dict[str, Any], state: dict[str, Any]) -> float:
    """Seconds that a candidate would take now: features that are there cost nothing."""
    features = entry["candidate"]["features"]
    made = features is None or Candidate.from_json(entry["candidate"]).features.name in state["features"]  # type: ignore[union-attr]
    return float(entry["predicted_seconds"]) + (0.0 if made else float(entry["predicted_features"]))


def _no_time(waiting: list[dict[str, Any]], part: Clock) -> None:
    for entry in waiting:
        entry["state"] = "no time"
        entry["reason"] = (
            f"not started: takes about {duration_in_words(entry['predicted_seconds'])}, and "
            f"{duration_in_words(max(part.left, 0))} of its part of the budget were left"
        )


def _run(
    call: Call, folder: AutoFolder, state: dict[str, Any], entry: dict[str, Any], bench: Workbench, part: Clock
) -> int:
    """Make the features of a candidate, train it on the inner folds, and write down what became of it."""
    candidate, folds = Candidate.from_json(entry["candidate"]), int(state["folds"])
    print(f"{candidate.name}: {candidate.what}; about {duration_in_words(needs_now(entry, call.state))}", flush=True)
    entry["state"] = "running"
    if candidate.features is not None and candidate.features.name not in call.state["features"]:
        try:
            took = bench.make_features(candidate.features, call.folder)
        except (InputError, RunError) as error:  # a full disk, pictures that cannot be read
            entry |= {"state": "failed", "reason": " ".join(str(error).split())}
            print(f"{candidate.name}: failed: {entry['reason']}", flush=True)
            return 0
        call.state["features"][candidate.features.name] = took
        print(f"  features {candidate.features.name}: made in {duration_in_words(took)}", flush=True)
    config = bench.configuration(candidate, call.folder.path / "features", folder.split)
    folder.write_config(config, folder.candidate_config(candidate.name))
    expected = float(entry["predicted_seconds"]) / folds
    seed, trusted = call.line.config.seed_everything, call.line.trusted
    ran: Ran = run_candidate(folder, candidate.name, folds, seed, part, expected, trusted)
    entry["seconds"] = float(entry.get("seconds") or 0) + ran.seconds
    entry["state"] = "waiting" if ran.state == "signal" else ran.state
    entry["reason"] = ran.note
    print(f"{candidate.name}: {_became(ran)}", flush=True)
    return ran.code


def _became(ran: Ran) -> str:
    if ran.state == "done":
        return f"finished in {duration_in_words(ran.seconds)}"
    return f"{ran.state} {ran.note}" if ran.state == "stopped" else f"{ran.state}: {ran.note}".rstrip(": ")


def _choose(task: Task, folder: AutoFolder, state: dict[str, Any], seed: int) -> None:
    """Compare those that have finished, and write down which are taken."""
    by_name = {entry["name"]: entry for entry in state["candidates"]}
    done = [name for name, entry in by_name.items() if entry["state"] == "done"]
    if not done:
        why = "; ".join(f"{name}: {entry.get('reason') or entry['state']}" for name, entry in by_name.items())
        raise RunError(f"no candidate has finished, so that there is nothing to choose: {why}")
    for entry in by_name.values():
        entry["chosen"] = False
    families = {name: by_name[name]["candidate"]["source"] or name for name in done}
    scores = choose({name: inner_predictions(folder, name) for name in done}, task, seed=seed, families=families)
    for score in scores:
        entry = by_name[score.name]
        entry |= {"metric": score.metric, "score": score.value, "low": score.low, "high": score.high}
        entry |= {"difference": score.difference, "difference_low": score.difference_low}
        entry |= {"difference_high": score.difference_high, "chosen": score.chosen, "reason": score.reason}
        interval = "" if score.low is None else f" ({score.low:.3f} to {score.high:.3f})"
        mark = "taken" if score.chosen else "dropped"
        inner = f"inner {metric_name(score.metric)}, mean over {state['folds']} folds: {score.value:.3f}{interval}"
        print(f"  {score.name}: {inner}; {mark}: {score.reason}")
    state["chosen"] = [score.name for score in scores if score.chosen]


def _tune(call: Call, folder: AutoFolder, state: dict[str, Any], bench: Workbench, part: Clock) -> int:
    """Search settings of the best candidate that is trained in steps, each trial a candidate, while there is time.

    Returns:
        An exit code other than 0 where the user has stopped it.
    """
    entries = {entry["name"]: entry for entry in state["candidates"]}
    steps = [n for n, e in entries.items() if e["state"] == "done" and e["candidate"]["config"] != "probe"]
    steps = [name for name in steps if not entries[name]["candidate"]["source"]]
    if not steps:
        print("Nothing to search: no candidate that is trained in steps has finished")
        return 0
    seed = call.line.config.seed_everything
    leader = choose({name: inner_predictions(folder, name) for name in steps}, call.task, draws=1)[0].name
    base = Candidate.from_json(entries[leader]["candidate"])
    config = yaml.safe_load(folder.candidate_config(leader).read_text(encoding="utf-8"))
    sizes = _sizes(base, call.state)
    metric = call.task.primary["metric"]
    search = Search(base, float(config["model"]["lr"]), sizes, lower_is_better(metric), seed)
    trials = [entry for entry in entries.values() if entry["candidate"]["source"] == leader]
    for entry in trials:
        if entry["state"] == "done":
            search.learn(entry["params"], _inner_score(call.task, folder, entry["name"]))
    print(f"Searching settings of {leader} on the inner folds")
    while len(trials) < MOST_TRIALS:
        candidate, params = search.ask()
        scale = (params["size"] / sizes[0]) ** 2 if "size" in params else 1.0
        takes = float(entries[leader]["seconds"]) * scale
        if takes > part.left:
            break
        about = {"name": candidate.name, "what": candidate.what, "why": candidate.why, "chosen": False}
        about |= {"candidate": candidate.to_json(), "predicted_seconds": takes, "predicted_features": 0.0}
        entry = {**about, "params": params, "state": "waiting"}
        state["candidates"].append(entry)
        trials.append(entry)
        code = _run(call, folder, state, entry, bench, part)
        folder.write(state)
        call.save()
        if code:
            return code
        done = entry["state"] == "done"
        search.tell(candidate.name, _inner_score(call.task, folder, candidate.name) if done else None)
    return 0


def _sizes(base: Candidate, state: dict[str, Any]) -> list[int]:
    """Sizes of images to choose from, the candidate's own first: those whose features are there."""
    if base.features is None:
        return []
    others = [Candidate.from_json(entry["candidate"]).features for entry in state["candidates"]]
    there = [one for one in others if one is not None and one.name in state["features"]]
    same = {one.size for one in there if (one.encoder, one.tokens) == (base.features.encoder, base.features.tokens)}
    return [base.features.size, *sorted(same - {base.features.size})]


def _inner_score(task: Task, folder: AutoFolder, name: str) -> float:
    return choose({name: inner_predictions(folder, name)}, task, draws=1)[0].value

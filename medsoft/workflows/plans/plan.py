"""The verb ``plan``: what is in a table, which candidates fit it, and what each would take. Nothing is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table

from medsoft.data.tables.problems import TableError
from medsoft.data.tables.sample_table import SampleTable
from medsoft.data.tables.split import split_holdout
from medsoft.encoders.choice import NONE
from medsoft.errors import InputError
from medsoft.parsing.lightning_cli import CommandLine, read_words
from medsoft.planning.budget import Clock, as_option, duration_in_words, enough, parse_duration
from medsoft.planning.candidates import Candidate
from medsoft.planning.facts import TableFacts, look_at, unreadable
from medsoft.planning.measure import Cost, cheapest_first
from medsoft.planning.rules import number_of_folds, suggestions, why_not
from medsoft.planning.trivial import what_trivial_facts_reach
from medsoft.storage.files import replacing
from medsoft.system.progress import progress
from medsoft.system.terminal import plain_console
from medsoft.training.predict import show_path
from medsoft.training.silence_warnings import silence_warnings
from medsoft.workflows.plans.bench import OF_THE_ENCODER, Workbench, propose_for, require_pictures, without_features

MIB = 2**20

ENCODER = "model.encoder"
"""The option that says which encoder candidates use; no candidate's own network."""


@dataclass(frozen=True)
class Planned:
    """A candidate and what it would take.

    Attributes:
        candidate: it.
        cost: None where it could not be measured.
        note: why not; "" where it was.
    """

    candidate: Candidate
    cost: Cost | None
    note: str = ""


@dataclass(frozen=True)
class Preparation:
    """What is known before anything is trained.

    Attributes:
        facts: of the table.
        folds: inner ones.
        planned: candidates, cheapest first.
        said: what the user should know, a sentence each.
    """

    facts: TableFacts
    folds: int
    planned: list[Planned]
    said: list[str]


def plan(argv: Sequence[str]) -> int:
    """Say what is in a table, which models fit it and this machine, and what each would take; trains nothing.

    Returns:
        0.

    Raises:
        InputError: the table or an option is wrong.
    """
    silence_warnings()
    words = read_words("plan", argv)
    line = CommandLine("plan", words.without(ENCODER))
    budget = parse_duration(line.config.budget)
    out = _file_to_write(line.config.out)
    split_for_report(line, nested=False)
    clock = Clock(budget)
    made = prepare(line, nested=False, encoder=words.last(ENCODER))
    print("\n".join([*line.notes, *made.facts.in_words(), *made.said]))
    _print_candidates(made, clock)
    if out is not None:
        _write(line, made, out)
    return 0


def split_for_report(line: CommandLine, nested: bool) -> SampleTable:
    """Set a test part aside, unless the table has one or every row will be reported by nested cross-validation.

    The data module's table has the splits train and test from here on.

    Returns:
        That table.

    Raises:
        InputError: there are too few patients.
    """
    data, config = line.datamodule, line.config
    samples: SampleTable = data.samples
    if data.task.parts:
        raise InputError(
            "data.targets: plan and auto choose a model for one target: name it with --data.label, or train several "
            "with medsoft fit"
        )
    is_test = (samples.frame["split"] == "test").to_numpy()
    share = config.data.test_fraction
    if nested and is_test.any():
        raise InputError(
            f"{samples.source}: has rows of the split test, which are for the report: leave out --nested, or that "
            "column of the table"
        )
    if is_test.all():
        raise InputError(f"{samples.source}: all rows are of the split test: there is nothing to develop on")
    if nested or is_test.any() or share == 0:
        parts = np.where(is_test, "test", "train")
    else:
        parts = split_holdout(
            samples.strata, samples.groups, {"train": 1 - share, "test": share}, config.seed_everything
        )
    data.samples = samples.with_split(parts)
    table: SampleTable = data.samples
    return table


def prepare(line: CommandLine, nested: bool, encoder: str | None = None, trains: bool = False) -> Preparation:
    """Look at the table, propose candidates, and measure what they take.

    Args:
        line: the command line, its table split.
        nested: whether every row will be reported.
        encoder: the only one that candidates may use; ``none`` for none; None leaves it to the rules.
        trains: whether candidates are trained next: then every file is read, and not some of them.

    Raises:
        TableError: files cannot be read, and such rows are not to be left out.
        InputError: these are bags, the table is too small, or no such candidate fits it.
    """
    require_pictures(line)
    data, config = line.datamodule, line.config
    if trains and config.data.on_error == "error" and config.data.get("check_files"):
        # What a candidate would come upon after an hour, if only some files were looked at.
        files, limit = getattr(data, "files", None), config.data.get("max_pixels")
        if problems := unreadable(data.samples, data.unit, files, limit):
            raise TableError(str(data.samples.source), problems)
    facts = look_at(data.samples, data.unit, getattr(data, "files", None), config.data.get("max_pixels"))
    folds = number_of_folds(facts, config.folds)
    proposed, said = propose_for(line, facts, encoder)
    if config.shortcuts:
        seed = config.seed_everything
        columns = data.covariate_columns
        said += what_trivial_facts_reach(data.samples, facts.pictures.trivial, columns, data.label_columns, seed)
    wanted = [name.strip() for name in config.candidates.split(",")] if config.candidates else []
    there = [candidate.name for candidate in proposed]
    if unknown := [name for name in wanted if name not in there]:
        why = "".join(f"; {reason}" for name in unknown if (reason := why_not(name, facts)))
        raise InputError(f"--candidates {', '.join(unknown)}: for this table there are {', '.join(there)}{why}")
    planned = []
    asked = [candidate for candidate in proposed if not wanted or candidate.name in wanted]
    no_heads = without_features(data)
    _refuse_of_the_encoder(line, [] if no_heads else asked)
    with tempfile.TemporaryDirectory() as scratch, progress("measuring candidates", len(asked)) as step:
        bench = Workbench(line, facts.rows, folds, Path(scratch))
        for candidate in asked:
            try:
                if no_heads and candidate.features is not None:
                    raise InputError(no_heads)
                planned.append(Planned(candidate, bench.cost(candidate)))
            except InputError as error:
                planned.append(Planned(candidate, None, " ".join(str(error).split())))
            step()
    # Those that take about as long stay in the order of the rules, whatever the noise of the measurement.
    measured = [one for one in planned if one.cost is not None]
    order = cheapest_first([one.cost.all for one in measured if one.cost is not None])
    planned = [*(measured[place] for place in order), *(one for one in planned if one.cost is None)]
    if not any(one.cost for one in planned):
        raise InputError(f"no candidate fits this table: {planned[0].candidate.name}: {planned[0].note}")
    return Preparation(facts, folds, planned, [*said, *suggestions(facts, folds, nested)])


def _refuse_of_the_encoder(line: CommandLine, asked: Sequence[Candidate]) -> None:
    """Refuse settings of the preparation that candidates on features would not obey."""
    on_features = [candidate for candidate in asked if candidate.features is not None]
    for name in OF_THE_ENCODER:
        value = line.words.last(f"transforms.{name}")
        if value is not None and on_features:
            others = [candidate.name for candidate in asked if candidate.features is None]
            alone = f"--candidates {','.join(others)}" if others else f"--{ENCODER} {NONE}"
            raise InputError(
                f"--transforms.{name} {value}: is decided by the encoder for candidates on features "
                f"({', '.join(candidate.name for candidate in on_features)}). Leave it out, or compare networks that "
                f"read the pictures alone: {alone}"
            )


def _print_candidates(made: Preparation, clock: Clock) -> None:
    """What each takes, and why it is among them.

    Args:
        made: what is known.
        clock: of the budget; auto would measure too.
    """
    measured = clock.spent
    table = Table("candidate", "time", "features", "memory of a step", title=f"Candidates on {made.folds} inner folds")
    total, within = 0.0, 0
    done: set[str] = set()
    for one in made.planned:
        name, features = one.candidate.name, one.candidate.features
        if one.cost is None:
            table.add_row(name, "cannot run", "", "")
            continue
        once = one.cost.features if features is not None and features.name not in done else 0.0
        done |= set() if features is None else {features.name}
        total += one.cost.seconds + once
        within += enough(measured, total) <= clock.budget
        made_once = duration_in_words(once) if once else "" if features is None else "as above"
        memory = f"{one.cost.bytes / MIB:,.0f} MiB" if one.cost.bytes else ""
        table.add_row(name, duration_in_words(one.cost.seconds), made_once, memory)
    console = plain_console(soft_wrap=True)
    console.print(table)
    for one in made.planned:
        why = f"Cannot run: {one.note}" if one.cost is None else one.candidate.why
        console.print(f"{one.candidate.name}: {one.candidate.what}. {why}")
    fits = f"{within} of {len(made.planned)} candidates fit into {duration_in_words(clock.budget)}"
    budget = as_option(enough(measured, total))
    console.print(f"{fits}; all of them take about {duration_in_words(total)}: medsoft auto --budget {budget}")


def _file_to_write(out: str | None) -> Path | None:
    if out is None:
        return None
    path = Path(out)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {out}: a plan is a file such as plan.yaml")
    if path.exists():
        raise InputError(f"--out {out}: is there already; choose another name")
    return path


def _write(line: CommandLine, made: Preparation, out: Path) -> None:
    """Write the configuration of a candidate that reads the pictures themselves, so that fit takes it as it is.

    Of these the cheapest; of those that take about as long, the first in the order of the rules.
    """
    usable = [one.candidate for one in made.planned if one.cost is not None]
    on_pictures = [candidate for candidate in usable if candidate.features is None]
    candidate = (usable if line.config.candidates else [*on_pictures, *usable])[0]
    bench = Workbench(line, made.facts.rows, made.folds)
    config: dict[str, Any] = bench.configuration(candidate, Path("features"))
    head = [
        f"# The plan for {made.facts.source}: candidate {candidate.name}, {candidate.what}.",
        f"# Why: {candidate.why}.",
        f"# medsoft fit --config {out.name}, or medsoft crossval --config {out.name} --folds {made.folds}",
    ]
    first = "" if candidate.features is None else bench.encode_command(candidate.features)
    if first:
        head.insert(2, f"# First: {first}")
    with replacing(out) as temporary:
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        temporary.write_text("\n".join(head) + "\n" + text, encoding="utf-8")
    print(f"Wrote {show_path(out)}: {candidate.name}. Train it with medsoft fit --config {show_path(out)}")
    if first:
        print(f"It reads features, which are made first: {first}")

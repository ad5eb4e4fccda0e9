"""How a figure comes about: processes with deadlines, contestants in turn, the median of what the rounds gave."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""From where all processes are started: the jobs' and this suite's modules lie below it."""


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach: at least, or at most, the limit."""

    limit: float
    at_most: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a figure reaches it."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        row: which bar of the suite it belongs to, `P1` and so on.
        what: was measured.
        rival: what it is compared with; empty: with nothing.
        values: one for each round; the figure is their median. Empty: it could not be measured.
        unit: what stands behind the number; `×` for ratios.
        bar: what it has to reach; None: it is shown for comparison.
        problem: why it could not be measured.
        facts: what stands behind it, for the JSON: seconds, epochs, accuracies.
    """

    row: str
    what: str
    rival: str = ""
    values: tuple[float, ...] = ()
    unit: str = "×"
    bar: Bar | None = None
    problem: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The median of the rounds."""
        return statistics.median(self.values) if self.values else None

    def verdict(self, *, quick: bool) -> str:
        """`met`, `MISSED`, `not measured`, or nothing where there is no bar or the sizes are not those of the bar."""
        if self.value is None:
            return "NOT MEASURED"
        if self.bar is None:
            return ""
        if quick:
            return "quick: no verdict"
        return "met" if self.bar.is_met(self.value) else "MISSED"


class Failed(Exception):
    """A contestant did not come to its end."""


@dataclass(frozen=True)
class Outcome:
    """What one contestant did in one round: how long it took, and what it says of it."""

    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """What one contestant did in all rounds; `problem` says why it has fewer outcomes than rounds."""

    outcomes: tuple[Outcome, ...]
    problem: str | None = None

    def facts(self) -> list[dict[str, Any]]:
        """For the JSON."""
        return [{"seconds": round(outcome.seconds, 3), **outcome.facts} for outcome in self.outcomes]


Contestant = Callable[[], Outcome]


@dataclass(frozen=True)
class Bench:
    """What a row needs to be measured.

    Attributes:
        quick: sizes so small that the whole suite takes minutes: it then tests itself, and gives no verdicts.
        rounds: how often each contestant runs; None: as often as the row thinks right.
        folder: scratch.
    """

    quick: bool
    rounds: int | None
    folder: Path

    def say(self, text: str) -> None:
        """Tell people how far it is, with the load of the machine: others' work spoils figures."""
        load = os.getloadavg()[0]
        print(f"[{time.strftime('%H:%M:%S')} load {load:4.1f}] {text}", file=sys.stderr, flush=True)

    def scratch(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def run(self, contestants: Mapping[str, Contestant], *, rounds: int = 1) -> dict[str, Series]:
        """Let each contestant run once a round, in turn, every second round backwards: a drift of the machine then
        strikes all alike. One that fails drops out; the others go on.

        Args:
            contestants: by name.
            rounds: how many are affordable.
        """
        rounds = self.rounds or (1 if self.quick else rounds)
        outcomes: dict[str, list[Outcome]] = {name: [] for name in contestants}
        problems: dict[str, str] = {}
        for number in range(rounds):
            for name in list(contestants)[:: -1 if number % 2 else 1]:
                if name in problems:
                    continue
                try:
                    outcome = contestants[name]()
                except Failed as failed:
                    problems[name] = str(failed)
                    self.say(f"{name}: FAILED: {failed}")
                    continue
                outcomes[name].append(outcome)
                told = " ".join(f"{k}={v}" for k, v in outcome.facts.items() if isinstance(v, int | float | str))
                self.say(f"{name}: {outcome.seconds:.2f} s {told}"[:300])
        return {name: Series(tuple(outcomes[name]), problems.get(name)) for name in contestants}

    def process(
        self, module: str, *arguments: str, deadline_s: float, environment: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run `python -m MODULE …`, cold, to its end; its last argument is a file in which it may report facts.

        Raises:
            Failed: it failed, or did not end in time.
        """
        report = self.scratch() / "report.json"
        command = [sys.executable, "-m", module, *arguments, str(report)]
        seconds, _ = run_process(command, deadline_s=deadline_s, environment=environment)
        return Outcome(seconds, json.loads(report.read_text()) if report.exists() else {})


def run_process(
    command: Sequence[str], *, deadline_s: float, environment: Mapping[str, str] | None = None
) -> tuple[float, str]:
    """Run a process from the repository's root: its wall-clock seconds and what it wrote to standard output.

    It gets a session of its own, and whatever it started ends with it.

    Args:
        command: what to run.
        deadline_s: after so long it is ended.
        environment: variables beside those of this process; an empty value takes one away.

    Raises:
        Failed: it exits with an error, or does not end in time; the end of its standard error is part of the message.
    """
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(environment or {})}
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={name: value for name, value in variables.items() if value},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"`{_short(command)}` did not end within {deadline_s:g} s") from None
        finally:
            seconds = time.perf_counter() - began
            _end_session(process)
        if process.returncode != 0:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise Failed(f"`{_short(command)}` ended with {process.returncode}: {' | '.join(said[-3:])}"[:1500])
    return seconds, output.decode(errors="replace")


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the process' own group: Ray's processes outlive a driver that is killed."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def _short(command: Sequence[str]) -> str:
    return " ".join(Path(word).name if word.startswith("/") else word for word in command)


def ratios(over: Series, under: Series, of: Callable[[Outcome], float] = lambda o: o.seconds) -> tuple[float, ...]:
    """Round by round, what the one has as a multiple of the other's: a round's two ran beside each other in time."""
    return tuple(of(a) / of(b) for a, b in zip(over.outcomes, under.outcomes, strict=False))


def problem_of(*series: Series) -> str | None:
    """Why figures made of these are incomplete; None: they are not."""
    return "; ".join(each.problem for each in series if each.problem is not None) or None


Row = Callable[[Bench], Iterator[Figure]]
"""Measures the figures of one bar of the suite, each told as soon as it is there."""

"""Progress for people, on stderr: a live table on a terminal, one plain line for each member and epoch elsewhere.

    Progress (protocol)
    ├── LiveProgress      a terminal: member × epoch, with validation metrics and the time left
    ├── LineProgress      a log file or a pipe: `[member 3] epoch 4/20 loss 0.3100 val_loss 0.4000`
    └── SilentProgress    nothing

The controller's loop calls these; none of them decides anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.planning.outputs import owner_of
from orchestrator.reporting.words import counted, duration_text, figures_text, validation_first

if TYPE_CHECKING:
    from orchestrator.planning.ports import Clock

MAX_LIVE_MEMBERS = 30
SUMMARY_EVERY_S = 10.0
# A member in one of these trains no more; `trained` and `predicting` still wait to be scored.
_ENDED = frozenset(
    {"trained", "predicting", "done", "succeeded", "late", "diverged", "failed", "not_started", "stopped", "unneeded"}
)


class Progress(Protocol):
    """What the controller tells while it runs. Members are indices, epochs 1-based."""

    def planned(self, members: int, workers: int, run_id: str) -> None:
        """The run begins, or a search has added trials."""

    def note(self, text: str) -> None:
        """Something to know that belongs to no member."""

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        """A member finished `epoch` of at most `epochs`; `logs` is what Keras reported."""

    def member(self, member: int, status: str, message: str | None = None) -> None:
        """A member's status changed."""

    def close(self) -> None:
        """Nothing more comes. May be called twice, and after an error."""


@dataclass(frozen=True)
class MemberProgress:
    """How far one member is; `epochs` is None before its first epoch ended."""

    status: str = "waiting"
    epoch: int = 0
    epochs: int | None = None
    logs: Mapping[str, float] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether it trains no more."""
        return self.status in _ENDED


def own_metrics(
    logs: Mapping[str, float], output: str, outputs: Sequence[str], watched: Collection[str | None] = ()
) -> Mapping[str, float]:
    """What Keras reported of one output and of the model as a whole: of all outputs there is no room in a line.

    Args:
        logs: by Keras' names: those of an output begin with its name, after `val_` if they are of validation.
        output: whose metrics are kept.
        outputs: all of them.
        watched: names that are kept, whosever they are: by them it is decided when to stop and what to keep.
    """
    return {name: value for name, value in logs.items() if name in watched or owner_of(name, outputs) in (None, output)}


def make_progress(stream: TextIO, isatty: bool, environ: Mapping[str, str], clock: Clock) -> Progress:
    """Live on a terminal (without colours where `NO_COLOR` is set), plain lines elsewhere and on a dumb terminal."""
    if isatty and environ.get("TERM") != "dumb":
        return LiveProgress(stream, clock, color=not environ.get("NO_COLOR"))
    return LineProgress(stream, clock)


def time_left(done_member_epochs: int, total_member_epochs: int, elapsed_s: float) -> float | None:
    """Seconds until the last member-epoch at the pace so far; None before the first one.

    An upper bound where members may stop early.
    """
    if done_member_epochs <= 0:
        return None
    return elapsed_s * max(total_member_epochs - done_member_epochs, 0) / done_member_epochs


def epochs_done_and_total(members: Mapping[int, MemberProgress]) -> tuple[int, int]:
    """Member-epochs done, and done plus to come. A member that has ended has none to come; one that has not begun
    is taken to be as long as the longest known; (0, 0) while none is known."""
    known = [m.epochs for m in members.values() if m.epochs is not None]
    longest = max(known, default=0)
    done = sum(m.epoch for m in members.values())
    to_come = sum(max((m.epochs or longest) - m.epoch, 0) for m in members.values() if not m.ended)
    return done, done + to_come


class SilentProgress:
    """Shows nothing."""

    def planned(self, members: int, workers: int, run_id: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        """Nothing."""

    def member(self, member: int, status: str, message: str | None = None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LineProgress:
    """One plain line for each event; for logs.

    Of more than `MAX_LIVE_MEMBERS` members only what comes with a message gets a line of its own, and every
    `SUMMARY_EVERY_S` a line counts the others.
    """

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream, self._clock = stream, clock
        self._members: dict[int, MemberProgress] = {}
        self._started_at = self._told_at = clock.monotonic()

    def planned(self, members: int, workers: int, run_id: str) -> None:
        """`run <id>: 5 members on 2 workers`."""
        if not self._members:
            self._started_at = self._told_at = self._clock.monotonic()
        self._members = {index: self._members.get(index, MemberProgress()) for index in range(members)}
        self._line(_headline(members, workers, run_id))

    def note(self, text: str) -> None:
        """The text."""
        self._line(text)

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        """`[member 3] epoch 4/20 loss 0.3100 val_loss 0.4000 val_accuracy 0.9100`."""
        self._members[member] = MemberProgress("running", epoch, epochs)
        if self._are_many():
            self._count()
            return
        self._line(f"[member {member}] epoch {epoch}/{epochs} {figures_text(logs)}".rstrip())

    def member(self, member: int, status: str, message: str | None = None) -> None:
        """`[member 3] diverged: loss is NaN at epoch 2`."""
        self._members[member] = replace(self._members.get(member, MemberProgress()), status=status)
        if self._are_many() and not message:
            self._count()
            return
        self._line(f"[member {member}] {status}: {message}" if message else f"[member {member}] {status}")

    def close(self) -> None:
        """Nothing: every line is flushed."""

    def _are_many(self) -> bool:
        return len(self._members) > MAX_LIVE_MEMBERS

    def _count(self) -> None:
        now = self._clock.monotonic()
        if now - self._told_at >= SUMMARY_EVERY_S:
            self._told_at = now
            self._line(_summary(self._members, now - self._started_at))

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class LiveProgress:
    """A table that is redrawn in place; for terminals. Notes and members' messages scroll above it."""

    def __init__(self, stream: TextIO, clock: Clock, color: bool = True) -> None:
        self._clock = clock
        self._console = Console(
            file=stream, force_terminal=True, force_jupyter=False, no_color=not color, highlight=False, markup=False
        )
        self._members: dict[int, MemberProgress] = {}
        self._headline = ""
        self._started_at = 0.0
        self._live: Live | None = None

    def planned(self, members: int, workers: int, run_id: str) -> None:
        """Begin to draw."""
        self._members = {index: self._members.get(index, MemberProgress()) for index in range(members)}
        self._headline = _headline(members, workers, run_id)
        if self._live is None:
            self._started_at = self._clock.monotonic()
            # stdout is left alone: with --json it carries the result. What else is written to stderr scrolls above.
            self._live = Live(
                get_renderable=self._view, console=self._console, refresh_per_second=4, redirect_stdout=False
            )
            self._live.start()

    def note(self, text: str) -> None:
        """Print the text above the table."""
        self._console.print(Text(text))

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        """Move a member's row on."""
        self._members[member] = MemberProgress("running", epoch, epochs, dict(logs))

    def member(self, member: int, status: str, message: str | None = None) -> None:
        """Change a member's row; a message is printed above the table."""
        self._members[member] = replace(self._members.get(member, MemberProgress()), status=status)
        if message:
            self._console.print(Text(f"[member {member}] {status}: {message}"))

    def close(self) -> None:
        """Draw a last time and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _view(self) -> RenderableType:
        # Called by the drawing thread too: a copy, so that the dictionary cannot change while it is read.
        members = dict(self._members)
        elapsed_s = self._clock.monotonic() - self._started_at
        most = min(MAX_LIVE_MEMBERS, max(self._console.size.height - 6, 1))
        return live_view(self._headline, members, elapsed_s, most)


def live_view(
    headline: str, members: Mapping[int, MemberProgress], elapsed_s: float, most: int = MAX_LIVE_MEMBERS
) -> RenderableType:
    """The live table: one row for each member, or, of more than `most`, for the running ones; then a summary line."""
    shown = dict(members)
    if len(shown) > most:
        running = [index for index, m in members.items() if not m.ended and m.status != "waiting"]
        shown = {index: members[index] for index in running[:most]}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("member", "epoch"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("metrics", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("status", no_wrap=True)
    for index, member in shown.items():
        style = "red" if member.status in ("failed", "diverged") else "green" if member.ended else ""
        epoch = f"{member.epoch}/{member.epochs}" if member.epochs else "–"
        table.add_row(str(index), epoch, figures_text(validation_first(member.logs)), member.status, style=style)
    return Group(Text(headline, style="bold"), table, Text(_summary(members, elapsed_s)))


def _summary(members: Mapping[int, MemberProgress], elapsed_s: float) -> str:
    counts = Counter(member.status for member in members.values())
    parts = [", ".join(f"{count} {status}" for status, count in sorted(counts.items()))]
    done, total = epochs_done_and_total(members)
    left_s = time_left(done, total, elapsed_s)
    if left_s is not None:
        parts.append(f"{done} of {total} epochs")
        parts.append(f"at most about {duration_text(left_s)} of training left" if left_s > 0 else "training is over")
    return " · ".join(parts)


def _headline(members: int, workers: int, run_id: str) -> str:
    return f"run {run_id}: {counted(members, 'member')} on {counted(workers, 'worker')}"

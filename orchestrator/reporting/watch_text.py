"""A watched run for people: a table that is redrawn on a terminal, lines of what has changed elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.reporting.member_status import MemberStatus, age
from orchestrator.reporting.run_status import RunStatus
from orchestrator.reporting.words import (
    age_text,
    ago,
    at_most_text,
    counted,
    figures_text,
    number_text,
    validation_first,
)

MAX_ROWS = 30
NONE = "–"
_STYLES = {"failed": "red", "diverged": "red", "late": "yellow", "stopped": "yellow", "not_started": "dim"}
_GOOD = ("trained", "succeeded")
_BAD = ("failed", "diverged")


def watch_view(run: RunStatus, now: float, most: int = MAX_ROWS) -> RenderableType:
    """The table: the run, then its members; of more than fit those that are at work, then those that are not well.

    Args:
        run: where it stands.
        now: UTC epoch seconds, for ages.
        most: rows that fit.
    """
    head = Text(f"run {run.run_id}: {run.status}", style="bold")
    facts = Text(" · ".join(_facts(run, now)))
    shown = shown_members(run.members, most)
    parts: list[RenderableType] = [head, facts, _table(shown, now)]
    if len(shown) < len(run.members):
        parts.append(Text(f"{len(run.members) - len(shown)} more members are not shown", style="dim"))
    parts.append(Text(_counts(run.members)))
    if run.message:
        parts.append(Text(run.message, style="red"))
    return Group(*parts)


def shown_members(members: Sequence[MemberStatus], most: int) -> list[MemberStatus]:
    """The members that a table of at most so many rows shows, in their order."""
    if len(members) <= most:
        return list(members)

    def rank(member: MemberStatus) -> tuple[bool, bool, float]:
        return member.status != "started", member.status not in _BAD, -(member.sign_at or 0.0)

    return sorted(sorted(members, key=rank)[:most], key=lambda member: member.index)


def _table(members: Sequence[MemberStatus], now: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("member", "status", "epoch", "loss", "validation", "age", "left", "try", "by"):
        right = heading in ("member", "epoch", "loss", "age", "left", "try")
        # Where there is little room, it is the one column that may be wrapped that gets less; its cells may not be.
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "validation")
    for member in members:
        style = "green" if member.status in _GOOD else _STYLES.get(member.status, "")
        table.add_row(*_cells(member, now), style=style)
    return table


def _cells(member: MemberStatus, now: float) -> tuple[str | Text, ...]:
    written = age(member.sign_at, now)
    return (
        str(member.index),
        member.status.replace("_", " "),
        _epochs(member) if member.epoch or member.status == "started" else NONE,
        number_text(member.scores["loss"]) if "loss" in member.scores else NONE,
        Text(_validation(member) or NONE, no_wrap=True, overflow="ellipsis"),
        NONE if written is None else age_text(written),
        NONE if member.left_s is None else at_most_text(member.left_s),
        str(member.attempts) if member.attempts else NONE,
        _trained_by(member) or NONE,
    )


def _epochs(member: MemberStatus) -> str:
    return f"{member.epoch}/{NONE if member.max_epochs is None else member.max_epochs}"


def _validation(member: MemberStatus) -> str:
    """`accuracy 0.7500 loss 0.6000`: the loss last."""
    own = {name.removeprefix("val_"): value for name, value in member.scores.items() if name.startswith("val_")}
    names = sorted(own, key=lambda name: (name == "loss", name))
    return " ".join(f"{name} {number_text(own[name])}" for name in names)


def _figures(member: MemberStatus) -> dict[str, float]:
    """The loss, and the validation metrics where there are some."""
    loss = {name: value for name, value in member.scores.items() if name == "loss"}
    return {**loss, **validation_first(member.scores)}


def _trained_by(member: MemberStatus) -> str:
    return " ".join(part for part in (member.worker, member.engine) if part)


def _facts(run: RunStatus, now: float) -> list[str]:
    facts = [f"start {run.terms}"] if run.terms else ["nobody has started it yet"]
    if run.started_at is not None:
        facts.append(f"began {ago(age(run.started_at, now))}")
    if run.sign_at is not None:
        facts.append(f"last sign of life {ago(age(run.sign_at, now))}")
    if run.left_s is not None:
        facts.append(f"{at_most_text(run.left_s)} of training left")
    if run.score is not None:
        facts.append(_score(run))
    return facts


def _score(run: RunStatus) -> str:
    score = run.score
    if score is None:
        return ""
    rows = score.scored_on.replace("_", "-")
    return f"ensemble of {score.num_members}: {rows} {score.metric} {number_text(score.value)}"


def _counts(members: Sequence[MemberStatus]) -> str:
    counts = Counter(member.status.replace("_", " ") for member in members)
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return f"{counted(len(members), 'member')}: {told}" if told else ""


def changes(before: RunStatus | None, run: RunStatus, now: float) -> list[str]:
    """What has changed since the look before, a line for each member, and one for the run.

    Args:
        before: the status that was told before; None: nothing was.
        run: where it stands.
        now: UTC epoch seconds, for ages.
    """
    lines = []
    if before is None or (before.status, before.terms) != (run.status, run.terms):
        lines.append(f"run {run.run_id}: {run.status} ({', '.join(_facts(run, now))})")
    known = {} if before is None else {member.index: member for member in before.members}
    for member in run.members:
        if _told(known.get(member.index)) != _told(member):
            lines.append(_line(member, now))
    if run.score is not None and (before is None or before.score != run.score):
        lines.append(f"run {run.run_id}: {_score(run)}")
    if run.message and (before is None or before.message != run.message):
        lines.append(f"run {run.run_id}: {run.message}")
    return lines


def _told(member: MemberStatus | None) -> tuple[object, ...]:
    """What of a member is worth a line when it changes; one that has not begun is worth none."""
    if member is None:
        return "not_started", 0, 0
    return member.status, member.attempts, member.epoch


def _line(member: MemberStatus, now: float) -> str:
    parts = [member.status.replace("_", " ")]
    if member.epoch:
        parts.append(f"epoch {_epochs(member)}")
    parts += [text for text in (figures_text(_figures(member)),) if text]
    details = [f"attempt {member.attempts}"] if member.attempts > 1 else []
    details += [text for text in (_trained_by(member), ago(age(member.sign_at, now))) if text]
    told = f"[member {member.index}] {' '.join(parts)}"
    return f"{told} ({', '.join(details)})" if details else told

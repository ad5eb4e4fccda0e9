"""What the members did: their learning curves, the table of all of them, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orchestrator.reporting.html.charts import weights_chart
from orchestrator.reporting.html.curves import history_of, learning_charts
from orchestrator.reporting.html.draw import sparkline
from orchestrator.reporting.html.parts import NONE, Cell, Facts, Part, Section, Table, table
from orchestrator.reporting.outputs import OutputResult, by_output, for_output
from orchestrator.reporting.report import OutputData, ReportData, Rows
from orchestrator.reporting.result import MemberResult
from orchestrator.reporting.scores import MemberScores
from orchestrator.reporting.verdict import headline_of, score_text

MOST_POINTS = 24
"""Epochs of a member that its small curve has at most."""

Tell = Callable[[MemberResult], str | Cell]


def curves_section(data: ReportData) -> Section | None:
    """Loss and the metric that tells most over epochs."""
    members = {member.index: member for member in data.result.members}
    histories = [history_of(members[index], rows) for index, rows in data.histories.items() if rows]
    charts = learning_charts(histories, data.result.outputs)
    if not charts:
        return None
    intro = (
        "Training dashed, validation drawn through. A member overfits where its training loss goes on falling and its "
        "validation loss rises again; where both still fall at the last epoch, it could have learnt for longer."
    )
    return Section("curves", "Learning curves", intro, tuple(charts))


def members_section(data: ReportData) -> Section:
    """Every member, in a table that can be sorted."""
    members, facts = data.result.members, _common(data.result.members)
    columns = {title: tell for title, tell in _columns(data).items() if any(_told(tell(m)) for m in members)}
    rows = [[tell(member) for tell in columns.values()] for member in members]
    words = ("status", "builder", "engine", "message", "curve")
    all_members: Table = table(
        "All members; a heading sorts by its column", tuple(columns), rows, text=words, sortable=True
    )
    parts: list[Part] = [Facts(tuple(facts.items())), all_members] if facts else [all_members]
    intro = (
        "Loss is the monitored loss at the best epoch; the small curve is the same loss over epochs, its dot the best."
    )
    return Section("members", "Members", intro, tuple(parts))


def weights_section(data: OutputData) -> Section | None:
    """The weights of the weighted average."""
    weights = data.result.weights
    if weights is None or not weights.values:
        return None
    heavy = sum(value > 1e-4 for value in weights.values)
    rows = weights.fitted_on.replace("_", "-")
    fitted = "given by the job" if rows == "given" else f"fitted on {rows} rows by {weights.method}"
    effective = 1 / sum(value * value for value in weights.values)
    facts = Facts(
        (
            ("weights", fitted),
            (f"{data.counted}s that count", f"{heavy} of {len(weights.values)}"),
            (f"worth as many equal {data.counted}s", f"{effective:.1f}"),
        ),
        half=True,
    )
    intro = f"How much each {data.counted} counts in the weighted average. Figures of it are cross-fitted on "
    intro += f"{'validation' if rows == 'given' else rows} rows."
    return Section("weights", "Weights", intro, (weights_chart(weights, data.id("weights"), data.counted), facts))


def _common(members: Sequence[MemberResult]) -> dict[str, str]:
    """What all members share: said once instead of a column each."""
    shared = {"builder": {m.builder for m in members}, "engine": {m.engine for m in members}}
    return {name: next(iter(values)) for name, values in shared.items() if len(values) == 1}


def _columns(data: ReportData) -> dict[str, Tell]:
    """Title → what to tell of a member; columns in which nobody has anything are left out by the caller."""
    members = data.result.members
    common, outputs = _common(members), by_output(data.result).values()
    num_repeats = len({member.fold.repeat for member in members if member.fold is not None})
    columns: dict[str, Tell] = {
        "member": lambda m: str(m.index),
        "configuration": lambda m: NONE if m.fold is None else str(m.configuration),
        "repeat": lambda m: str(m.fold.repeat) if m.fold is not None and num_repeats > 1 else NONE,
        "fold": lambda m: NONE if m.fold is None else str(m.fold.fold),
        "status": lambda m: m.status.replace("_", " "),
        "curve": lambda m: _curve(m, data.histories.get(m.index, ())),
    }
    for own in outputs:
        for split in ("out_of_fold", "validation", "test"):
            for name in dict.fromkeys((headline_of(own), "nll", "mae")):
                columns[f"{split.replace('_', '-')} {name}{for_output(own.output)}"] = _score_of(own, split, name)
    columns["loss"] = lambda m: score_text("loss", m.loss)
    for own in outputs:
        columns[f"weight{for_output(own.output)}"] = _weight_of(own)
    columns |= {
        "dropout": lambda m: NONE if m.dropout is None else f"{m.dropout:.3g}",
    }
    for name in dict.fromkeys(name for member in members for name in member.hyperparameters):
        columns[name] = _hyperparameter(name)
    columns |= {
        "epochs": lambda m: _whole(m.epochs),
        "best epoch": lambda m: _whole(m.best_epoch),
        "stopped at": lambda m: _whole(m.stopped_epoch),
        "attempts": lambda m: str(m.attempts),
        "preemptions": lambda m: str(m.preemptions),
        "seed": lambda m: str(m.seed),
    }
    if "builder" not in common:
        columns["builder"] = lambda m: m.builder
    if "engine" not in common:
        columns["engine"] = lambda m: m.engine
    columns["message"] = lambda m: m.message or NONE
    if not any(member.preemptions for member in members):
        del columns["preemptions"]
    return columns


def _score_of(result: OutputResult, split: str, metric: str) -> Tell:
    scores: dict[int, MemberScores | None] = {member.index: getattr(member, split) for member in result.members}
    return lambda member: score_text(metric, getattr(scores[member.index], metric, None))


def _weight_of(result: OutputResult) -> Tell:
    """A member's share of what is averaged; those of a configuration share its weight."""
    weights = result.weights
    by_member = dict(zip(weights.members, weights.values, strict=False)) if weights else {}
    sizes = {each.index: len(each.members) for each in result.configurations}

    def tell(member: MemberResult) -> str:
        found = by_member.get(member.configuration)
        return NONE if found is None else f"{found / sizes.get(member.configuration, 1):.4f}"

    return tell


def _hyperparameter(name: str) -> Tell:
    def tell(member: MemberResult) -> str:
        value = member.hyperparameters.get(name)
        return NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    return tell


def _curve(member: MemberResult, rows: Rows) -> Cell:
    name = "val_loss" if any("val_loss" in row for row in rows) else "loss"
    step = -(-len(rows) // MOST_POINTS) or 1
    shown: list[Mapping[str, float]] = list(rows[::step])
    best = None if member.best_epoch is None else (member.best_epoch - 1) // step
    return Cell("", svg=sparkline([float(row.get(name, float("nan"))) for row in shown], best))


def _whole(value: int | None) -> str:
    return NONE if value is None else str(value)


def _told(cell: str | Cell) -> bool:
    return cell != NONE if isinstance(cell, str) else bool(cell.text or cell.svg)

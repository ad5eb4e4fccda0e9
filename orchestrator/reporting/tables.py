"""Tables for people: the result of a run and the plan of one. Plain text, or coloured for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.reporting.outputs import OutputResult, by_output, for_output
from orchestrator.reporting.result import MemberResult, Result
from orchestrator.reporting.scores import Figure, MemberScores, SplitScores

NONE = "–"
_PLAN_NUMBERS = ("member", "configuration", "repeat", "fold", "seed", "dropout")
_PLAN_COLUMNS = (*_PLAN_NUMBERS, "builder", "hyperparameters", "storage key")
_SPLITS = {"out-of-fold": "out_of_fold", "val": "validation", "test": "test"}
"""What a split is called where there is little room, and in the result."""

_FIGURES = (
    ("mean of members", "members_mean"),
    ("best member", "best_member"),
    ("ensemble", "ensemble"),
    ("weighted ensemble", "weighted"),
)


def render(result: Result, width: int = 100, color: bool = False) -> str:
    """The result's table as text of at most `width` columns, with ANSI colours if `color`."""
    return to_text(result_table(result), width, color)


def result_table(result: Result) -> RenderableType:
    """Every member; then their mean, the best one, the ensemble and the weighted ensemble; then what to know of them.

    `loss` is a member's monitored loss at its best epoch, `nll` what the stored model scores on the validation rows. Of
    several outputs members are told in the one that decides; figures of the others follow.
    """
    first, *others = by_output(result).values()
    head = Text(f"{result.run_id}: {result.status}, attempt {result.attempt}", style="bold")
    parts: list[RenderableType] = [head, ""]
    if others:
        parts += [Text(f"{first.output}, the output that decides:"), ""]
    parts += [_members_table(first), ""]
    for own in others:
        parts += [Text(f"{own.output} (the best member is that for {own.decides}):"), "", _figures_table(own), ""]
    return Group(*parts, *(Text(line) for line in _footer(result)))


def _members_table(result: OutputResult) -> RenderableType:
    table = plain_table()
    table.add_column("member", overflow="fold")
    for heading in ("seed", "dropout", "epochs", "best\nepoch", "stopped\nat", "loss"):
        table.add_column(heading, justify="right", no_wrap=True)
    scored = _shown(result)
    _add_scores(table, scored)
    for member in result.members:
        scores = [getattr(member, _SPLITS[name]) for name, _ in scored]
        cells = [_score(of, metric) for of, (_, metric) in zip(scores, scored, strict=True)]
        table.add_row(*_member_cells(member), *cells, style=_member_style(member))
    table.add_section()
    _add_figures(table, result, scored, [""] * 6)
    return table


def _figures_table(result: OutputResult) -> RenderableType:
    """The figures of an output alone."""
    table, scored = plain_table(), _shown(result)
    table.add_column("", overflow="fold")
    _add_scores(table, scored)
    _add_figures(table, result, scored, [])
    return table


def _splits(result: OutputResult) -> dict[str, SplitScores]:
    return {name: split for name, attribute in _SPLITS.items() if (split := getattr(result, attribute))}


def _shown(result: OutputResult) -> list[tuple[str, str]]:
    """Split and metric of the columns: two metrics, the second of the first split alone.

    A table of all figures would not fit into 80 columns, and result.json has them.
    """
    metrics = ("rmse", "mae") if result.task == "regression" else ("accuracy", "nll")
    return [(name, metric) for name in _splits(result) for metric in metrics][:3]


def _add_scores(table: Table, scored: Sequence[tuple[str, str]]) -> None:
    for name, metric in scored:
        table.add_column(f"{name}\n{metric}", justify="right", no_wrap=True)


def _add_figures(table: Table, result: OutputResult, scored: Sequence[tuple[str, str]], between: list[str]) -> None:
    for label, attribute in _figures(result):
        figures: dict[str, Figure] = {
            name: figure for name, split in _splits(result).items() if (figure := getattr(split, attribute))
        }
        if figures:
            cells = [_score(figures.get(name), metric) for name, metric in scored]
            row = (_figure_label(label, figures.values()), *between, *cells)
            table.add_row(*row, style="bold" if attribute == result.delivered else "")


def plan_text(
    facts: Mapping[str, object], rows: Sequence[Mapping[str, object]], width: int = 120, color: bool = False
) -> str:
    """A plan as text: facts, one a line, then a table with one row for each member.

    Args:
        facts: what holds for the whole run, in the order to show.
        rows: one mapping for each member; `member`, `seed`, `dropout`, `builder`, `hyperparameters`,
            `storage key` come first, other keys after them; a column that no row has is left out.
        width: in characters; long values are folded.
        color: with ANSI colours.
    """
    known = [name for name in _PLAN_COLUMNS if any(name in row for row in rows)]
    other = dict.fromkeys(name for row in rows for name in row if name not in _PLAN_COLUMNS)
    columns = [*known, *other]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in facts.items():
        grid.add_row(Text(name), Text(_cell(value)))
    table = plain_table()
    for column in columns:
        numeric = column in _PLAN_NUMBERS
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    return to_text(Group(grid, "", table), width, color)


def _member_cells(member: MemberResult) -> Iterable[str]:
    name = f"{member.index}{_fold_of(member)}"
    yield name if member.status == "succeeded" else f"{name} {_spoken(member)}"
    for value in (member.seed, member.dropout, member.epochs, member.best_epoch, member.stopped_epoch):
        yield _cell(value)
    yield _decimals(member.loss)


def _fold_of(member: MemberResult) -> str:
    """` (c1 f2)`, of the second repeat ` (c1 r1 f2)`: configuration, repeat and fold, from 0 on."""
    fold = member.fold
    if fold is None:
        return ""
    return f" (c{fold.configuration}{f' r{fold.repeat}' if fold.repeat else ''} f{fold.fold})"


def _spoken(member: MemberResult) -> str:
    return member.status.replace("_", " ")


def _figure_label(label: str, figures: Iterable[Figure]) -> str:
    member = next((figure.member for figure in figures if figure.member is not None), None)
    return label if member is None else f"{label} ({member})"


def _score(of: MemberScores | Figure | None, metric: str) -> str:
    return _decimals(None if of is None else getattr(of, metric))


def _member_style(member: MemberResult) -> str:
    return {"succeeded": "", "late": "yellow", "stopped": "yellow", "not_started": "dim"}.get(member.status, "red")


def _footer(result: Result) -> Iterable[str]:
    outputs = by_output(result).values()
    scored = [own for own in outputs if _splits(own)]
    if result.validation is None and result.out_of_fold is None:
        yield "There is no validation set, so there is no validation accuracy; loss is the training loss."
    if scored:
        yield from _verdicts(scored)
    for own in outputs:
        yield from _of_output(own)
    if result.search is not None:
        search = result.search
        compared = f"{search.metric}{for_output(search.output)} on validation"
        yield f"search: {len(search.trials)} trials by {search.sampler}, compared by {compared}"
        yield f"members are {search.because}"
    if result.missing:
        missing = ", ".join(map(str, result.missing))
        yield f"missing from the ensemble: {missing} ({len(result.missing)} of {len(result.members)} members)"
    if result.late:
        late = ", ".join(map(str, result.late))
        yield f"late at the deadline, counted with their best epoch so far: {late}"
    rule = result.stop_when
    told = () if rule is None else (*rule.not_trained, *rule.left_out)  # a line for all of them is among the notes
    for member in result.members:
        if member.message and member.index not in told:
            yield f"member {member.index} {_spoken(member)}: {member.message}"
    if result.gate is not None:
        yield f"gate {'passed' if result.gate.passed else 'missed'}: {result.gate.reason}"
    yield from result.notes


def _verdicts(outputs: Sequence[OutputResult]) -> Iterable[str]:
    """Was it worth it, and what flatters the figures; what the lines below say anyway is left to them."""
    # Imported here: whoever reads a plan or a status needs no verdict, and it needs the selection's parts.
    from orchestrator.reporting.verdict import was_it_worth_it, what_flatters

    for own in outputs:
        verdict = was_it_worth_it(own)
        yield f"Was the ensemble worth it{for_output(own.output)}? {verdict.title} {verdict.sentence}"
    yield from what_flatters(outputs)
    yield ""


def _of_output(result: OutputResult) -> Iterable[str]:
    """What the figures of an output are of, and what was fitted for them."""
    name = f"{result.output}: " if result.output else ""
    for split in _splits(result).values():
        yield from (f"{name}{line}" for line in _scored_on(result, split))
    if result.weights is not None:
        weights = result.weights
        how = "" if weights.method == "stacking" else f" (by {weights.method})"
        what = "stacking" if weights.method == "stacking" else "weights"
        rows = weights.fitted_on.replace("_", "-")
        yield name + ("weights given by the job" if rows == "given" else f"{what} fitted on {rows}{how}")
    if result.temperature is not None:
        yield f"{name}calibrated: what is delivered is scaled by a temperature of {result.temperature:.4g}"


def _figures(result: OutputResult) -> Iterable[tuple[str, str]]:
    """Label and name of each figure."""
    for label, attribute in _FIGURES:
        label = "stacked ensemble" if attribute == "weighted" and result.combine == "stacking" else label
        yield (label.replace("member", "configuration") if result.configurations else label), attribute


def _scored_on(result: OutputResult, split: SplitScores) -> Iterable[str]:
    """One line for the split's rows; one more for a figure whose rows were used for more than the others'."""
    yield f"scored on {split.ensemble.scored_on}"
    for label, attribute in _figures(result):
        figure: Figure | None = getattr(split, attribute)
        if figure is not None and figure.scored_on != split.ensemble.scored_on:
            yield f"{label}: scored on {figure.scored_on}"


def _cell(value: object) -> str:
    match value:
        case None:
            return NONE
        case float():
            return f"{value:g}"
        case Mapping():
            return " ".join(f"{key}={_cell(item)}" for key, item in value.items()) or NONE
        case list() | tuple():
            return ", ".join(_cell(item) for item in value) or NONE
        case _:
            return str(value)


def _decimals(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def plain_table() -> Table:
    """A table with a line under its headings and none around it."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, collapse_padding=True)


def to_text(renderable: RenderableType, width: int, color: bool) -> str:
    """What a terminal of `width` columns shows, with ANSI colours if `color`."""
    # Everything a console would find out about its surroundings is given, so that equal input gives equal text.
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        force_jupyter=False,
        highlight=False,
        _environ={},
    )
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"

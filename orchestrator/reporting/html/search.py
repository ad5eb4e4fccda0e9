"""How the members were found: the history of the search, what its parameters were worth, and all trials."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from orchestrator.ensemble.metrics import METRICS
from orchestrator.reporting.html.draw import COLORS, WIDE, draw
from orchestrator.reporting.html.parts import NONE, Cell, Chart, Facts, Key, Part, Section, table
from orchestrator.reporting.outputs import for_output
from orchestrator.reporting.report import ReportData
from orchestrator.reporting.result import SearchResult, TrialResult
from orchestrator.reporting.verdict import score_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SAMPLERS = {
    "grid": "grid: all combinations",
    "random": "random draws",
    "tpe": "TPE (Bayesian)",
    "genetic": "NSGA-II (genetic)",
}


_WIDE_RANGE = 5


def search_section(data: ReportData) -> Section | None:
    """The search, where there was one."""
    search = data.result.search
    if search is None:
        return None
    scored = [trial for trial in search.trials if trial.score is not None]
    num_pruned = sum(trial.status == "pruned" for trial in search.trials)
    facts = (
        ("sampler", _SAMPLERS.get(search.sampler, search.sampler)),
        ("trials", f"{len(search.trials)} of {search.planned}, {len(scored)} of them with a usable model"),
        ("generations", str(1 + max((trial.generation for trial in search.trials), default=-1))),
        *((("pruned", f"{num_pruned} trials, at the score that they had then"),) if num_pruned else ()),
        ("compared by", f"{search.metric}{for_output(search.output)} on the validation set"),
        ("members", search.because),
    )
    parts: list[Part] = [Facts(facts)]
    if scored:
        parts.append(_history_chart(search, scored))
    if search.importance:
        parts.append(_importance_chart(search))
    parts.append(_trials_table(search))
    intro = (
        "Trials were compared on the validation set, so the more there are, the better the best of them looks there by "
        "chance; a test set is not affected. Trials that were not kept are no members, but their predictions are "
        "there: the command evaluate can choose anew with search.keep=best or search.keep=greedy."
    )
    return Section("search", "Search", intro, tuple(parts))


def _history_chart(search: SearchResult, scored: list[TrialResult]) -> Chart:
    greater = METRICS[search.metric].greater_is_better
    places, scores = [trial.index for trial in scored], [float(trial.score or 0.0) for trial in scored]
    best = list(accumulate(scores, max if greater else min))
    borders = [
        trial.index - 0.5
        for trial, before in zip(search.trials[1:], search.trials, strict=False)
        if trial.generation != before.generation
    ]

    def paint(axes: Axes) -> None:
        for border in borders:
            axes.axvline(border, color=COLORS["line"], linewidth=1)
        for kind, color, size in (("pruned", "muted", 3), ("trial", "c2", 4), ("member", "c1", 6)):
            chosen = [(x, y) for x, y, trial in zip(places, scores, scored, strict=True) if _kind(trial) == kind]
            axes.plot([x for x, _ in chosen], [y for _, y in chosen], "o", color=COLORS[color], markersize=size)
        axes.step(places, best, where="post", color=COLORS["c3"])
        if min(scores) > 0 and max(scores) > _WIDE_RANGE * min(scores):  # or a few bad trials would flatten all others
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        axes.set_title(search.metric)
        axes.set_xlabel("trial")

    direction = "highest" if greater else "lowest"
    alt = f"{search.metric} of {len(scored)} trials in their order; the {direction} is {best[-1]:.4g}"
    keys: tuple[Key, ...] = (
        Key("kept as member", "c1", "dot"),
        Key("other trial", "c2", "dot"),
        Key("best so far", "c3"),
    )
    if any(_kind(trial) == "pruned" for trial in scored):
        keys = (*keys, Key("pruned: its score then", "muted", "dot"))
    caption = "The score of each trial in the order of asking; lines part the generations."
    return Chart(draw("search-history", alt, paint, width=WIDE), caption, keys, half=False)


def _kind(trial: TrialResult) -> str:
    return "member" if trial.kept else "pruned" if trial.status == "pruned" else "trial"


def _importance_chart(search: SearchResult) -> Chart:
    ranked = sorted(search.importance.items(), key=lambda item: (-item[1], item[0]))
    names, shares = [name for name, _ in ranked], [share for _, share in ranked]
    places = range(len(names))

    def paint(axes: Axes) -> None:
        axes.barh(places, shares, color=COLORS["c1"], height=0.6)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of the spread of the scores")

    told = ", ".join(f"{name} {share:.0%}" for name, share in ranked)
    longest = max(map(len, names))
    height, left = 1.0 + 0.34 * len(names), min(4.0, 0.3 + 0.085 * longest)
    caption = (
        "Importance of the parameters, by fANOVA over the trials that were made: what a sampler soon left alone has "
        "little to show."
    )
    drawn = draw("search-importance", f"importance of parameters: {told}", paint, width=WIDE, height=height, left=left)
    return Chart(drawn, caption, half=False)


def _trials_table(search: SearchResult) -> Part:
    names = list(dict.fromkeys(name for trial in search.trials for name in trial.hyperparameters))
    failed = any(trial.message for trial in search.trials)
    columns = ("trial", "member", search.metric, *names, "generation", "epochs", "status", *(["message"] * failed))
    rows: list[list[str | Cell]] = [
        [
            str(trial.index),
            "yes" if trial.kept else NONE,
            score_text(search.metric, trial.score),
            *(_value(trial.hyperparameters.get(name)) for name in names),
            str(trial.generation),
            NONE if trial.epochs is None else str(trial.epochs),
            trial.status.replace("_", " "),
            *([trial.message or NONE] * failed),
        ]
        for trial in search.trials
    ]
    words = ("member", "status", "message")
    return table("All trials; a heading sorts by its column", columns, rows, text=words, sortable=True)


def _value(value: Any) -> str:
    return NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value)

"""Was the ensemble worth it? A plain answer from the intervals of what it gains. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.ensemble import metrics
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.reporting.outputs import OutputResult, by_output, for_output
from orchestrator.reporting.result import Result
from orchestrator.reporting.scores import Figure, FigureName, Gain, SplitScores
from orchestrator.reporting.selection import COUNTED

Answer = Literal["clearly", "probably", "cannot be told", "no"]

TITLES: dict[Answer, str] = {
    "clearly": "Yes, clearly.",
    "probably": "Probably yes.",
    "cannot be told": "It cannot be told.",
    "no": "No.",
}
SPOKEN: dict[FigureName, str] = {
    "ensemble": "the ensemble",
    "weighted": "the weighted ensemble",
    "best_member": "the best single member",
    "members_mean": "the mean member",
}
NAMES = {
    "accuracy": "accuracy",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "auc": "AUC",
    "top_k": "top-5 accuracy",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "r2": "R²",
    "gaussian_nll": "Gaussian log-likelihood (negative)",
}
_SHARES = ("accuracy", "top_k")
_VISIBLE = 5e-5
"""Optimism below this is none at the decimals that are shown."""

_ONE_CONFIGURATION = (
    "One whole configuration is all there is: out-of-fold each row is told by one member per repeat, and elsewhere the "
    "average of all its members is delivered. With a second configuration there would be something to compare."
)

_MOSTLY = 0.25
"""`probably`: no more than this part of the 95 % interval lies on the other side, about five chances in six."""


@dataclass(frozen=True)
class Verdict:
    """The answer: in one word, as a title, as a sentence that says what was compared, and what to keep in mind."""

    answer: Answer
    title: str
    sentence: str
    caveats: tuple[str, ...] = ()


def verdict_of(result: Result) -> Verdict:
    """The verdict of the output that decides; those of the others stand first among what to keep in mind."""
    told = {output: was_it_worth_it(own) for output, own in by_output(result).items()}
    first, *others = told
    if not others:
        return told[first]
    lines = (f"{output}: {told[output].title} {told[output].sentence}" for output in others)
    verdict = told[first]
    return Verdict(verdict.answer, f"{first}: {verdict.title}", verdict.sentence, (*lines, *caveats_of(result)))


def caveats_of(result: Result) -> tuple[str, ...]:
    """What to keep in mind of a result; what holds of several outputs is said once."""
    outputs = list(by_output(result).values())
    missing = (line for own in outputs for line in _what_is_missing(own))
    return tuple(dict.fromkeys((*what_flatters(outputs), *missing)))


def was_it_worth_it(result: OutputResult) -> Verdict:
    """Whether what the run delivers in an output is better than the best single member that could be had instead.

    Test rows decide where they tell, else validation rows. The answer is that of the headline metric; where that
    cannot tell and the probabilities are clearly better, it is `probably`.
    """
    caveats = (*what_flatters([result]), *_what_is_missing(result))
    if result.configurations and len(_whole_configurations(result)) == 1:
        return Verdict("cannot be told", TITLES["cannot be told"], _ONE_CONFIGURATION, caveats)
    if sum(member.status in COUNTED for member in result.members) == 1:
        sentence = "One member is all there is: an average of one is that member."
        return Verdict("no", TITLES["no"], sentence, caveats)
    split, gains = _decisive(result)
    if split is None:
        sentence = "There are no rows to score on: neither a validation set nor a test set."
        return Verdict("cannot be told", TITLES["cannot be told"], sentence, caveats)
    delivered: Figure = getattr(split, result.delivered) or split.ensemble
    by_metric = {gain.metric: gain for gain in gains if gain.over == "best_member"}
    headline = headline_of(result)
    if headline not in by_metric:
        sentence = (
            f"On {delivered.scored_on}, {_named(result, result.delivered)} has {_scored(delivered, headline)}; "
            f"how much of that is luck is not known: no interval compares it with a single member."
        )
        return Verdict("cannot be told", TITLES["cannot be told"], sentence, caveats)
    main, second = by_metric[headline], by_metric.get("nll")
    answer = judge(main.gain, main.interval.low, main.interval.high)
    lifted = answer == "cannot be told" and second is not None and second.interval.low > 0
    answer = "probably" if lifted else answer
    best = "" if split.best_member is None else f" ({_unit(result)} {split.best_member.member})"
    sentence = (
        f"On {delivered.scored_on}, {_named(result, result.delivered)} has {_scored(delivered, headline)}: "
        f"{_compared(main)} {spoken(result, 'best_member')}{best}"
    )
    mean = next((gain for gain in gains if gain.over == "members_mean" and gain.metric == headline), None)
    sentence += f", and {_compared(mean)} {spoken(result, 'members_mean')}." if mean else "."
    if second is not None and headline != "nll":
        but = "But its" if lifted or (second.gain > 0) != (main.gain > 0) else "Its"
        when = "" if result.temperature is None else ", before it is scaled by a temperature,"
        sentence += f" {but} {NAMES['nll']}{when} is {_compared(second)} that {_unit(result)}."
    return Verdict(answer, TITLES[answer], sentence, caveats)


def judge(gain: float, low: float, high: float) -> Answer:
    """The answer that a gain and its 95 % interval give; above 0 is better.

    `clearly`: all of the interval is above 0. `probably`: no more than a quarter of it is below. `no`: there is no
    gain, and no more than a quarter of the interval is above 0. Else it cannot be told.
    """
    if low > 0:
        return "clearly"
    width = high - low
    if gain > 0:
        return "probably" if -low <= _MOSTLY * width else "cannot be told"
    return "no" if high <= _MOSTLY * width else "cannot be told"


def headline_of(result: OutputResult) -> str:
    """The metric that everybody looks at first: accuracy, or RMSE for regression."""
    return metrics.headline(TaskKind(result.task))


def score_text(metric: str, value: float | None) -> str:
    """A score as people read it: shares in per cent, all else with the decimals that its size can use."""
    if value is None:
        return "–"
    if metric in _SHARES:
        return f"{100 * value:.2f} %"
    return f"{value:z{_form(value)}}".replace("-", "−")


def gain_text(metric: str, value: float) -> str:
    """A difference with its sign; shares in percentage points."""
    text = f"{100 * value:+z.2f} points" if metric in _SHARES else f"{value:+z{_form(value)}}"
    return text.replace("-", "−")


def _form(value: float) -> str:
    return ".4f" if abs(value) < 10 else ".2f" if abs(value) < 1e5 else ".4g"


def _decisive(result: OutputResult) -> tuple[SplitScores | None, tuple[Gain, ...]]:
    """The split that answers, and its gains of what is delivered."""
    splits = [split for split in (result.test, result.out_of_fold, result.validation) if split is not None]
    told = [(split, tuple(gain for gain in split.gains if gain.of == result.delivered)) for split in splits]
    with_gains = [pair for pair in told if any(gain.over == "best_member" for gain in pair[1])]
    return next(iter(with_gains or told), (None, ()))


def _scored(figure: Figure, metric: str) -> str:
    article = "an" if metric[0] in "aeiou" or metric == "rmse" else "a"
    return f"{article} {NAMES[metric]} of {score_text(metric, getattr(figure, metric))}"


def compared(metric: str, gain: float, low: float, high: float) -> str:
    """`1.70 points better (95 % interval +0.30 to +3.10 points) than`, for any metric."""
    interval = f"(95 % interval {interval_text(metric, low, high)})"
    if gain == 0:
        return "as good as" if low == high == 0 else f"as good {interval} as"
    size = gain_text(metric, abs(gain)).removeprefix("+")
    return f"{size} {'better' if gain > 0 else 'worse'} {interval} than"


def interval_text(metric: str, low: float, high: float) -> str:
    """The ends of a difference's interval: `+0.30 to +3.10 points`."""
    return f"{gain_text(metric, low).removesuffix(' points')} to {gain_text(metric, high)}"


def _compared(gain: Gain) -> str:
    return compared(gain.metric, gain.gain, gain.interval.low, gain.interval.high)


def spoken(result: OutputResult, name: FigureName) -> str:
    """A figure's name in a sentence."""
    told = SPOKEN[name]
    if name == "best_member" and result.output != result.decides:
        told = f"the single member that is best for {result.decides}"
    elif name == "weighted" and result.combine == "stacking":
        told = "the stacked ensemble"
    return told.replace("single member", "member").replace("member", "configuration") if result.configurations else told


def _unit(result: OutputResult) -> str:
    """What is averaged."""
    return "configuration" if result.configurations else "member"


def _whole_configurations(result: OutputResult) -> set[int]:
    """The configurations in the ensemble: those that lack no member."""
    lacking = {member.configuration for member in result.members if member.status not in COUNTED}
    return {configuration.index for configuration in result.configurations} - lacking


def _named(result: OutputResult, name: FigureName) -> str:
    """A figure's name, and its output's where there are several."""
    return f"{spoken(result, name)}{for_output(result.output)}"


def what_flatters(outputs: Sequence[OutputResult]) -> Iterator[str]:
    """What makes the figures look better than they are, or than what they are compared with, a sentence each.

    What holds of the run is said once, and other runs that looked at its rows after all that is of single outputs.
    """
    decisive = outputs[0].out_of_fold or outputs[0].validation
    if outputs[0].test is None and decisive is not None and "also used for" in decisive.members_mean.scored_on:
        yield "There is no test set, so the figures are of rows that training has looked at in the ways just named."
    for own in outputs:
        yield from _optimism(own)
    before = outputs[0].runs_before
    if before is not None and before.runs:
        trials = f" and {before.trials} trials" if before.trials else ""
        yield (
            f"{before.runs} other run{'s' if before.runs > 1 else ''} with {before.members} members{trials} looked at "
            f"the same rows: each look makes a good figure by chance likelier."
        )


def _optimism(result: OutputResult) -> Iterator[str]:
    headline = headline_of(result)
    for name, figure in _fitted(result):
        if figure.optimism.get(headline, 0.0) >= _VISIBLE:
            by = gain_text(headline, figure.optimism[headline]).removeprefix("+")
            yield (
                f"Scored on the very rows that fitted it, {_named(result, name)} would look {by} better: that "
                f"difference is optimism, and is left out of the figures here."
            )


def _what_is_missing(result: OutputResult) -> Iterator[str]:
    if result.missing:
        yield f"{len(result.missing)} of {len(result.members)} members are missing from the ensemble."
    if result.late:
        were = "member was" if len(result.late) == 1 else "members were"
        yield f"{len(result.late)} {were} cut short at the deadline, and count as they were at their best epoch so far."
    if result.gate is not None and not result.gate.passed:
        yield f"The quality gate is missed: {result.gate.reason}."


def _fitted(result: OutputResult) -> Iterator[tuple[FigureName, Figure]]:
    """The figures that were fitted on the rows on which they are scored."""
    for name in dict.fromkeys((result.delivered, "ensemble", "weighted")):
        figure: Figure | None = getattr(result.out_of_fold or result.validation, name, None)
        if figure is not None and figure.optimism:
            yield name, figure

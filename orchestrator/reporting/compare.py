"""Runs side by side: what was asked of them, what they scored, and how much better one is than another.

Two runs that were scored on the same rows are compared row by row: both predictions that they deliver are scored on the
same resamples (`orchestrator.ensemble.intervals`), so what makes a row hard for both cancels, and the interval of the
difference is far narrower than those of the two figures. Elsewhere there is no such interval, and it is said why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.intervals import Resamples, interval, metric_samples
from orchestrator.ensemble.metrics import METRICS, Scores, score
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import DamagedStore, InvalidJob
from orchestrator.planning.outputs import ONLY, part
from orchestrator.planning.ports import Store
from orchestrator.planning.recovery import read_run
from orchestrator.reporting.again import stored_job
from orchestrator.reporting.conclude import evaluate_selection
from orchestrator.reporting.outputs import of_output
from orchestrator.reporting.predictions import Read
from orchestrator.reporting.publish import finished_result
from orchestrator.reporting.result import Result
from orchestrator.reporting.scores import Figure, SplitName
from orchestrator.reporting.selection import groups_of, labels_of, labels_ref
from orchestrator.reporting.verdict import caveats_of
from orchestrator.spec import differing
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log

Float64 = npt.NDArray[np.float64]

SPLITS: tuple[SplitName, ...] = ("test", "out_of_fold", "validation")
"""Test first: its rows were used for nothing else."""


@dataclass(frozen=True)
class Differing:
    """A key whose values, in the order of the runs, are not all the same."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class RunGain:
    """How much better a run is than the first one on a split: above 0 is better, whichever way the metric points.

    `low` and `high` are the ends of the paired 95 % interval.
    """

    split: SplitName
    metric: str
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """A run against the first one, in one output.

    Attributes:
        name: the run's letter.
        gains: by split and metric.
        unpaired: why there are none on a split that one of the two has.
        notes: what is uneven about the comparison.
        output: name of the output; `orchestrator.planning.outputs.ONLY` where neither run has another.
    """

    name: str
    gains: tuple[RunGain, ...]
    unpaired: Mapping[SplitName, str]
    notes: tuple[str, ...] = ()
    output: str = ONLY


@dataclass(frozen=True)
class Comparison:
    """Several runs, by their letters; the first is the one that the others are compared with.

    Attributes:
        results: of the runs.
        spec: keys of the jobs that differ; values are JSON texts.
        origins: digest of the code, fingerprint of the data and versions that differ.
        pairs: each run but the first, against the first: in each output that both have.
        notes: what to keep in mind of the runs.
    """

    results: Mapping[str, Result]
    spec: tuple[Differing, ...]
    origins: tuple[Differing, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """All outputs that any of the runs has, those of the first run first."""
        return tuple(dict.fromkeys(output for result in self.results.values() for output in result.outputs))


def delivered(result: Result, split: SplitName, output: str = ONLY) -> Figure | None:
    """The figure of what a run delivers in an output, of a split; None where the run has no such rows."""
    scores = result.scores(split).get(output)
    if scores is None:
        return None
    figure: Figure | None = getattr(scores, result.delivered)
    return figure or scores.ensemble


def compare_runs(store: Store, layouts: Sequence[RunLayout]) -> Comparison:
    """Compare finished runs with the first of them. Nothing is written; no GPU, no data and no model are needed.

    Args:
        store: where the runs live.
        layouts: of 2 to 26 different runs.

    Raises:
        InvalidJob: too few or too many runs, one that is named twice, or one that has no result yet.
        DamagedStore: a run's log or result is damaged.
    """
    if not 2 <= len(layouts) <= len(ascii_uppercase):
        most = len(ascii_uppercase)
        raise InvalidJob(f"{len(layouts)} runs cannot be compared", where="compare", hint=f"name 2 to {most} runs")
    twice = next((layout for position, layout in enumerate(layouts) if layout in layouts[:position]), None)
    if twice is not None:
        raise InvalidJob("the run is named twice", where=f"run {twice.run_key}", hint="name each run once")
    runs = [_read(store, layout, name) for layout, name in zip(layouts, ascii_uppercase, strict=False)]
    scored = _Scored(runs[0], lambda ref: get_blob(store, ref))
    jobs, unknown = _jobs(store, layouts, runs)
    pairs = tuple(pair for run in runs[1:] for pair in _pairs(runs[0], run, scored))
    return Comparison(
        results={run.name: run.result for run in runs},
        spec=tuple(Differing(key, values) for key, values in differing(jobs)),
        origins=tuple(_origins([run.result for run in runs])),
        pairs=pairs,
        notes=(*unknown, *_cautions(pairs), *_caveats(runs)),
    )


@dataclass(frozen=True)
class _Run:
    name: str
    result: Result
    selection: Mapping[str, Any]

    @property
    def labels(self) -> Mapping[str, Any]:
        """References to the labels of each part; empty where the selection names none."""
        labels: Mapping[str, Any] = self.selection.get("labels", {})
        return labels


def _read(store: Store, layout: RunLayout, name: str) -> _Run:
    memory = read_run(Log.open(store, layout.coord_log).records())
    if memory.done is None:
        raise InvalidJob(
            "the run has no result yet, so there is nothing to compare",
            where=f"run {layout.run_key}",
            hint="`orchestrator status` tells where it stands",
        )
    return _Run(name, finished_result(store, layout, memory), memory.selection or {})


def _jobs(
    store: Store, layouts: Sequence[RunLayout], runs: Sequence[_Run]
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The jobs that can be read, if all can; and what is to be said of the others."""
    jobs: list[Mapping[str, Any]] = []
    notes = []
    for layout, run in zip(layouts, runs, strict=True):
        try:
            jobs.append(stored_job(store, layout))
        except DamagedStore as error:
            notes.append(f"how the jobs differ is not known: {run.name}: {error.what}")
    return ([] if notes else jobs), notes


def _origins(results: Sequence[Result]) -> Iterator[Differing]:
    values = {
        "code digest": [result.code_digest for result in results],
        "data fingerprint": [result.data_fingerprint for result in results],
    }
    for name in sorted({name for result in results for name in result.versions}):
        values[f"version of {name}"] = [result.versions.get(name, "–") for result in results]
    for key, found in values.items():
        if len(set(found)) > 1:
            yield Differing(key, tuple(found))


def _cautions(pairs: Sequence[Pair]) -> Iterator[str]:
    """What comparing itself does to the figures."""
    paired = [pair.name for pair in pairs if pair.gains]
    if len(paired) > 1:
        told = "runs are compared" if len(set(paired)) == len(paired) else "comparisons are made"
        yield (
            f"{len(paired)} {told} with A: even if none of them differed, about one such difference in twenty "
            f"would have an interval beside 0."
        )
    if paired:
        yield "Choosing a run by these rows is a look at them too: the figures of the one that is chosen are flattered."


def _caveats(runs: Sequence[_Run]) -> Iterator[str]:
    """What each run's own report would say; said once of all runs of which it holds."""
    names: dict[str, list[str]] = {}
    for run in runs:
        for line in caveats_of(run.result):
            names.setdefault(line, []).append(run.name)
    yield from (f"{', '.join(of)}: {line}" for line, of in names.items())


def _pairs(first: _Run, run: _Run, scored: _Scored) -> Iterator[Pair]:
    both = [output for output in first.result.outputs if output in run.result.outputs]
    if not both:
        reason = f"they have no output in common: {_outputs_text(first)}, {_outputs_text(run)}"
        splits = {name for name in SPLITS if first.result.scores(name) or run.result.scores(name)}
        yield Pair(run.name, (), {name: reason for name in SPLITS if name in splits}, output=run.result.outputs[0])
    for output in both:
        yield _pair(first, run, output, scored)


def _outputs_text(run: _Run) -> str:
    return f"{run.name} has {', '.join(filter(None, run.result.outputs)) or 'only one, without a name'}"


def _pair(first: _Run, run: _Run, output: str, scored: _Scored) -> Pair:
    gains: list[RunGain] = []
    unpaired: dict[SplitName, str] = {}
    notes: dict[str, None] = {}
    for split in SPLITS:
        if part(split, output) not in {*first.labels, *run.labels}:
            continue
        try:
            reason = _why_unpaired(first, run, output, split, scored.read)
            if reason is None:
                theirs, ours = scored.of(first, output, split), scored.of(run, output, split)
                gains += gains_over(split, theirs, ours)
                notes |= dict.fromkeys(_uneven(first, theirs, run, ours))
        except DamagedStore as error:
            reason = f"what is kept of the predictions cannot be read: {error.what}"
        if reason is not None:
            unpaired[split] = reason
    if not unpaired and not gains:
        unpaired["validation"] = "neither run has rows to score on"
    return Pair(run.name, tuple(gains), unpaired, tuple(notes), output)


def _why_unpaired(first: _Run, run: _Run, output: str, split: SplitName, read: Read) -> str | None:
    """Why the two are not compared row by row; None: their rows are the same."""
    rows = part(split, output)
    lacking = [each.name for each in (first, run) if rows not in each.labels]
    if lacking:
        return f"{lacking[0]} has no {split} set"
    tasks = [of_output(each.result, output).task for each in (first, run)]
    if tasks[0] != tasks[1]:
        return f"they tell different things: {first.name} {tasks[0]}, {run.name} {tasks[1]}"
    prints = [each.result.data_fingerprint for each in (first, run)]
    if prints[0] != prints[1]:
        told = f"{first.name} {prints[0][:12]}, {run.name} {prints[1][:12]}"
        return f"they were not scored on the same rows, for their data differ (fingerprints: {told})"
    if labels_ref(first.selection, rows).sha256 == labels_ref(run.selection, rows).sha256:
        return None
    if np.array_equal(labels_of(first.selection, rows, read), labels_of(run.selection, rows, read)):
        return None  # the same numbers, written by another version
    return "their labels differ, although the data has the same fingerprint"


def _uneven(first: _Run, theirs: ScoredRows, run: _Run, ours: ScoredRows) -> Iterator[str]:
    if theirs.num_outputs != ours.num_outputs:
        told = f"{first.name} between {theirs.num_outputs} classes, {run.name} between {ours.num_outputs}"
        yield f"{told}: the one with fewer has less to choose from"


@dataclass(frozen=True)
class ScoredRows:
    """What a run delivers on a split: its scores, the same on each resample [B], and how many outputs it has."""

    scores: Scores
    samples: Mapping[str, Float64]
    num_outputs: int


def score_rows(task: TaskKind, targets: npt.NDArray[Any], predictions: Float64, resamples: Resamples) -> ScoredRows:
    """Score predictions [N, C] as `orchestrator.ensemble.metrics.score` does, on all rows and on each resample."""
    samples = metric_samples(resamples, task, targets, predictions)
    return ScoredRows(score(task, targets, predictions), samples, predictions.shape[1])


def gains_over(split: SplitName, theirs: ScoredRows, ours: ScoredRows) -> Iterator[RunGain]:
    """How much better ours are than theirs, in each metric that every resample of both defines.

    Both must be of the same rows and resamples: that pairs them.
    """
    for metric in ours.samples:
        upwards = METRICS[metric].greater_is_better
        more, less = (ours, theirs) if upwards else (theirs, ours)
        differences = more.samples[metric] - less.samples[metric]
        gain = getattr(more.scores, metric) - getattr(less.scores, metric)
        if np.isfinite(differences).all() and np.isfinite(gain):
            low, high = interval(differences)
            yield RunGain(split, metric, float(gain), low, high)


@dataclass
class _Scored:
    """Scores what runs deliver when it is first asked for, all of them on the first run's resamples."""

    first: _Run
    read: Read
    _delivered: dict[str, Mapping[str, Float64]] = field(default_factory=dict)
    _known: dict[tuple[str, str], ScoredRows] = field(default_factory=dict)

    def of(self, run: _Run, output: str, split: SplitName) -> ScoredRows:
        """Raises DamagedStore: predictions or labels are gone."""
        rows = part(split, output)
        if (run.name, rows) not in self._known:
            if run.name not in self._delivered:
                self._delivered[run.name] = {
                    part(name, own): each.delivered
                    for own, found in evaluate_selection(run.selection, self.read).items()
                    for name, each in found.items()
                }
            targets = labels_of(self.first.selection, rows, self.read)
            groups = groups_of(self.first.selection, rows, self.read)
            resamples = Resamples(len(targets), int(self.first.selection.get("seed", 0)), groups=groups)
            task = TaskKind(of_output(run.result, output).task)
            self._known[run.name, rows] = score_rows(task, targets, self._delivered[run.name][rows], resamples)
        return self._known[run.name, rows]

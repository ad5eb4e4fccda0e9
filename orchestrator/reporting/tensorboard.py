"""TensorBoard's event files of a finished run, one folder for each member and for each way to combine them.

TensorBoard's own record format and messages, without TensorFlow: the coordinator never imports it. The import takes
0.2 s of a core, so it happens where files are written and nowhere else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from orchestrator.planning.ports import Store
from orchestrator.reporting.experiment import Experiment, Trace
from orchestrator.reporting.scores import FigureName
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.parallel import in_order
from orchestrator.storage.retry import Patience

FORMAT = "brain.Event:2"
"""What the first event of a file says: how the rest is to be read."""


def write_event_files(store: Store, layout: RunLayout, experiment: Experiment) -> None:
    """Put the event files below the run's `tensorboard/`; those of an earlier call are replaced.

    Each member is a run of TensorBoard's: `loss`, `val_loss`, … by epoch as Keras named them, the best model's scores
    (`validation/accuracy`, …) at its epoch, hyperparameters, and the seed and all else as text. `ensemble`, `weighted`,
    `best_member` and `members_mean` have their scores at step 0, and `ensemble` those over its size.

    Args:
        store, layout: where to.
        experiment: the run.

    Raises:
        StoreUnavailable: out of reach.
    """

    def put(run: tuple[str, list[Any]]) -> None:
        name, events = run
        body = encode(events)
        Patience().retry(lambda: store.put(layout.event_file(name), body))

    for _ in in_order(put, _runs(experiment)):
        pass


def encode(events: list[Any]) -> bytes:
    """An event file of these events (`tensorboard.compat.proto.event_pb2.Event`)."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = io.BytesIO()
    writer = RecordWriter(file)
    for event in (Event(file_version=FORMAT, wall_time=events[0].wall_time if events else 0.0), *events):
        writer.write(event.SerializeToString())
    return file.getvalue()


def _runs(experiment: Experiment) -> Iterator[tuple[str, list[Any]]]:
    """Name and events of each of TensorBoard's runs."""
    for member in experiment.members:
        yield member.name, list(_member_events(member))
    for name in get_args(FigureName):
        scores = experiment.scores(name)
        if scores:
            yield name, [_scalars(0, experiment.ended_at, scores), *(_size_events(experiment, name))]


def _size_events(experiment: Experiment, name: FigureName) -> Iterator[Any]:
    """The curve is that of the plain average."""
    if name == "ensemble":
        for size, scores in experiment.curve():
            yield _scalars(size, experiment.ended_at, scores)


def _member_events(trace: Trace) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.summary_v2 import text_pb

    yield Event(
        wall_time=trace.began_at,
        summary=hparams_pb(trace.params(), trial_id=trace.name, start_time_secs=trace.began_at),
    )
    yield Event(wall_time=trace.began_at, summary=text_pb("member", _as_code(_facts(trace))))
    for epoch, at, metrics in trace.epochs():
        yield _scalars(epoch, at, metrics)
    if trace.scores():
        yield _scalars(trace.member.best_epoch or 0, trace.ended_at, trace.scores())


def _facts(trace: Trace) -> Mapping[str, Any]:
    told = ("index", "seed", "status", "engine", "attempts", "preemptions", "epochs", "best_epoch", "stopped_epoch")
    return {name: getattr(trace.member, name) for name in told} | trace.params()


def _as_code(facts: Mapping[str, Any]) -> str:
    """Indented by four, Markdown is a block of code: no value, whatever it holds, is anything but text."""
    lines = json.dumps(facts, indent=1, ensure_ascii=False).splitlines()
    return "\n".join(f"    {line}" for line in lines)


def _scalars(step: int, at: float, values: Mapping[str, float]) -> Any:
    """One event with all values of a step: of each record Python works out two checksums."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
    return Event(step=step, wall_time=at, summary=summary)

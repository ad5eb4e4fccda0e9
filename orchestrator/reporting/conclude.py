"""The result that a selection stands for: a function of its record and of the bytes that it names.

Whoever finishes a selection gets the same result, on the same machine byte for byte, on another type of CPU up to the
rounding of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.planning.outputs import ONLY, part
from orchestrator.reporting.configurations import Told, configurations_of, left_out, member_scores, told_scores
from orchestrator.reporting.evaluate import Evaluated, evaluate_split
from orchestrator.reporting.fitted import Chosen, Rules
from orchestrator.reporting.gate import judge_gate
from orchestrator.reporting.kept import is_short, scored_trials, search_result
from orchestrator.reporting.outputs import gathered
from orchestrator.reporting.predictions import Predictions, Read, by_configuration
from orchestrator.reporting.result import (
    FoldResult,
    MemberResult,
    Result,
    RunsBefore,
    StoppedResult,
    StoredFile,
    WeightsResult,
)
from orchestrator.reporting.scores import SplitName
from orchestrator.reporting.selection import (
    COUNTED,
    chose_greedily,
    groups_of,
    in_ensemble,
    labels_of,
    outputs_of,
    rules_of,
    tasks_of,
)
from orchestrator.spec.varied import PREFIX
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.members import copies_of

Json = Any

SCORED: tuple[SplitName, ...] = ("out_of_fold", "validation", "test")
"""The first that there is chooses the best member, which the others only name."""


def result_of(selection: Mapping[str, Json], layout: RunLayout, read: Read) -> Result:
    """The result that a selection stands for: a function of its record and the blobs that it names.

    Args:
        selection: body of the `selection` record.
        layout: for the keys of the readable copies.
        read: gives the verified bytes of a blob; called from several threads.
    """
    chosen = in_ensemble(selection)
    indices, there = list(by_configuration(chosen)), {member["index"] for member in chosen}
    found = evaluate_selection(selection, read)
    outputs, rules = tuple(found), {output: rules_of(selection, output) for output in found}
    out_of_fold, validation, test = (
        {output: each[name].split if name in each else None for output, each in found.items()} for name in SCORED
    )
    temperatures = {
        output: _decided(each).temperature if rules[output].calibrate else None for output, each in found.items()
    }
    scores = _scores_of(found, indices)
    folded = any("fold" in member for member in selection["members"])
    by_member = member_scores(selection, read) if folded else scores
    tasks = {output: task.value for output, task in tasks_of(selection).items()}
    gate, first = selection["gate"], outputs[0]
    judged = gate and judge_gate(
        **gate, output=first, validation=validation[first], test=test[first], out_of_fold=out_of_fold[first]
    )
    stopped = StoppedResult.model_validate(told) if (told := selection.get("stop_when")) else None
    missing = tuple(member["index"] for member in _wanted(selection, stopped) if member["index"] not in there)
    late = tuple(member["index"] for member in selection["members"] if member["status"] == "late")
    failed_gate = judged is not None and not judged.passed
    return Result(
        run_id=selection["run_id"],
        run_key=layout.run_key,
        attempt=selection["attempt"],
        status="gate_failed" if failed_gate else "partial" if missing or late or is_short(selection) else "succeeded",
        exit_code=3 if failed_gate else 0,
        outputs=outputs,
        task=tasks[ONLY] if outputs == (ONLY,) else tasks,
        combine=rules[first].combine,
        delivered=rules[first].delivered,
        temperature=gathered(temperatures),
        runs_before=RunsBefore(**before) if (before := selection.get("runs_before")) else None,
        validation=gathered(validation),
        test=gathered(test),
        out_of_fold=gathered(out_of_fold),
        members=tuple(_member_result(member, layout, by_member) for member in selection["members"]),
        configurations=configurations_of(selection, scores) if folded else (),
        weights=gathered({output: _weights_result(each, indices) for output, each in rules.items()}),
        gate=judged,
        missing=missing,
        late=late,
        stop_when=stopped,
        search=search_result(selection),
        artifacts=_artifacts(selection, layout),
        timing=selection["timing"],
        spec_digest=selection["spec_digest"],
        code_digest=selection["code_digest"],
        data_fingerprint=selection["data_fingerprint"],
        bases={source: StoredFile(**ref) for source, ref in selection.get("bases", {}).items()},
        versions=selection["versions"],
        notes=(*selection["notes"], *_uncalibrated(selection), *left_out(selection)),
    )


def evaluate_selection(selection: Mapping[str, Json], read: Read) -> dict[str, dict[SplitName, Evaluated]]:
    """What the predictions that a selection names are worth: by output, the one that decides first, on each split.

    It chooses the best member, whose scores all others tell, too. Arguments as for `result_of`.

    Raises:
        DamagedStore: predictions or labels are gone.
    """
    found: dict[str, dict[SplitName, Evaluated]] = {}
    best: int | None = None
    for output in outputs_of(selection):
        found[output] = _evaluate(selection, output, Chosen(best_member=best), read)
        best = _decided(next(iter(found.values()))).best_member
    return found


def _evaluate(selection: Mapping[str, Json], output: str, decided: Chosen, read: Read) -> dict[SplitName, Evaluated]:
    members = in_ensemble(selection)
    indices = list(by_configuration(members))
    task, rules = tasks_of(selection)[output], rules_of(selection, output)
    found: dict[SplitName, Evaluated] = {}
    for name in SCORED:
        rows = part(name, output)
        if rows in selection["labels"]:
            targets, predictions = labels_of(selection, rows, read), Predictions(members, rows, read)
            library, groups = None, groups_of(selection, rows, read)
            if name == "validation" and chose_greedily(selection, output):
                library = Predictions(scored_trials(selection), rows, read)
            found[name] = evaluate_split(name, task, targets, predictions, indices, rules, decided, library, groups)
            decided = found[name].chosen
    return found


def _decided(found: Mapping[SplitName, Evaluated]) -> Chosen:
    """What validation rows have decided of an output."""
    return list(found.values())[-1].chosen if found else Chosen()


def _uncalibrated(selection: Mapping[str, Json]) -> Iterator[str]:
    """What is to be said of outputs that a calibration passes by."""
    numbers = [output for output, task in tasks_of(selection).items() if output and task is TaskKind.REGRESSION]
    if selection.get("calibrate", False) and numbers:
        yield f"not calibrated, for there are numbers and no probabilities: {', '.join(numbers)}"


def _scores_of(
    found: Mapping[str, Mapping[SplitName, Evaluated]], indices: Sequence[int]
) -> dict[SplitName, dict[int, Told]]:
    """Each member's scores, by split and index."""
    return {
        name: {
            index: gathered({output: told_scores(each[name].members[place]) for output, each in found.items()})
            for place, index in enumerate(indices)
        }
        for name in SCORED
        if all(name in each for each in found.values())
    }


def _artifacts(selection: Mapping[str, Json], layout: RunLayout) -> dict[str, str]:
    """Keys of what is kept of the run; of a report, whether or not it could be made: it can be made again."""
    keys = {"result": layout.result, "spec": layout.spec, "members": layout.members}
    made = {"report": layout.report, "tensorboard": layout.tensorboard, "codes": layout.codes}
    return {**keys, **{name: key for name, key in made.items() if selection.get(name)}}


def _wanted(selection: Mapping[str, Json], stopped: StoppedResult | None) -> Sequence[Mapping[str, Json]]:
    """The members that the ensemble is to have: all, or those before the point where `stop_when` had enough."""
    decided_at = None if stopped is None else stopped.decided_at
    return [member for member in selection["members"] if decided_at is None or member["index"] < decided_at]


def _member_result(
    member: Mapping[str, Json],
    layout: RunLayout,
    scores: Mapping[SplitName, Mapping[int, Told]],
) -> MemberResult:
    index, final = member["index"], member["final"] or {}
    at_best = final.get("at_best", {})
    files = {
        kind: StoredFile(key=layout.member_copy(index, name), sha256=final[kind]["sha256"], size=final[kind]["size"])
        for kind, name in copies_of(final).items()
        if kind in final and member["status"] in COUNTED  # copies are made of the selected members alone
    }
    return MemberResult(
        index=index,
        seed=member["seed"],
        builder=member["builder"],
        hyperparameters=_hyperparameters(member),
        dropout=member["kwargs"].get("dropout"),
        status=member["status"],
        attempts=member["attempts"],
        preemptions=member["preemptions"],
        engine=final.get("engine", member.get("engine", "solo")),
        epochs=final.get("epochs"),
        best_epoch=final.get("best_epoch"),
        stopped_epoch=final.get("stopped_epoch"),
        validation=scores.get("validation", {}).get(index),
        test=scores.get("test", {}).get(index),
        loss=at_best.get("val_loss", at_best.get("loss")),
        message=member["message"],
        fold=FoldResult(**fold) if (fold := member.get("fold")) else None,
        out_of_fold=scores.get("out_of_fold", {}).get(index),
        weights_sha256=final.get("weights_sha256"),
        **files,
    )


def _hyperparameters(member: Mapping[str, Json]) -> dict[str, Json]:
    """What differs by member but its dropout rate, which has a place of its own."""
    own = {f"{PREFIX}{key}": value for key, value in member.get("train", {}).items()}
    return {name: value for name, value in member["kwargs"].items() if name != "dropout"} | own


def _weights_result(rules: Rules, indices: Sequence[int]) -> WeightsResult | None:
    members = tuple(indices)
    if rules.combine == "stacking":
        return WeightsResult(members=members, values=(), method="stacking", fitted_on=rules.decides)
    weights = rules.weights
    if weights is None:
        return None
    return WeightsResult(members=members, values=weights.values, method=weights.method, fitted_on=weights.fitted_on)

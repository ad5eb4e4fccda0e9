"""Cross-fitting: what is fitted on validation rows is scored on rows that it was not fitted on.

Rows are dealt into folds; what applies to a fold's rows is fitted on all other rows. So every row gets a prediction,
and none of them knows the row's own label (Stone 1974, "Cross-validatory choice and assessment of statistical
predictions"). The naive figure minus this one is the optimism.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.calibration import apply_temperature, fit_temperature
from orchestrator.ensemble.combine import Accumulator
from orchestrator.ensemble.fitting import Fitter
from orchestrator.ensemble.stacking import check_num_features, fit_stacking
from orchestrator.ensemble.tasks import Array, Float64, Indices, TaskKind
from orchestrator.errors import InvalidData, InvalidJob, OrchestratorError
from orchestrator.planning.folds import deal_rows
from orchestrator.planning.seeds import Namespace

Rows = npt.NDArray[np.bool_]

_STREAM = 1  # of Namespace.SPLITS: 0 splits the data, 2 resamples (see `intervals`)


def assign_folds(
    task: TaskKind, targets: Array, num_folds: int = 5, seed: int = 0, groups: Indices | None = None
) -> Indices:
    """The fold of each row: int64 [N] of 0 … F − 1.

    Rows are shuffled within their class and dealt like cards, class after class. So the sizes of the folds differ by at
    most one, in all and within each class of multi-class and binary targets; other targets count as one class. Groups
    are dealt whole (`planning.folds.deal_rows`): what was fitted on a row would know those that belong to it.

    Args:
        task: what the members tell.
        targets: as `tasks.to_targets` returns them.
        num_folds: at least 2; with fewer rows there are as many folds as rows.
        seed: the job's root seed; the stream is `SeedSequence(seed, spawn_key=(2, 1))`.
        groups: which rows belong together, [N] of 0 … G − 1; with fewer groups than folds there are as many folds as
            groups. None: each row is for itself.

    Raises:
        InvalidData: fewer rows than two, or fewer groups.
        OrchestratorError: fewer folds than two.
    """
    targets = np.asarray(targets)
    num_rows = len(targets)
    if num_folds < 2:
        raise OrchestratorError(f"{num_folds} folds leave no other rows to fit on", where="folds", hint="at least 2")
    if num_rows < 2:
        raise InvalidData(
            f"{num_rows} rows are too few to fit on some and to score on others",
            where="folds",
            hint="give more validation rows, or combine by `mean`, which fits nothing",
        )
    stream = np.random.SeedSequence(seed, spawn_key=(int(Namespace.SPLITS), _STREAM))
    single = task in (TaskKind.MULTICLASS, TaskKind.BINARY)
    if groups is not None:
        num_folds = max(2, min(num_folds, len(np.unique(groups))))
        classes = np.unique(targets, return_inverse=True)[1].reshape(-1) if single else None
        dealt = deal_rows(num_rows, num_folds, int(stream.generate_state(1)[0]), classes=classes, groups=groups)
        return dealt.astype(np.int64)
    rng = np.random.default_rng(stream)
    shuffled = rng.permutation(num_rows)
    if single:
        shuffled = shuffled[np.argsort(targets[shuffled], kind="stable")]
    folds = np.empty(num_rows, dtype=np.int64)
    folds[shuffled] = np.arange(num_rows) % num_folds
    return folds


def cross_fit_weights(fitter: Fitter, folds: Indices, without_fold: int | None = None) -> Float64:
    """The weights [F, M] of each fold, fitted on all rows but the fold's own.

    Args:
        fitter: has seen all members, and knows these folds.
        folds: [N], as `assign_folds` gives them.
        without_fold: no weights are fitted on the rows of this fold either; those of this fold itself stay as they are.

    Raises:
        OrchestratorError: one fold alone.
    """
    also = () if without_fold is None else (without_fold,)
    return np.array([fitter.fit(fold, *also).values for fold, _ in enumerate(_held_out(folds))])


def cross_fit_average(
    task: TaskKind, fitter: Fitter, folds: Indices, members: Iterable[Array], without_fold: int | None = None
) -> Float64:
    """The weighted average [N, C] in which each row's weights are those of its fold.

    Args:
        task: what the members tell.
        fitter, folds, without_fold: as for `cross_fit_weights`.
        members: their predictions [N, C], in member order; read once.
    """
    weights = cross_fit_weights(fitter, folds, without_fold)
    total = Accumulator(task)
    for position, prediction in enumerate(members):
        total.add(prediction, row_weights(weights, folds, position))
    return total.average()


def row_weights(fold_weights: Float64, folds: Indices, member: int) -> Float64:
    """One member's weight for each row, [N]: what `Accumulator.add` takes.

    Args:
        fold_weights: [F, M], as `cross_fit_weights` gives them.
        folds: [N].
        member: position in the second axis.
    """
    weights: Float64 = fold_weights[folds, member]
    return weights


def cross_fit_stacking(
    task: TaskKind,
    targets: Array,
    predictions: Array,
    folds: Indices,
    without_fold: int | None = None,
    *,
    C: float = 1.0,  # noqa: N803
) -> Float64:
    """The stacked prediction [N, C] of each row, by a model fitted on the rows of the other folds.

    Args:
        task, targets, predictions, C: as for `fit_stacking`.
        folds: [N].
        without_fold: no model is fitted on the rows of this fold either; what is told of this fold itself stays.

    Raises:
        InvalidData, InvalidModel, InvalidJob: as `fit_stacking`.
        OrchestratorError: one fold alone.
    """
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    told = np.empty(predictions.shape[1:])
    for held_out in _held_out(folds):
        others = ~held_out if without_fold is None else ~held_out & (folds != without_fold)
        stacking = fit_stacking(task, targets[others], predictions[:, others], C=C)
        told[held_out] = stacking.combine(predictions[:, held_out])
    return told


def check_stackable(task: TaskKind, targets: Array, folds: Indices, num_members: int, width: int) -> None:
    """Refuse, before any member is trained, a stacking that could not be cross-fitted on these rows.

    Args:
        task, targets: as for `fit_stacking`.
        folds: [N].
        num_members: that will be stacked.
        width: outputs of each, C.

    Raises:
        InvalidJob: too many features, or a fold without which the others tell of one class alone.
    """
    check_num_features(num_members, width)
    columns = np.asarray(targets).reshape(len(targets), -1)
    for held_out in _held_out(folds) if task is not TaskKind.REGRESSION else ():
        for output, answers in enumerate(columns[~held_out].T):
            if len(np.unique(answers)) < 2:
                which = f" of label {output}" if columns.shape[1] > 1 else ""
                raise InvalidJob(
                    f"without a fifth of the {len(targets)} validation rows, all answers{which} are {answers[0]}: "
                    f"there is nothing that stacking could tell apart",
                    where="ensemble.combine: stacking",
                    hint="give more validation rows, or combine by `mean` or `weighted`",
                )


def cross_fit_temperature(
    task: TaskKind,
    targets: Array,
    probabilities: Array,
    folds: Indices,
    without: Callable[[int], Array] | None = None,
) -> tuple[Float64, Float64]:
    """Probabilities calibrated by temperatures that were fitted on the other folds.

    Where the probabilities were cross-fitted themselves, those of the other folds know the labels of the fold that is
    calibrated: their weights were fitted on it. `without` gives such as do not (nested cross-fitting, Stone 1974).

    Args:
        task, targets, probabilities: as for `calibration.fit_temperature`.
        folds: [N].
        without: the probabilities [N, C] in which no label of a fold had a part; what they say of that fold's own rows
            is not looked at. None: no label had a part in any.

    Returns:
        The calibrated probabilities [N, C], and the temperatures [F].

    Raises:
        InvalidData, InvalidModel, InvalidJob: as `calibration.fit_temperature`.
        OrchestratorError: one fold alone.
    """
    probabilities, targets = np.asarray(probabilities), np.asarray(targets)
    calibrated, temperatures = np.empty(probabilities.shape), []
    for fold, held_out in enumerate(_held_out(folds)):
        seen = probabilities if without is None else without(fold)
        temperature = fit_temperature(task, targets[~held_out], seen[~held_out])
        calibrated[held_out] = apply_temperature(task, probabilities[held_out], temperature)
        temperatures.append(temperature)
    return calibrated, np.array(temperatures)


def _held_out(folds: Indices) -> Iterator[Rows]:
    """The rows of each fold, as a mask [N]."""
    num_folds = int(folds.max(initial=-1)) + 1
    if num_folds < 2:
        raise OrchestratorError(f"{num_folds} folds leave no other rows to fit on", where="folds", hint="at least 2")
    return (folds == fold for fold in range(num_folds))

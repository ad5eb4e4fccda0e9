"""Stacking: a small model learns from the members' outputs what to answer (Wolpert 1992, "Stacked generalization")."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from orchestrator.ensemble.combine import MemberCheck, from_logits, to_logits
from orchestrator.ensemble.tasks import Array, Float64, Indices, TaskKind, check_predictions
from orchestrator.errors import DamagedStore, InvalidJob, InvalidModel

MAX_FEATURES = 4096
_MAX_STEPS = 2000  # of L-BFGS; some hundreds are usual


@dataclass(frozen=True, eq=False)
class Stacking:
    """A fitted stacking model.

    Attributes:
        task: what the members tell.
        outputs: [K], ascending, the outputs that the rows of `coefficients` are for. All C, but for classes that had no
            row when the model was fitted: it gives them probability 0.
        coefficients: multiclass [K, M, C], of each member's log-probabilities; otherwise [C, M], of the members'
            logits (binary, multilabel) or values (regression) of the same output.
        intercepts: [K].
    """

    task: TaskKind
    outputs: Indices
    coefficients: Float64
    intercepts: Float64

    def combine(self, predictions: Iterable[Array]) -> Float64:
        """The ensemble's prediction [N, C].

        Args:
            predictions: [M, N, C], or any iterable of M arrays [N, C] in member order; read once, one in memory at a
                time.

        Raises:
            InvalidModel: another number of members or outputs than the model was fitted on, shapes that differ, NaN or
                infinite values.
        """
        check, num_members, width = MemberCheck(), self.coefficients.shape[1], self._width()
        sums: Float64 | None = None
        count = 0
        for prediction in predictions:
            values = check.check(prediction, None)
            if count < num_members and values.shape[1] == width:
                share = self._share(count, _features(self.task, values))
                sums = share if sums is None else sums + share
            count += 1
        if sums is None or count != num_members or values.shape[1] != width:
            raise InvalidModel(
                f"stacking was fitted on {num_members} members of {width} outputs, not on these {count}",
                where="stacking",
                hint="combine the same members as were fitted, or fit it anew",
            )
        sums += self.intercepts
        if self.task is TaskKind.REGRESSION:
            return sums
        told = np.zeros((len(sums), width))
        told[:, self.outputs] = from_logits(self.task, sums)
        return told

    def to_json(self) -> str:
        """The model as JSON; every number comes back bit for bit."""
        return json.dumps(
            {
                "task": self.task.value,
                "outputs": self.outputs.tolist(),
                "coefficients": self.coefficients.tolist(),
                "intercepts": self.intercepts.tolist(),
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Stacking:
        """The model that `to_json` wrote.

        Raises:
            DamagedStore: anything else.
        """
        try:
            stored = json.loads(text)
            read = cls(
                task=TaskKind(stored["task"]),
                outputs=np.array(stored["outputs"], dtype=np.int64),
                coefficients=np.array(stored["coefficients"], dtype=np.float64),
                intercepts=np.array(stored["intercepts"], dtype=np.float64),
            )
            wrong = read._what_is_wrong()
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong is not None:
            raise DamagedStore(f"this is no stacking model: {wrong}", where="stacking", hint="fit it anew")
        return read

    def _width(self) -> int:
        return self.coefficients.shape[2] if self.task is TaskKind.MULTICLASS else len(self.outputs)

    def _share(self, member: int, features: Float64) -> Float64:
        of_member: Float64 = self.coefficients[:, member]
        return features @ of_member.T if self.task is TaskKind.MULTICLASS else features * of_member

    def _what_is_wrong(self) -> str | None:
        axes = 3 if self.task is TaskKind.MULTICLASS else 2
        if self.coefficients.ndim != axes or self.coefficients.size == 0 or self.outputs.ndim != 1:
            return f"coefficients of shape {self.coefficients.shape}"
        if not (len(self.outputs) == len(self.coefficients) and self.intercepts.shape == self.outputs.shape):
            return f"{len(self.coefficients)} rows for outputs {self.outputs} and intercepts {self.intercepts}"
        if (np.diff(self.outputs) <= 0).any() or self.outputs[0] < 0 or self.outputs[-1] >= self._width():
            return f"outputs {self.outputs}"
        finite = np.isfinite(self.coefficients).all() and np.isfinite(self.intercepts).all()
        return None if finite else "a number is NaN or infinite"


def fit_stacking(task: TaskKind, targets: Array, predictions: Array, *, C: float = 1.0) -> Stacking:  # noqa: N803
    """Fit a stacking model on the members' predictions.

    Multiclass: one multinomial logistic regression on all members' log-probabilities. Binary and multilabel: a logistic
    regression for each output on the members' logits of that output. Regression: a ridge regression for each output on
    the members' values of it. Probabilities are clipped as in `combine.to_logits`. It fits more numbers than any other
    way to combine, so it needs more rows, and a figure on the same rows flatters it most (see `crossfit`).

    Args:
        task: what the members tell.
        targets: as `tasks.to_targets` returns them.
        predictions: [M, N, C]. Memory: the features in float64 [N, M · C], and about as much again.
        C: inverse strength of the L2 penalty, as scikit-learn has it; for regression the penalty is the variance of the
            output's targets divided by C, so that their unit does not matter.

    Raises:
        InvalidData, InvalidModel: what `tasks.check_predictions` refuses.
        InvalidJob: more than 4,096 features M · C, or rows of fewer than two classes (of a label: all yes or all no).
    """
    predictions = np.asarray(predictions)
    if predictions.ndim != 3 or 0 in predictions.shape:
        raise InvalidModel(
            f"predictions of shape {predictions.shape} cannot be stacked",
            where="stacking",
            hint="the axes are [members, examples, classes]",
        )
    num_members, _, width = predictions.shape
    check_num_features(num_members, width)
    checked = [check_predictions(task, targets, prediction) for prediction in predictions]
    features = np.stack([_features(task, values) for values in checked], axis=1)  # [N, M, C]
    if task is TaskKind.MULTICLASS:
        return _fit_multinomial(targets, features, C)
    columns = np.asarray(targets).reshape(len(targets), -1)
    fit_output = _fit_ridge if task is TaskKind.REGRESSION else _fit_logistic
    fitted = [fit_output(columns[:, output], features[:, :, output], C, output) for output in range(width)]
    return Stacking(
        task=task,
        outputs=np.arange(width),
        coefficients=np.stack([coefficients for coefficients, _ in fitted]),
        intercepts=np.array([intercept for _, intercept in fitted]),
    )


def check_num_features(num_members: int, width: int) -> None:
    """Refuse to stack so many members of so many outputs. Raises InvalidJob above 4,096 features."""
    if num_members * width > MAX_FEATURES:
        raise InvalidJob(
            f"{num_members} members of {width} outputs are {num_members * width} features: more than {MAX_FEATURES}",
            where="ensemble.combine: stacking",
            hint="stack fewer members, or combine by weights",
        )


def _features(task: TaskKind, values: Array) -> Float64:
    return values.astype(np.float64) if task is TaskKind.REGRESSION else to_logits(task, values)


def _fit_multinomial(targets: Indices, features: Float64, inverse_penalty: float) -> Stacking:
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(targets)
    _refuse_one_class(classes, "all rows are of class")
    flat = features.reshape(len(features), -1)
    model = LogisticRegression(C=inverse_penalty, max_iter=_MAX_STEPS).fit(flat, targets)
    rows, intercepts = np.asarray(model.coef_, dtype=np.float64), np.asarray(model.intercept_, dtype=np.float64)
    if len(classes) == 2:  # told as one logit z: softmax(−z/2, z/2) is sigmoid(z)
        rows, intercepts = np.concatenate([-rows, rows]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    return Stacking(TaskKind.MULTICLASS, classes, rows.reshape(len(classes), *features.shape[1:]), intercepts)


def _fit_logistic(answers: Indices, features: Float64, inverse_penalty: float, output: int) -> tuple[Float64, float]:
    from sklearn.linear_model import LogisticRegression

    _refuse_one_class(np.unique(answers), f"all rows of output {output} are")
    model = LogisticRegression(C=inverse_penalty, max_iter=_MAX_STEPS).fit(features, answers)
    return np.asarray(model.coef_[0], dtype=np.float64), float(model.intercept_[0])


def _fit_ridge(values: Float64, features: Float64, inverse_penalty: float, output: int) -> tuple[Float64, float]:
    from sklearn.linear_model import Ridge

    penalty = (float(np.var(values)) or 1.0) / inverse_penalty
    model = Ridge(alpha=penalty).fit(features, values)
    return np.asarray(model.coef_, dtype=np.float64), float(model.intercept_)


def _refuse_one_class(classes: Indices, what: str) -> None:
    if len(classes) < 2:
        raise InvalidJob(
            f"{what} {classes[0]}: there is nothing that stacking could tell apart",
            where="ensemble.combine: stacking",
            hint="give more validation rows, or combine by `mean` or `weighted`",
        )

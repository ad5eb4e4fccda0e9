"""Two convex problems whose answers are weights: none negative, summing to 1 (a point of the simplex).

Both rest on one small solver of quadratic problems. scipy's SLSQP needs minutes for a thousand members, and expectation
maximisation, the usual answer, still moves after thousands of steps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TOLERANCE = 1e-8  # nats per row
_FIRST = 32  # members that enter first; then the working set doubles
_ROUNDS = 100  # 5 to 15 are usual
_RIDGE = 1e-10  # relative to the trace: keeps Cholesky exact where members are copies of each other


def likeliest_mixture(likelihoods: Float64) -> Float64:
    """The weights [M] that minimise the mean of −log Σ_m w_m p_m[n]: the likeliest mixture of fixed components.

    Sequential quadratic programming on a growing working set: Kim, Carbonetto, Stephens and Anitescu 2020 ("A fast
    algorithm for maximum likelihood estimation of mixture proportions using sequential quadratic programming"), with
    candidates chosen by their gradient as in Wang 2007 ("On fast computation of the non-parametric maximum likelihood
    estimate of a mixing distribution"). Adding Σ_m w_m to what is minimised frees the weights from summing to 1 and
    leaves the answer as it is. The gains G_m = mean of p_m / mixture certify it: at the optimum none is above 1, and
    those of members with weight are 1; max G − 1 bounds what is missing, in nats per row.

    Where members are copies of each other, which of them get the copies' weight means nothing; up to 32 members all do.

    Args:
        likelihoods: [M, N], all above 0, M and N at least 1. What is read besides is at most two copies of it.

    Returns:
        [M]; the gains are within 1e-8 of what they should be, or a rounding error keeps them from it.
    """
    num_members, num_rows = likelihoods.shape
    gains = likelihoods @ (1 / likelihoods.mean(axis=0)) / num_rows
    working = np.sort(_largest(gains, _FIRST))
    weights = np.zeros(num_members)
    weights[working] = 1 / len(working)
    mixture = weights[working] @ likelihoods[working]
    for _ in range(_ROUNDS):
        gains = likelihoods @ (1 / mixture) / num_rows
        used = weights > 0
        if gains.max() <= 1 + TOLERANCE and gains[used].min() >= 1 - TOLERANCE:
            break
        entering = _largest(np.where(used, 0, gains), max(_FIRST, int(used.sum())))
        used[entering[gains[entering] > 1]] = True
        working = np.flatnonzero(used)
        moved = _newton_step(likelihoods[working] / mixture, weights[working], gains[working])
        if moved is None:
            break
        weights[:] = 0
        weights[working] = moved / moved.sum()
        mixture = weights[working] @ likelihoods[working]
    return weights


def least_squares(residuals: Float64) -> Float64:
    """The weights [M] that minimise the mean of (Σ_m w_m r_m[n])²: least squares on the simplex.

    Since weights sum to 1, the residual of the average is the average of the residuals. With C their products' means,
    the answer is proportional to the minimum of ½ uᵀCu − Σu over u ≥ 0: their Karush–Kuhn–Tucker conditions are the
    same. Of sets of weights that are equally good up to rounding it is the most even one.

    Args:
        residuals: [M, N], prediction − target.
    """
    products = residuals @ residuals.T
    scale = np.trace(products)
    if scale == 0:
        return np.full(len(residuals), 1 / len(residuals))
    products /= scale
    np.fill_diagonal(products, products.diagonal() + _RIDGE)
    shares = _nonnegative(products, np.ones(len(products)), np.ones(len(products), dtype=np.bool_))
    weights: Float64 = shares / shares.sum()
    return weights


def _newton_step(ratios: Float64, weights: Float64, gains: Float64) -> Float64 | None:
    """Weights [K] of a lower −mean log(mixture) + Σ weights, or None where rounding hides any.

    Args:
        ratios: [K, N], likelihoods / mixture.
        weights, gains: [K], of the working set.
    """
    curvature = ratios @ ratios.T / ratios.shape[1]
    np.fill_diagonal(curvature, curvature.diagonal() + _RIDGE * np.trace(curvature))
    # A minimum of the model whose gradient at `weights` is the true one, 1 − gains: there the ridge pulls nowhere.
    aim = _nonnegative(curvature, curvature @ weights + gains - 1, weights > 0)
    direction = aim - weights
    slope = float((1 - gains) @ direction)
    change = direction @ ratios  # of the mixture, relative
    total = float(direction.sum())
    step = 1.0
    while step > 1e-10:
        lower = step * total - float(np.mean(np.log(np.maximum(1 + step * change, 1e-300))))
        if lower <= 1e-4 * step * slope:  # Armijo
            return weights + step * direction
        step /= 2
    return None


def _nonnegative(curvature: Float64, linear: Float64, free: Bools) -> Float64:
    """The minimum of ½ wᵀAw − bᵀw over w ≥ 0, [K].

    Block principal pivoting: Júdice and Pires 1994, as in Kim and Park 2011 ("Fast nonnegative matrix factorization: an
    active-set-like method and comparisons"). All variables on the wrong side change sides at once; where that stops
    helping, one at a time do, which ends for certain in exact arithmetic.

    Args:
        curvature: A [K, K], positive definite.
        linear: b [K].
        free: [K], where the answer is guessed to be above 0.
    """
    from scipy.linalg import cho_factor, cho_solve

    free = free.copy()
    slack = 1e-12 * np.abs(linear).max()
    fewest, tries = len(linear) + 1, 3
    answer = np.zeros(len(linear))
    for _ in range(10 * len(linear) + 100):
        answer[:] = 0
        if free.any():
            answer[free] = cho_solve(cho_factor(curvature[np.ix_(free, free)]), linear[free])
        wrong = np.where(free, answer < 0, curvature @ answer - linear < -slack)
        count = int(wrong.sum())
        if count == 0:
            break
        if count < fewest:
            fewest, tries = count, 3
        elif tries > 0:
            tries -= 1
        else:
            wrong[: np.flatnonzero(wrong)[-1]] = False
        free ^= wrong
    return np.maximum(answer, 0)


def _largest(values: Float64, count: int) -> npt.NDArray[np.intp]:
    """Positions of the largest values, of equal ones the first."""
    return np.argsort(-values, kind="stable")[:count]

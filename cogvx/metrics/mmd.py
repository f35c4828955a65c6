"""Maximum mean discrepancy: whether two sets of clips, as features, are of one distribution.

Frechet distances need thousands of clips before they are not mostly bias; the unbiased estimate
here is right on average from two on, and worth reporting from 32 a side on. It informs a person,
and decides nothing.

Features are float64 `(n, d)`, one row for each unit that was drawn independently: of a prompt with
several seeds the mean of its features, or p is too small.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

MMD_FROM_ROWS = 32
_PERMUTATIONS = 999
_SEED = 20240812

Kernel = Literal["polynomial", "rbf"]
Features = npt.NDArray[np.floating]
_Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Discrepancy:
    """Squared MMD, unbiased and so below zero now and then, and how often chance exceeds it."""

    squared: float
    p: float


def discrepancy(ours_nd: Features, theirs_md: Features, *, kernel: Kernel) -> Discrepancy | None:
    """Compare two sets of features; None where a side has fewer than 32 rows.

    p is the share of relabellings at random, this one included, that lie as far apart; 0.001 is
    the least. Seeded, so that a report is the same each time it is made.

    Args:
        ours_nd: Features of one side.
        theirs_md: Of the other, by the same encoder.
        kernel: polynomial, as in KID; or rbf, which sees any difference, on the scale of the
            median distance of the pooled rows.

    Raises:
        ValueError: The two sides' features are of different lengths, or not finite.

    Source: Gretton et al. 2012, lemma 6; Phipson and Smyth 2010 for p.
    """
    if ours_nd.ndim != 2 or ours_nd.shape[1:] != theirs_md.shape[1:]:
        raise ValueError(f"features {ours_nd.shape} and {theirs_md.shape} cannot be compared")
    pooled_nd = np.concatenate([ours_nd, theirs_md]).astype(np.float64)
    if not np.isfinite(pooled_nd).all():
        raise ValueError("features are not finite")
    ours, rows = len(ours_nd), len(pooled_nd)
    if min(ours, rows - ours) < MMD_FROM_ROWS:
        return None
    kernel_nn = _polynomial(pooled_nd) if kernel == "polynomial" else _rbf(pooled_nd)
    rng = np.random.default_rng(_SEED)
    is_ours_pn = np.zeros((_PERMUTATIONS + 1, rows))
    is_ours_pn[:, :ours] = 1.0
    is_ours_pn[1:] = rng.permuted(is_ours_pn[1:], axis=1)
    squared_p = _unbiased(kernel_nn, is_ours_pn)
    # The last digits depend on the order of sums; a relabelling that is this one must count.
    tolerance = 1e-12 * float(np.abs(kernel_nn).max())
    return Discrepancy(
        squared=float(squared_p[0]), p=float(np.mean(squared_p >= squared_p[0] - tolerance))
    )


def _unbiased(kernel_nn: _Matrix, is_ours_pn: _Matrix) -> _Matrix:
    """Squared MMD under each labelling, the diagonal left out."""
    off_nn = kernel_nn - np.diag(np.diag(kernel_nn))
    is_theirs_pn = 1.0 - is_ours_pn
    ours, theirs = is_ours_pn[0].sum(), is_theirs_pn[0].sum()
    to_ours_pn = is_ours_pn @ off_nn
    within_ours_p = (to_ours_pn * is_ours_pn).sum(1) / (ours * (ours - 1))
    across_p = (to_ours_pn * is_theirs_pn).sum(1) / (ours * theirs)
    within_theirs_p = ((is_theirs_pn @ off_nn) * is_theirs_pn).sum(1) / (theirs * (theirs - 1))
    squared_p: _Matrix = within_ours_p + within_theirs_p - 2.0 * across_p
    return squared_p


def _polynomial(rows_nd: _Matrix) -> _Matrix:
    """(x.y / d + 1)^3, of KID. Source: arXiv:1801.01401."""
    kernel_nn: _Matrix = (rows_nd @ rows_nd.T / rows_nd.shape[1] + 1.0) ** 3
    return kernel_nn


def _rbf(rows_nd: _Matrix) -> _Matrix:
    """exp(-|x - y|^2 / (2 s^2)), s the median distance. Source: Gretton et al. 2012, section 8."""
    norms_n = np.square(rows_nd).sum(1)
    squared_nn = np.maximum(norms_n[:, None] + norms_n - 2.0 * rows_nd @ rows_nd.T, 0.0)
    middle = float(np.median(np.sqrt(squared_nn[np.triu_indices(len(rows_nd), k=1)])))
    kernel_nn: _Matrix = np.exp(-squared_nn / (2.0 * middle**2 if middle else 1.0))
    return kernel_nn

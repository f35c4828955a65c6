"""How large an adapter is and how far two are apart, layer by layer, never from the product.

The singular values of `B A` are the roots of the eigenvalues of `(B'B)(AA')`, which is as wide as
the rank. Squaring loses the values below a ten-millionth of the largest; nobody looks at those.
Of a difference everybody looks at those, so it is not squared.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cogvx.adapters.weights import LoraPair

_ENERGY = 0.99


@dataclass(frozen=True)
class Size:
    """Of one layer's `B A`, at whatever strength the matrices have.

    Attributes:
        norm: The root of the sum of all squares; NaN or infinite where the matrices are.
        effective_rank: The least rank that holds 99 % of the squared norm; 0 where the norm is 0.
        is_zero: B is all zeros, as before the first step.
    """

    norm: float
    effective_rank: int
    is_zero: bool

    @property
    def is_finite(self) -> bool:
        """Whether the matrices are made of numbers."""
        return math.isfinite(self.norm)


@dataclass(frozen=True)
class Gap:
    """How far apart two changes of one layer's weight are.

    Attributes:
        apart: Norm of their difference; NaN where a matrix is not finite.
        first: Norm of the one.
        second: Norm of the other.
    """

    apart: float
    first: float
    second: float

    @property
    def share(self) -> float:
        """The difference in terms of the first: 0 where they are one, also where both are 0."""
        if self.apart == 0:
            return 0.0
        return self.apart / self.first if self.first else math.inf


def gap_between(first: LoraPair, second: LoraPair) -> Gap:
    """Measure two pairs of one layer, of any ranks, in float64.

    `B1 A1 - B2 A2` is `[B1 -B2]` times A1 over A2, and with `[B1 -B2] = Q R` its norm is that of R
    times the A's, as Q turns without stretching. What is equal in both cancels to the rounding of
    float64, however much smaller the difference is.
    """
    a_si = torch.cat([first.a_ri, second.a_ri]).double()
    b_os = torch.cat([first.b_or, -second.b_or], dim=1).double()
    if not (a_si.isfinite().all() and b_os.isfinite().all()):
        return Gap(math.nan, math.nan, math.nan)
    r_qs = torch.linalg.qr(b_os, mode="r").R
    one_qi, other_qi = (
        r_qs[:, part] @ a_si[part] for part in (slice(first.rank), slice(first.rank, None))
    )
    norms = [float(part.norm()) for part in (one_qi + other_qi, one_qi, other_qi)]
    return Gap(*norms)


def size_of(a_ri: Tensor, b_or: Tensor) -> Size:
    """Measure a pair in float64."""
    a_ri, b_or = a_ri.double(), b_or.double()
    total = a_ri.abs().sum() + b_or.abs().sum()
    if not torch.isfinite(total):
        return Size(norm=math.nan, effective_rank=0, is_zero=False)
    if not b_or.any():
        return Size(norm=0.0, effective_rank=0, is_zero=True)
    squares = _squared_singular_values(a_ri, b_or)
    whole = float(squares.sum())
    held = squares.cumsum(0)
    effective = int((held < _ENERGY * whole).sum()) + 1 if whole else 0
    return Size(norm=math.sqrt(whole), effective_rank=effective, is_zero=False)


def _squared_singular_values(a_ri: Tensor, b_or: Tensor) -> Tensor:
    """Those of `B A`, the largest first, at most as many as the rank."""
    values, vectors = torch.linalg.eigh(b_or.T @ b_or)
    root = vectors * values.clamp_min(0).sqrt()
    found = torch.linalg.eigvalsh(root.T @ (a_ri @ a_ri.T) @ root)
    descending: Tensor = found.clamp_min(0).flip(0)
    return descending

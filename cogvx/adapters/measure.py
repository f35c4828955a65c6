"""How large an adapter is, layer by layer, from two small squares and never from the product.

The singular values of `B A` are the roots of the eigenvalues of `(B'B)(AA')`, which is as wide as
the rank. Squaring loses the values below a ten-millionth of the largest; nobody looks at those.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

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

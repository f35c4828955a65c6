"""How far two adapters are from each other, over all their layers."""

import math
from dataclasses import dataclass

from cogvx.adapters.measure import gap_between
from cogvx.adapters.weights import LoraPair, Pairs
from cogvx.errors import IntegrityError


@dataclass(frozen=True)
class Distance:
    """Norms over all layers: the root of the sum of the squares of what is added to the weights.

    Attributes:
        a: Of what the first adapter adds.
        b: Of what the second one adds.
        apart: Of the difference.
    """

    a: float
    b: float
    apart: float

    @property
    def relative(self) -> float | None:
        """`apart / a`; None where the first adapter adds nothing."""
        return self.apart / self.a if self.a else None


def distance(a: Pairs, b: Pairs) -> Distance:
    """Measure two adapters in float64; a layer that only one of them has is added by that one.

    Raises:
        IntegrityError: A layer of both has different widths, so they are for different bases.
    """
    gaps = []
    for module in {**a, **b}:
        one, other = a.get(module), b.get(module)
        if one is not None and other is not None:
            _require_same_widths(module, one, other)
        present = one or other
        assert present is not None  # a name of one of the two
        nothing = LoraPair(present.a_ri[:0], present.b_or[:, :0])
        gaps.append(gap_between(one or nothing, other or nothing))
    return Distance(
        a=math.hypot(*(gap.first for gap in gaps)),
        b=math.hypot(*(gap.second for gap in gaps)),
        apart=math.hypot(*(gap.apart for gap in gaps)),
    )


def _require_same_widths(module: str, one: LoraPair, other: LoraPair) -> None:
    widths = [(pair.b_or.shape[0], pair.a_ri.shape[1]) for pair in (one, other)]
    if widths[0] != widths[1]:
        raise IntegrityError(
            f"{module} is {widths[0]} (outputs, inputs) in a and {widths[1]} in b, so the adapters "
            "are for different bases"
        )

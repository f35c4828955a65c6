"""How far two adapters are from each other, from small squares and never from the products.

`<B A, D C> = sum of (B'D) * (A C')`, both as wide as the ranks. What it costs is digits: of a
distance below a ten-millionth of the adapters themselves nothing is left.
"""

import math
from dataclasses import dataclass

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
    a_squared = b_squared = both = 0.0
    for module in {**a, **b}:
        one, other = a.get(module), b.get(module)
        a_squared += 0.0 if one is None else _inner(one, one)
        b_squared += 0.0 if other is None else _inner(other, other)
        if one is not None and other is not None:
            _require_same_widths(module, one, other)
            both += _inner(one, other)
    apart = a_squared + b_squared - 2 * both
    # rounding may leave a square just below 0
    roots = (math.sqrt(max(square, 0.0)) for square in (a_squared, b_squared, apart))
    return Distance(*roots)


def _inner(one: LoraPair, other: LoraPair) -> float:
    """The sum over all weights of a layer of the product of what the two add there."""
    outputs_rr = one.b_or.double().T @ other.b_or.double()
    inputs_rr = one.a_ri.double() @ other.a_ri.double().T
    return float((outputs_rr * inputs_rr).sum())


def _require_same_widths(module: str, one: LoraPair, other: LoraPair) -> None:
    widths = [(pair.b_or.shape[0], pair.a_ri.shape[1]) for pair in (one, other)]
    if widths[0] != widths[1]:
        raise IntegrityError(
            f"{module} is {widths[0]} (outputs, inputs) in a and {widths[1]} in b, so the adapters "
            "are for different bases"
        )

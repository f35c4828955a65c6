"""The distance of two adapters, against the products themselves."""

import pytest
import torch

from cogvx.adapters.distance import distance
from cogvx.adapters.weights import LoraPair
from cogvx.errors import IntegrityError


def pair(seed: int, rank: int, outputs: int = 7, inputs: int = 5) -> LoraPair:
    random = torch.Generator().manual_seed(seed)
    return LoraPair(
        torch.randn(rank, inputs, generator=random), torch.randn(outputs, rank, generator=random)
    )


def product(pair: LoraPair) -> torch.Tensor:
    return pair.b_or @ pair.a_ri


def test_norms_and_distance_are_those_of_the_products() -> None:
    a = {"both": pair(1, 2), "only in a": pair(2, 3)}
    b = {"both": pair(3, 4), "only in b": pair(4, 1)}
    found = distance(a, b)
    zero = torch.zeros(7, 5)
    whole_a = torch.stack([product(a["both"]), product(a["only in a"]), zero])
    whole_b = torch.stack([product(b["both"]), zero, product(b["only in b"])])
    assert found.a == pytest.approx(float(whole_a.norm()), rel=1e-5)
    assert found.b == pytest.approx(float(whole_b.norm()), rel=1e-5)
    assert found.apart == pytest.approx(float((whole_a - whole_b).norm()), rel=1e-5)
    assert found.relative == pytest.approx(found.apart / found.a)


def test_the_same_in_other_factors_is_no_distance() -> None:
    one = pair(1, 3)
    turned = torch.linalg.qr(pair(2, 3, 3, 3).b_or)[0]
    same = LoraPair(2 * turned.T @ one.a_ri, one.b_or @ turned / 2)
    relative = distance({"layer": one}, {"layer": same}).relative
    assert relative is not None
    assert relative < 1e-3
    assert distance({"layer": one}, {"layer": one}).relative == pytest.approx(0, abs=1e-7)


def test_what_adds_nothing_has_no_relative_distance() -> None:
    one = pair(1, 2)
    nothing = LoraPair(one.a_ri, torch.zeros_like(one.b_or))
    assert distance({"layer": nothing}, {"layer": one}).relative is None


def test_adapters_of_different_widths_are_refused() -> None:
    with pytest.raises(IntegrityError, match=r"layer is \(7, 5\) .* in a and \(7, 6\) in b"):
        distance({"layer": pair(1, 2)}, {"layer": pair(1, 2, 7, 6)})

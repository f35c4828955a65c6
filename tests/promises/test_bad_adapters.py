"""The bad adapters are bad in the way that they are meant to be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cogvx.adapters.inspect import describe
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.model.nano.build import FRAMES, SIDE
from cogvx.shapes import VideoSize
from tests.adapters.toys import toy_adapter
from tests.fixtures.bad_adapters import doubled, untrained

REQUEST = Request(
    prompt="a large red circle moves left over a black background",
    seed=3,
    size=VideoSize(FRAMES, SIDE, SIDE),
    fps=8,
    sampling=Sampling(steps=5, guidance=3.0, sampler="dpm"),
)


@pytest.fixture(scope="module")
def session(nano_base: Path) -> Session:
    return Session.open(nano_base, dtype="float32")


def test_an_untrained_adapter_changes_no_pixel(
    session: Session, nano_base: Path, tmp_path: Path
) -> None:
    base = session.generate(REQUEST)
    session.attach("untrained", untrained(nano_base, tmp_path))
    session.use({"untrained": 1.0})
    np.testing.assert_array_equal(session.generate(REQUEST), base)
    session.detach("untrained")


def test_a_doubled_adapter_is_the_good_one_at_weight_two(
    session: Session, nano_base: Path, tmp_path: Path
) -> None:
    good = toy_adapter(nano_base, tmp_path / "good")
    session.attach("good", good)
    session.attach("doubled", doubled(good, tmp_path / "doubled"))
    session.use({"good": 2.0})
    twice = session.generate(REQUEST).astype(int)
    session.use({"doubled": 1.0})
    assert abs(session.generate(REQUEST).astype(int) - twice).max() <= 1
    session.use({"good": 1.0})
    assert abs(session.generate(REQUEST).astype(int) - twice).max() > 10
    for name in ("good", "doubled"):
        session.detach(name)


def test_a_doubled_adapter_looks_like_any_other(nano_base: Path, tmp_path: Path) -> None:
    good = toy_adapter(nano_base, tmp_path / "good")
    strong = describe(doubled(good, tmp_path / "doubled"))
    assert strong.card == describe(good).card
    assert not strong.problems
    for layer, norm in describe(good).norms.items():
        torch.testing.assert_close(strong.norms[layer], 2 * norm)

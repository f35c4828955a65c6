"""What saves a GPU's memory costs no pixel there, and adapters act under all of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cogvx.evaluation.canary import require_effect
from cogvx.inference.memory import Memory
from cogvx.inference.session import Session
from tests.adapters.toys import toy_adapter
from tests.fixtures.family import IMAGE_MEMBERS, BaseOf, Member
from tests.inference.test_memory import REQUEST
from tests.inference.test_variants import open_member, request_for

pytestmark = pytest.mark.gpu

OFFLOADS = ("model", "group", "sequential")


def open_on_gpu(base: Path, **choices: object) -> Session:
    return Session.open(base, dtype="bfloat16", device="cuda", memory=Memory(**choices))


@pytest.fixture(scope="module")
def files(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return tuple(toy_adapter(nano_base, folder / str(seed), seed=seed) for seed in (1, 2))


@pytest.mark.parametrize("offload", OFFLOADS)
def test_what_waits_in_memory_acts_as_if_it_did_not(
    nano_base: Path, files: tuple[Path, Path], offload: str
) -> None:
    acts: list[Callable[[Session], object]] = [
        lambda session: session.attach("one", files[0]),
        lambda session: session.use({"one": 0.7}),
        lambda session: require_effect(session, {"one": 0.7}, "one"),
        lambda session: session.use({"one": 0.7}),
        lambda session: session.swap("one", files[1]),
        lambda session: session.fuse(0.5),
        lambda session: session.attach("two", files[0]),
        lambda session: session.unfuse(),
        lambda session: session.detach("one"),
    ]
    plain, waiting = (open_on_gpu(nano_base, offload=choice) for choice in ("none", offload))
    for act in acts:
        for session in (plain, waiting):
            act(session)
        assert np.array_equal(waiting.generate(REQUEST), plain.generate(REQUEST))


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("base_weights", ["float8", "int8"])
def test_8_bits_wait_in_memory_too(
    nano_base: Path, files: tuple[Path, Path], base_weights: str, offload: str
) -> None:
    videos = []
    for choice in ("none", offload):
        session = open_on_gpu(nano_base, offload=choice, base_weights=base_weights)
        session.attach("one", files[0])
        session.use({"one": 1.0})
        videos.append(session.generate(REQUEST))
    assert np.array_equal(*videos)


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("member", IMAGE_MEMBERS, ids=str)
def test_image_to_video_waits_in_memory_too(base_of: BaseOf, member: Member, offload: str) -> None:
    videos = [
        open_member(base_of, member, device="cuda", memory=Memory(offload=choice)).generate(
            request_for(member)
        )
        for choice in ("none", offload)
    ]
    assert np.array_equal(*videos)


def test_between_videos_nothing_is_left_on_the_gpu(nano_base: Path) -> None:
    for offload in ("model", "sequential"):
        session = open_on_gpu(nano_base, offload=offload)
        session.generate(REQUEST)
        before = torch.cuda.memory_allocated()
        session.generate(replace(REQUEST, seed=4))
        weights = sum(part.numel() for part in session.transformer.parameters()) * 2
        assert torch.cuda.memory_allocated() - before < weights / 2
        assert before < weights / 2
        del session
        torch.cuda.empty_cache()

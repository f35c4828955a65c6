"""What saves memory costs no pixel, unless it says so, and adapters act under all of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline

from cogvx.errors import ConfigError
from cogvx.inference.memory import Memory
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.model.load import load_transformer
from cogvx.model.quantise import StoredLinear, store_base
from cogvx.shapes import VideoSize
from tests.adapters.toys import toy_adapter
from tests.fixtures.family import IMAGE_MEMBERS, BaseOf
from tests.inference.test_variants import open_member, request_for

REQUEST = Request(
    prompt="a large red circle moves left",
    seed=3,
    size=VideoSize(9, 48, 48),
    fps=8,
    sampling=Sampling(steps=2, guidance=6.0, sampler="dpm"),
)
QUICK = replace(REQUEST, sampling=Sampling(steps=1, guidance=1.0, sampler="dpm"))
STORED = ("float8", "int8")


@pytest.fixture(scope="module")
def files(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return tuple(toy_adapter(nano_base, folder / str(seed), seed=seed) for seed in (1, 2))


def open_with(base: Path, **choices: object) -> Session:
    return Session.open(base, dtype="float32", memory=Memory(**choices))


def in_plain_diffusers(base: Path, change: Callable[[CogVideoXPipeline], None]) -> np.ndarray:
    pipeline = CogVideoXPipeline.from_pretrained(base, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    change(pipeline)
    video = pipeline(
        REQUEST.prompt,
        height=REQUEST.size.height,
        width=REQUEST.size.width,
        num_frames=REQUEST.size.frames,
        num_inference_steps=2,
        guidance_scale=6.0,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(REQUEST.seed),
        output_type="np",
    ).frames[0]
    return np.rint(video * 255).astype(np.uint8)


@pytest.mark.parametrize("offload", ["model", "group"])
def test_what_waits_in_memory_acts_as_if_it_did_not(
    nano_base: Path, files: tuple[Path, Path], offload: str
) -> None:
    """Adapters come, change and go between videos, while hooks hold the layers."""
    acts: list[Callable[[Session], object]] = [
        lambda session: session.attach("one", files[0]),
        lambda session: session.use({"one": 0.7}),
        lambda session: session.swap("one", files[1]),
        lambda session: session.fuse(0.5),
        lambda session: session.attach("two", files[0]),
        lambda session: session.use({"one": 0.7, "two": 0.4}),
        lambda session: session.unfuse(),
        lambda session: session.detach("one"),
        lambda session: session.use({}),
    ]
    plain, waiting = (open_with(nano_base, offload=choice) for choice in ("none", offload))
    seen = []
    for act in acts:
        for session in (plain, waiting):
            act(session)
        video = plain.generate(QUICK)
        assert np.array_equal(waiting.generate(QUICK), video)
        seen.append(video.tobytes())
    assert seen[0] == seen[-1]
    assert len(set(seen)) >= 5


@pytest.mark.parametrize("offload", ["model", "group"])
@pytest.mark.parametrize("member", IMAGE_MEMBERS, ids=str)
def test_image_to_video_waits_in_memory_too(base_of: BaseOf, member: object, offload: str) -> None:
    videos = [
        open_member(base_of, member, memory=Memory(offload=choice)).generate(
            request_for(member, sampling=QUICK.sampling)
        )
        for choice in ("none", offload)
    ]
    assert np.array_equal(*videos)


def test_layers_are_not_fetched_one_by_one_to_where_they_are(nano_base: Path) -> None:
    with pytest.raises(ConfigError, match=r'memory.offload = "sequential" fetches .* use "none"'):
        open_with(nano_base, offload="sequential")


def test_slicing_keeps_the_pixels_and_tiling_is_that_of_diffusers(nano_base: Path) -> None:
    whole = open_with(nano_base).generate(REQUEST)
    assert np.array_equal(open_with(nano_base, vae_slicing=True).generate(REQUEST), whole)
    tiled = open_with(nano_base, vae_tiling=True).generate(REQUEST)
    theirs = in_plain_diffusers(nano_base, lambda pipeline: pipeline.vae.enable_tiling())
    assert np.array_equal(tiled, theirs)


@pytest.mark.parametrize("base_weights", STORED)
def test_adapters_are_added_before_the_base_is_rounded(
    nano_base: Path, files: tuple[Path, Path], base_weights: str
) -> None:
    session = open_with(nano_base, base_weights=base_weights)
    session.attach("one", files[0])
    session.use({"one": 0.7})
    video = session.generate(REQUEST)

    plain = CogVideoXPipeline.from_pretrained(nano_base, torch_dtype=torch.float32)
    plain.load_lora_weights(files[0].parent, weight_name=files[0].name)
    plain.fuse_lora(["transformer"], lora_scale=0.7)
    plain.unload_lora_weights()
    store_base(plain.transformer, base_weights)
    theirs = in_plain_diffusers(
        nano_base, lambda pipeline: pipeline.register_modules(transformer=plain.transformer)
    )
    assert abs(video.astype(int) - theirs).max() <= 1
    rounded_first = load_transformer(nano_base, dtype="float32")
    store_base(rounded_first, base_weights)
    without = in_plain_diffusers(
        nano_base, lambda pipeline: pipeline.register_modules(transformer=rounded_first)
    )
    assert abs(video.astype(int) - without).max() > 1


@pytest.mark.parametrize(
    ("base_weights", "offload"), [("float8", "none"), ("int8", "model"), ("float8", "group")]
)
def test_after_the_first_video_in_8_bits_nothing_changes(
    nano_base: Path, files: tuple[Path, Path], base_weights: str, offload: str
) -> None:
    session = open_with(nano_base, base_weights=base_weights, offload=offload)
    session.attach("one", files[0])
    session.use({"one": 1.0})
    session.fuse(0.5)
    session.unfuse()
    video = session.generate(QUICK)
    changes: list[Callable[[], object]] = [
        lambda: session.attach("two", files[1]),
        lambda: session.use({}),
        lambda: session.swap("one", files[1]),
        lambda: session.detach("one"),
        lambda: session.fuse(0.5),
        session.unfuse,
    ]
    for change in changes:
        with pytest.raises(ConfigError, match="open a new session"):
            change()
    assert np.array_equal(session.generate(QUICK), video)
    stored = [part for part in session.transformer.modules() if isinstance(part, StoredLinear)]
    assert len(stored) == 6 * 8
    assert all(part.weight.element_size() == 1 for part in stored)


def test_the_bare_base_in_8_bits_needs_no_adapter(nano_base: Path) -> None:
    session = open_with(nano_base, base_weights="int8")
    rounded = load_transformer(nano_base, dtype="float32")
    store_base(rounded, "int8")
    theirs = in_plain_diffusers(
        nano_base, lambda pipeline: pipeline.register_modules(transformer=rounded)
    )
    assert np.array_equal(session.generate(REQUEST), theirs)

"""A GPU that is too small: what it could not encode whole is tiled, all of it, or refused.

There is no GPU here to fill, so diffusers' VAE is made to fail on whole frames above a size as a
small GPU would.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from cogvx.cache.plan import latent_key
from cogvx.cache.tilings import mark_tiled, tiled_sizes
from cogvx.data.manifest import Clip
from cogvx.encoding import Encoders
from cogvx.errors import ConfigError
from cogvx.recipe import Recipe
from cogvx.shapes import VideoSize
from cogvx.store import LocalStore
from tests.cache.toys import recipe
from tests.data.clips import write_clip
from tests.encoding.benches import Bench, clip_of

SMALL, LARGE = VideoSize(9, 32, 32), VideoSize(9, 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clips")
    for number in range(3):
        write_clip(made / f"{number}.mp4", height=64, width=80, seed=number + 1)
    return made


@pytest.fixture(scope="module")
def windows(folder: Path) -> tuple[Clip, ...]:
    paths = sorted(folder.iterdir())
    return tuple(
        clip_of(path, folder, size=size)
        for path, size in zip(paths, (LARGE, SMALL, LARGE), strict=True)
    )


@pytest.fixture
def bench(encoders: Encoders, folder: Path, tmp_path: Path) -> Bench:
    return Bench(encoders, LocalStore(folder), tmp_path)


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whole frames above 40 pixels do not fit; returns a log of what was tried."""
    encode, tried = AutoencoderKLCogVideoX._encode, []

    def limited(self: AutoencoderKLCogVideoX, x: torch.Tensor) -> torch.Tensor:
        side = x.shape[-1]
        tried.append(f"{side} {'tiled' if self.use_tiling else 'whole'}")
        if side > 40 and not self.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, x)

    monkeypatch.setattr(AutoencoderKLCogVideoX, "_encode", limited)
    return tried


def refreshed(bench: Bench, made: Recipe) -> Bench:
    """As the next stage, or the next round, opens its workbench."""
    ids = bench.encoders.ids
    tiled = tiled_sizes(bench.store, vae=ids.vae, dtype=made.base.dtype)
    bench.encoders = replace(bench.encoders, ids=replace(ids, tiled=tiled))
    return bench


def test_a_size_that_does_not_fit_is_marked_and_the_next_plan_tiles_all_of_it(
    bench: Bench, windows: tuple[Clip, ...], small_gpu: list[str]
) -> None:
    made = recipe()
    first = bench.encode(bench.plan(windows, made), made)
    assert first.tiled == (LARGE,)
    assert first.encoded_latents == 1
    assert bench.progress[2] == ("clips", 3, 3)
    # twice, because the first time the memory may have been full of something else
    assert small_gpu == ["64 whole", "64 whole", "32 whole"]
    refreshed(bench, made)
    second = bench.encode(bench.plan(windows, made), made)
    assert (second.tiled, second.encoded_latents) == ((), 2)
    assert bench.plan(windows, made).is_complete
    keys = [latent_key(window, made, bench.encoders.ids) for window in windows]
    assert [key.tiling for key in keys] == [True, False, True]


def test_a_plan_from_before_the_mark_is_overtaken_and_not_an_error(
    bench: Bench, windows: tuple[Clip, ...]
) -> None:
    made = recipe()
    plan = bench.plan(windows, made)
    mark_tiled(bench.store, LARGE, vae=bench.encoders.ids.vae, dtype="float32")
    report = refreshed(bench, made).encode(plan, made)
    assert (report.tiled, report.encoded_latents) == ((LARGE,), 1)
    assert len(bench.plan(windows, made).clips) == 2


def test_a_size_tiled_before_does_not_make_others_tiled(
    bench: Bench, windows: tuple[Clip, ...], small_gpu: list[str]
) -> None:
    made = recipe()
    mark_tiled(bench.store, LARGE, vae=bench.encoders.ids.vae, dtype="float32")
    refreshed(bench, made)
    report = bench.encode(bench.plan(windows, made), made)
    assert (report.tiled, report.encoded_latents) == ((), 3)
    assert [line for line in small_gpu if "whole" in line] == ["32 whole"]


def test_a_recipe_that_forbids_tiles_is_told_what_to_do(
    bench: Bench, windows: tuple[Clip, ...], small_gpu: list[str]
) -> None:
    made = recipe(cache={"vae_tiling": "off"})
    with pytest.raises(ConfigError, match=r'^0\.mp4: 9x64x64 does not .* "off" forbids tiles; use'):
        bench.encode(bench.plan(windows, made), made)
    assert tiled_sizes(bench.store, vae=bench.encoders.ids.vae, dtype="float32") == ()


def test_a_gpu_that_is_too_small_even_for_tiles_is_an_error(
    bench: Bench, windows: tuple[Clip, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AutoencoderKLCogVideoX, "_encode", full)
    made = recipe(cache={"vae_tiling": "on"})
    with pytest.raises(ConfigError, match="even in tiles; use a smaller size or a larger GPU"):
        bench.encode(bench.plan(windows, made), made)

"""What is drawn from a record is what the live model gives, with the same generator."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from cogvx.cache.plan import latent_key
from cogvx.cache.records import unpack
from cogvx.data.decode import decode_clip
from cogvx.data.manifest import Clip
from cogvx.data.windows import crop_rule
from cogvx.encoding import Encoders
from cogvx.objective.latents import draw_latents
from cogvx.shapes import VideoSize
from cogvx.store import LocalStore
from tests.cache.toys import recipe
from tests.data.clips import write_clip
from tests.encoding.benches import Bench, clip_of


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one clip that is larger than every size, moving and lopsided."""
    folder = tmp_path_factory.mktemp("wide")
    write_clip(folder / "wide.mp4", height=72, width=112, frames=24, seed=3)
    return folder


def live_vae(base: Path, dtype: str) -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX.from_pretrained(
        base, subfolder="vae", torch_dtype=getattr(torch, dtype)
    )


def drawn(bench: Bench, clip: Clip, made: object) -> torch.Tensor:
    posterior = DiagonalGaussianDistribution(bench.latents(clip, made)[None])
    return posterior.sample(torch.manual_seed(7))


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        ("float32", {}),
        ("bfloat16", {}),
        ("float32", {"flip": True}),
        ("float32", {"start_frame": 3, "crop": "random-5"}),
        ("float32", {"crop": "random-5", "flip": True, "size": VideoSize(13, 32, 64)}),
        ("bfloat16", {"size": VideoSize(17, 64, 48)}),
    ],
)
def test_latents_drawn_from_a_record_are_the_live_models(
    encoders: Encoders, wide: Path, tmp_path: Path, dtype: str, changes: dict[str, object]
) -> None:
    made = recipe(base={"dtype": dtype})
    bench = Bench(encoders, LocalStore(wide), tmp_path)
    clip = clip_of(wide / "wide.mp4", wide, **changes)
    bench.encode(bench.plan((clip,), made), made)
    upright_cfhw = decode_clip(
        wide / "wide.mp4",
        start_frame=clip.start_frame,
        size=clip.size,
        fps=8,
        crop=crop_rule(clip),
    )
    rgb_cfhw = upright_cfhw.flip(-1) if clip.flip else upright_cfhw
    vae = live_vae(encoders.folder, dtype)
    with torch.no_grad():
        posterior = vae.encode(rgb_cfhw[None].to(vae.dtype)).latent_dist
    live_bcfhw = posterior.sample(torch.manual_seed(7))
    assert torch.equal(drawn(bench, clip, made), live_bcfhw)


def test_windows_of_two_sizes_in_one_run_are_the_live_models(
    encoders: Encoders, wide: Path, tmp_path: Path
) -> None:
    made = recipe()
    bench = Bench(encoders, LocalStore(wide), tmp_path)
    sizes = [VideoSize(9, 48, 64), VideoSize(13, 64, 48)] * 2
    windows = tuple(
        clip_of(wide / "wide.mp4", wide, size=size, start_frame=start)
        for start, size in enumerate(sizes)
    )
    bench.encode(bench.plan(windows, made), made)
    vae = live_vae(encoders.folder, "float32")
    for clip in windows:
        rgb_cfhw = decode_clip(
            wide / "wide.mp4", start_frame=clip.start_frame, size=clip.size, fps=8
        )
        with torch.no_grad():
            live_bcfhw = vae.encode(rgb_cfhw[None]).latent_dist.sample(torch.manual_seed(7))
        assert torch.equal(drawn(bench, clip, made), live_bcfhw)


def test_tiled_records_are_the_live_models_with_tiling(
    encoders: Encoders, wide: Path, tmp_path: Path
) -> None:
    made = recipe(cache={"vae_tiling": "on"})
    bench = Bench(encoders, LocalStore(wide), tmp_path)
    clip = clip_of(wide / "wide.mp4", wide)
    bench.encode(bench.plan((clip,), made), made)
    vae = live_vae(encoders.folder, "float32")
    rgb_cfhw = decode_clip(wide / "wide.mp4", start_frame=0, size=clip.size, fps=8)
    with torch.no_grad():
        whole = vae.encode(rgb_cfhw[None]).latent_dist.parameters
        vae.enable_tiling()
        tiled = vae.encode(rgb_cfhw[None]).latent_dist.parameters
    assert torch.equal(bench.latents(clip, made), tiled[0])
    assert not torch.equal(whole, tiled)


def test_the_trainers_draw_is_the_live_models_scaled(
    encoders: Encoders, wide: Path, tmp_path: Path
) -> None:
    made = recipe()
    bench = Bench(encoders, LocalStore(wide), tmp_path)
    clip = clip_of(wide / "wide.mp4", wide)
    bench.encode(bench.plan((clip,), made), made)
    noise_bcfhw = torch.randn((1, 8, 3, 12, 12), generator=torch.manual_seed(7))
    ours_bfchw = draw_latents(
        bench.latents(clip, made)[None],
        noise_bcfhw,
        scaling_factor=encoders.facts.scaling_factor,
    )
    rgb_cfhw = decode_clip(wide / "wide.mp4", start_frame=0, size=clip.size, fps=8)
    with torch.no_grad():
        live_bcfhw = live_vae(encoders.folder, "float32").encode(rgb_cfhw[None]).latent_dist
    scaled = live_bcfhw.sample(torch.manual_seed(7)) * encoders.facts.scaling_factor
    assert torch.equal(ours_bfchw, scaled.permute(0, 2, 1, 3, 4))


def test_a_window_and_its_mirror_are_two_records(
    encoders: Encoders, wide: Path, tmp_path: Path
) -> None:
    made = recipe()
    bench = Bench(encoders, LocalStore(wide), tmp_path)
    clip = clip_of(wide / "wide.mp4", wide)
    both = (clip, clip.model_copy(update={"flip": True}))
    assert bench.encode(bench.plan(both, made), made).encoded_latents == 2
    keys = [latent_key(window, made, encoders.ids) for window in both]
    assert keys[1] == replace(keys[0], flip=True)
    first, second = (unpack(bench.store.read(key.path), key.digest) for key in keys)
    assert not torch.equal(first, second)

"""Image-to-video bases: noised first frames are what the live VAE gives, draw by draw."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from cogvx.cache.keys import ImageKey
from cogvx.cache.plan import image_keys, latent_key, samples
from cogvx.cache.records import unpack
from cogvx.check import check_recipe
from cogvx.data.decode import decode_clip
from cogvx.data.manifest import Clip
from cogvx.data.windows import crop_rule
from cogvx.encoding import EncodeReport
from cogvx.errors import ConfigError, IntegrityError
from cogvx.recipe import Recipe
from cogvx.shapes import VideoSize
from cogvx.store import LocalStore
from cogvx.variants import COGVIDEOX_15_5B_I2V, read_facts
from tests.cache.toys import recipe
from tests.data.clips import write_clip
from tests.encoding.benches import Bench, build_image_to_video, clip_of, encoders_of

SIZE = VideoSize(17, 32, 48)
SUITE = Path(__file__).parents[2] / "deployments" / "suites" / "nano.toml"


@pytest.fixture(scope="module")
def i2v_base(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_image_to_video(nano_base, tmp_path_factory.mktemp("i2v"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clips")
    write_clip(made / "a.mp4", height=48, width=64, frames=40, fps=16, seed=1)
    return made


@pytest.fixture
def bench(i2v_base: Path, folder: Path, tmp_path: Path) -> Bench:
    return Bench(encoders_of(i2v_base), LocalStore(folder), tmp_path)


def toy(folder: Path, draws: int = 3, **sections: dict[str, object]) -> Recipe:
    return recipe(
        base={"path": str(folder), **sections.pop("base", {})},
        video={"frames": 17, "height": 32, "width": 48, "fps": 16},
        cache={"image_draws": draws, **sections.pop("cache", {})},
        evaluation={"suite": str(SUITE)},
        lora={"rank": 8, "alpha": 8, "allow_unusual": True},
        **sections,
    )


def image(bench: Bench, key: ImageKey) -> torch.Tensor:
    return unpack(bench.store.read(key.path), key.digest)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("changes", [{}, {"flip": True, "start_frame": 4, "crop": "random-1"}])
def test_a_record_is_the_live_encoding_of_the_frame_noised_with_the_same_generator(
    bench: Bench, folder: Path, i2v_base: Path, dtype: str, changes: dict[str, object]
) -> None:
    made = toy(i2v_base, base={"dtype": dtype})
    window = clip_of(folder / "a.mp4", folder, size=SIZE, **changes)
    bench.encode(bench.plan((window,), made), made)
    rgb_cfhw = decode_clip(
        folder / "a.mp4",
        start_frame=window.start_frame,
        size=SIZE,
        fps=16,
        crop=crop_rule(window),
        flip=window.flip,
    )
    vae = AutoencoderKLCogVideoX.from_pretrained(
        i2v_base, subfolder="vae", torch_dtype=getattr(torch, dtype)
    )
    first_bchw = rgb_cfhw[None, :, 0]
    facts, ids = bench.encoders.facts, bench.encoders.ids
    keys = image_keys(window, made, facts=facts, ids=ids)
    assert len(keys) == 3
    for key in keys:
        generator = torch.Generator().manual_seed(key.seed)
        # as CogVideo and the diffusers example noise it
        sigma = torch.exp(torch.normal(mean=-3.0, std=0.5, size=(1,), generator=generator))
        noise_bchw = torch.randn(first_bchw.shape, generator=generator)
        noised_bchw = first_bchw + noise_bchw * sigma[:, None, None, None]
        with torch.no_grad():
            live = vae.encode(noised_bchw.unsqueeze(2).to(vae.dtype)).latent_dist
        assert torch.equal(image(bench, key)[None], live.parameters)
        assert image(bench, key).shape == (16, 1, 8, 12)


def test_draws_differ_in_strength_and_noise_and_are_repeatable(
    bench: Bench, folder: Path, i2v_base: Path
) -> None:
    made = toy(i2v_base, draws=4)
    window = clip_of(folder / "a.mp4", folder, size=SIZE)
    plan = bench.plan((window,), made)
    assert bench.encode(plan, made) == EncodeReport(1, 2, encoded_images=4)
    keys = image_keys(window, made, facts=bench.encoders.facts, ids=bench.encoders.ids)
    drawn = [image(bench, key) for key in keys]
    assert all(not torch.equal(drawn[0], other) for other in drawn[1:])
    before = dict(bench.store.objects)
    bench.store.objects.clear()
    bench.encode(plan, made)
    assert bench.store.objects == before


def test_the_strength_has_the_law_that_the_key_names() -> None:
    generator = torch.Generator().manual_seed(0)
    log_sigma = torch.normal(-3.0, 0.5, (20_000,), generator=generator)
    assert abs(log_sigma.exp().mean() - 0.0564) < 0.001  # exp(-3 + 0.125)


def test_more_draws_are_added_without_encoding_the_window_again(
    bench: Bench, folder: Path, i2v_base: Path
) -> None:
    window = clip_of(folder / "a.mp4", folder, size=SIZE)
    few, more = toy(i2v_base, draws=2), toy(i2v_base, draws=5)
    bench.encode(bench.plan((window,), few), few)
    before = dict(bench.store.objects)
    added = bench.plan((window,), more)
    assert [(missing.latents, missing.draws) for missing in added.clips] == [(False, (2, 3, 4))]
    assert bench.encode(added, more) == EncodeReport(0, 0, encoded_images=3)
    assert before.items() <= bench.store.objects.items()
    assert bench.plan((window,), more).is_complete
    with pytest.raises(IntegrityError, match="plan again"):
        bench.encode(added, few)


def test_every_record_of_a_sample_is_made(bench: Bench, folder: Path, i2v_base: Path) -> None:
    made = toy(i2v_base)
    window = clip_of(folder / "a.mp4", folder, size=SIZE)
    bench.encode(bench.plan((window,), made), made)
    (sample,) = samples((window,), made, facts=bench.encoders.facts, ids=bench.encoders.ids)
    assert len(sample.images) == 3
    stored = {key.rpartition("/")[2].removesuffix(".safetensors") for key in bench.store.objects}
    assert {sample.latents, sample.prompt, *sample.images} < stored


def test_a_text_to_video_base_encodes_none(nano_base: Path, folder: Path, tmp_path: Path) -> None:
    made = recipe(video={"fps": 16})
    bench = Bench(encoders_of(nano_base), LocalStore(folder), tmp_path)
    window = clip_of(folder / "a.mp4", folder)
    assert bench.encode(bench.plan((window,), made), made).encoded_images == 0
    assert not [key for key in bench.store.objects if "images" in key]


def test_first_frames_are_cached_before_their_scale_is_decided(
    i2v_base: Path, folder: Path
) -> None:
    assert read_facts(i2v_base).variant == COGVIDEOX_15_5B_I2V
    made = toy(i2v_base, base={"dtype": "bfloat16"}, dataset={"uri": str(folder)})
    assert check_recipe(made, purpose="cache").recipe == made
    with pytest.raises(ConfigError, match=r"base\.image_latent_scale is missing"):
        check_recipe(made, purpose="train")


def test_a_bad_clip_gives_neither_latents_nor_first_frames(
    bench: Bench, folder: Path, i2v_base: Path
) -> None:
    made = toy(i2v_base)
    gone = clip_of(folder / "a.mp4", folder, size=SIZE).model_copy(update={"key": "gone.mp4"})
    report = bench.encode(bench.plan((gone,), made), made)
    assert (report.encoded_latents, report.encoded_images) == (0, 0)
    assert [clip.key for clip in report.refused] == ["gone.mp4"]


def test_a_record_says_which_window_and_draw_it_is_of(
    bench: Bench, folder: Path, i2v_base: Path
) -> None:
    window: Clip = clip_of(folder / "a.mp4", folder, size=SIZE)
    made = toy(i2v_base)
    first, second, _ = image_keys(window, made, facts=bench.encoders.facts, ids=bench.encoders.ids)
    assert first.window == latent_key(window, made, bench.encoders.ids)
    assert (first.draw, second.draw) == (0, 1)
    assert first.seed != second.seed

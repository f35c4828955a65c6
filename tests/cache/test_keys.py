"""A key changes exactly when something changes that decides the record's bytes."""

import dataclasses

import pytest

from cogvx.cache.keys import ImageKey, LatentKey, PromptKey
from cogvx.shapes import VideoSize

LATENTS = LatentKey(
    source_sha256="5" * 64,
    start_frame=3,
    fps=8,
    size=VideoSize(49, 480, 720),
    crop="centre",
    flip=False,
    vae_fingerprint="a" * 64,
    dtype="bfloat16",
    tiling=False,
)
IMAGE = ImageKey(LATENTS, draw=2)
PROMPT = PromptKey("a red circle", "b" * 64, max_length=226, dtype="bfloat16", batch=8)
OTHER_LATENTS = {
    "source_sha256": "6" * 64,
    "start_frame": 4,
    "fps": 16,
    "size": VideoSize(49, 720, 480),
    "crop": "random-0",
    "flip": True,
    "vae_fingerprint": "c" * 64,
    "dtype": "float16",
    "tiling": True,
    "slicing": True,
    "sampler": "stride",
    "resize": "stretch",
    "version": 2,
}
OTHER_IMAGE = {
    "window": dataclasses.replace(LATENTS, flip=True),
    "draw": 3,
    "noise": "lognormal(-2,0.5)",
    "version": 2,
}
OTHER_PROMPT = {
    "text": "a red Circle",
    "encoder_fingerprint": "c" * 64,
    "max_length": 225,
    "dtype": "float16",
    "batch": 1,
    "version": 2,
}
CASES = [(LATENTS, OTHER_LATENTS), (IMAGE, OTHER_IMAGE), (PROMPT, OTHER_PROMPT)]


@pytest.mark.parametrize(("key", "others"), CASES)
def test_every_ingredient_changes_the_key(
    key: LatentKey | ImageKey | PromptKey, others: dict[str, object]
) -> None:
    # A field that is added later must be added here, and thereby be shown to count.
    assert set(others) == {field.name for field in dataclasses.fields(key)}
    changed = [dataclasses.replace(key, **{name: value}).digest for name, value in others.items()]
    assert len({key.digest, *changed}) == 1 + len(others)


@pytest.mark.parametrize("name", OTHER_LATENTS)
def test_what_changes_a_windows_latents_changes_its_first_frames(name: str) -> None:
    window = dataclasses.replace(LATENTS, **{name: OTHER_LATENTS[name]})
    assert dataclasses.replace(IMAGE, window=window).digest != IMAGE.digest


@pytest.mark.parametrize("size", [VideoSize(48, 480, 720), VideoSize(49, 481, 720)])
def test_every_extent_of_the_size_changes_the_key(size: VideoSize) -> None:
    assert dataclasses.replace(LATENTS, size=size).digest != LATENTS.digest


@pytest.mark.parametrize("key", [LATENTS, IMAGE, PROMPT])
def test_equal_ingredients_are_one_key(key: LatentKey | ImageKey | PromptKey) -> None:
    again = dataclasses.replace(key)
    assert again is not key
    assert again.digest == key.digest


def test_keys_stay_what_they_were_when_records_were_written() -> None:
    # If one of these changes, all stored records of its kind are orphaned: mean it.
    assert LATENTS.digest == "541441bf83bab8efc714f0993e0bf02c702da5d8ca0164b35fbf314c7d9be0d4"
    assert IMAGE.digest == "15b01ff9a08baf248c77e38c7efb44411fa6e5e0d019538098a3c818388a6ff6"
    assert PROMPT.digest == "492df90ac2b8240b28df78b2fc670f99b4bdb8318ebf8e6e2f22440e5fab1798"


def test_a_record_lies_under_its_kind_and_the_beginning_of_its_name() -> None:
    assert LATENTS.path == f"records/latents/{LATENTS.digest[:2]}/{LATENTS.digest}.safetensors"
    assert IMAGE.path == f"records/images/{IMAGE.digest[:2]}/{IMAGE.digest}.safetensors"
    assert PROMPT.path == f"records/prompts/{PROMPT.digest[:2]}/{PROMPT.digest}.safetensors"

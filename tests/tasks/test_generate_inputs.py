"""Prompt files and pictures are found beside each other, and pictures reach workers unchanged."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvx.errors import ConfigError, DataError, IntegrityError
from cogvx.inference.job import GenerateJob
from cogvx.shapes import VideoSize
from cogvx.store import MemoryStore
from tasks.generation.generate_inputs import publish_picture, published_picture, read_inputs
from tasks.settings import Settings

SIZE = VideoSize(9, 32, 48)


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", device="cpu", _env_file=None)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_prompt_file_and_its_pictures_are_read_from_anywhere(
    here: Settings, tmp_path: Path, scheme: str
) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    Image.new("RGB", (48, 32), "teal").save(folder / "first.png")
    (folder / "p.jsonl").write_text('{"prompt": "a", "image": "first.png"}\n{"prompt": "b"}')
    job = GenerateJob(name="look", prompts_uri=f"{scheme}{folder}/p.jsonl")
    read, read_image = read_inputs(job, here)
    assert read.prompts_uri is None
    assert [line.prompt for line in read.prompts] == ["a", "b"]
    assert read.prompts[0].image is not None
    rgb_hwc = read_image(read.prompts[0].image, SIZE)
    assert abs(rgb_hwc.astype(int) - (0, 128, 128)).max() <= 1
    with pytest.raises(ConfigError, match="there is no such picture"):
        read_image(f"{folder}/absent.png", SIZE)


def test_what_is_missing_or_twice_is_a_sentence(here: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs prompts or prompts_uri"):
        read_inputs(GenerateJob(name="look"), here)
    absent = GenerateJob(name="look", prompts_uri=f"{tmp_path}/absent.txt")
    with pytest.raises(ConfigError, match="there is no such prompt file"):
        read_inputs(absent, here)
    with pytest.raises(ConfigError, match="names no file"):
        read_inputs(GenerateJob(name="look", prompts_uri=f"{tmp_path}/"), here)


def test_a_picture_comes_back_pixel_by_pixel_or_not_at_all() -> None:
    store = MemoryStore()
    rgb_hwc = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    key = publish_picture(rgb_hwc, "generated/look/images", store)
    assert publish_picture(rgb_hwc, "generated/look/images", store) == key
    assert list(store.objects) == [key]
    read = published_picture(store)
    assert np.array_equal(read(key, SIZE), rgb_hwc)
    with pytest.raises(DataError, match="not the first frame of 9x48x48"):
        read(key, VideoSize(9, 48, 48))
    other = publish_picture(255 - rgb_hwc, "generated/look/images", store)
    store.write(key, store.read(other))
    with pytest.raises(IntegrityError, match="is damaged"):
        read(key, SIZE)

"""A picture becomes the first frame that training would have made of it."""

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cogvx.data.decode import decode_clip
from cogvx.errors import ConfigError, DataError
from cogvx.inference.image import load_image
from cogvx.shapes import VideoSize
from tests.data.clips import write_clip

SIZE = VideoSize(9, 32, 48)


def noise(height: int = 40, width: int = 90, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("size", [(66, 96), (48, 120), (32, 48)])
def test_a_frame_of_a_clip_as_a_picture_is_what_training_decodes(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    clip = write_clip(tmp_path / "a.mp4", height=size[0], width=size[1], seed=3)
    trained_chw = decode_clip(clip, start_frame=0, size=SIZE, fps=8)[:, 0]
    with av.open(str(clip)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    loaded = load_image(save(tmp_path / "first.png", first), SIZE)
    assert (loaded.shape, loaded.dtype) == ((32, 48, 3), np.uint8)
    assert loaded.flags.c_contiguous
    exact_hwc = trained_chw.permute(1, 2, 0).add(1).mul(127.5).numpy()
    assert np.abs(loaded - exact_hwc).max() <= 0.5 + 1e-4, "nothing is between them but rounding"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_camera_was(tmp_path: Path, orientation: int) -> None:
    # how each orientation is undone, by the EXIF standard
    undone: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda it: it,
        2: lambda it: it[:, ::-1],
        3: lambda it: it[::-1, ::-1],
        4: lambda it: it[::-1],
        5: lambda it: it.transpose(1, 0, 2),
        6: lambda it: np.rot90(it, -1),
        7: lambda it: it[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90,
    }
    pixels = noise(32, 48)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "photo.png", pixels, exif=exif)
    upright = undone[orientation](pixels)
    size = VideoSize(9, *upright.shape[:2])
    assert np.array_equal(load_image(path, size), upright)


def test_what_one_can_see_through_lies_on_white(tmp_path: Path) -> None:
    pixels = noise(32, 48, 4)
    pixels[:, :16, 3], pixels[:, 16:32, 3], pixels[:, 32:, 3] = 0, 255, 128
    loaded = load_image(save(tmp_path / "alpha.png", pixels), SIZE)
    assert (loaded[:, :16] == 255).all(), "colours that nobody was to see stay unseen"
    assert np.array_equal(loaded[:, 16:32], pixels[:, 16:32, :3])
    share = 128 / 255
    mixed = pixels[:, 32:, :3] * share + 255 * (1 - share)
    assert np.abs(loaded[:, 32:] - mixed).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_is_looked_up(tmp_path: Path, suffix: str) -> None:
    indexed = Image.fromarray(noise(32, 48)).quantize(16)
    indexed.save(tmp_path / f"few.{suffix}")
    loaded = load_image(tmp_path / f"few.{suffix}", SIZE)
    assert np.array_equal(loaded, np.asarray(indexed.convert("RGB")))
    indexed.save(tmp_path / f"hole.{suffix}", transparency=3)
    holed = load_image(tmp_path / f"hole.{suffix}", SIZE)
    assert (holed[np.asarray(indexed) == 3] == 255).all()
    assert np.array_equal(holed[np.asarray(indexed) != 3], loaded[np.asarray(indexed) != 3])


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_of_16_bits_keeps_its_brightness(tmp_path: Path, suffix: str) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (32, 48), np.uint16)
    loaded = load_image(save(tmp_path / f"deep.{suffix}", deep), SIZE)
    assert np.array_equal(loaded, np.stack([np.rint(deep / 257)] * 3, -1))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "CMYK", "YCbCr"])
def test_other_ways_to_write_a_picture_are_read(tmp_path: Path, mode: str) -> None:
    suffix = "tiff" if mode in ("CMYK", "YCbCr") else "png"
    path = save(tmp_path / f"a.{suffix}", noise(32, 48), mode)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(load_image(path, SIZE), expected)


def test_a_small_picture_is_enlarged_without_bending(tmp_path: Path) -> None:
    loaded = load_image(save(tmp_path / "dot.png", np.full((4, 4, 3), 90, np.uint8)), SIZE)
    assert (loaded == 90).all()


def bomb(path: Path, width: int, height: int) -> Path:
    """A few hundred bytes that say to be a picture of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


def animation(path: Path) -> Path:
    frames = [Image.fromarray(noise()).rotate(turn) for turn in (0, 90)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: bomb(path, 9000, 9000), "more than 64 million pixels"),
        (lambda path: bomb(path, 60_000, 60_000), "more than 64 million pixels"),
        (lambda path: save(path, noise(1, 65_000)), "is 1x65000 .* too long and narrow"),
        (animation, "holds several pictures"),
        (lambda path: path.write_text("no picture"), "no picture that can be read; use one of PNG"),
        (lambda path: path.write_bytes(b""), "no picture that can be read"),
        (lambda path: bomb(path, 300, 300), "is damaged"),
        (
            lambda path: save(path.with_suffix(".tiff"), noise()[..., 0].astype(np.float32)).rename(
                path
            ),
            "more than 16 bits",
        ),
    ],
)
def test_what_is_no_first_frame_is_a_sentence(
    tmp_path: Path, make: Callable[[Path], object], sentence: str
) -> None:
    path = tmp_path / "picture.png"
    make(path)
    with pytest.raises(DataError, match=sentence) as caught:
        load_image(path, SIZE)
    assert str(path) in str(caught.value)


def test_a_missing_picture_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such picture"):
        load_image(tmp_path / "absent.png", SIZE)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp", "gif"])
def test_damage_is_a_sentence_or_a_picture(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"whole.{suffix}", noise(20, 30)).read_bytes()
    chance = random.Random(suffix)
    path = tmp_path / f"damaged.{suffix}"
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(bytes(data[: chance.choice([len(data), chance.randrange(len(data))])]))
        try:
            loaded = load_image(path, SIZE)
        except DataError:
            continue
        assert loaded.shape == (32, 48, 3)

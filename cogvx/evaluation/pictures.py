"""Videos and pictures as a page can carry them: small, and inside the page itself."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cogvx.errors import DataError
from cogvx.mp4 import Mp4, read_mp4, write_mp4
from cogvx.pages.pictures import SMALL_SIDE, as_picture, data_uri, scaled, strip

_PREVIEW_HEIGHT = 240
_PREVIEW_BYTES = 200_000
_PREVIEW_CRF = 28
_STILL_HEIGHT, _STILL_WIDTH = 96, 900


@dataclass(frozen=True)
class Clip:
    """A video ready for a page: both as data URIs, its sides, its rate and its length.

    The pixels of a `tiny` one are few, and shown as they are.
    """

    video: str
    strip: str
    width: int
    height: int
    frames: int
    fps: float
    tiny: bool

    @property
    def size(self) -> int:
        """Bytes that it adds to the page."""
        return len(self.video) + len(self.strip)


@dataclass(frozen=True)
class Still:
    """A picture ready for a page; a `tiny` one is shown pixel by pixel."""

    picture: str
    tiny: bool


def page_clip(path: Path) -> Clip:
    """Make a file's preview and strip.

    A file that is short enough goes in as it is; a larger one is scaled to 240 lines.

    Raises:
        DataError: The file holds no video.
    """
    decoded = read_mp4(path)
    frames, height, width, _ = decoded.rgb_fhwc.shape
    if height <= _PREVIEW_HEIGHT and path.stat().st_size <= _PREVIEW_BYTES:
        data = path.read_bytes()
    else:
        height, width = _preview_sides(height, width)
        data = _preview(decoded, width, height)
    return Clip(
        video=data_uri("video/mp4", data),
        strip=strip(decoded.rgb_fhwc),
        width=width,
        height=height,
        frames=frames,
        fps=decoded.fps,
        tiny=min(decoded.rgb_fhwc.shape[1:3]) < SMALL_SIDE,
    )


def page_strip(path: Path) -> Still:
    """A video's strip of frames alone.

    Raises:
        DataError: The file holds no video.
    """
    rgb_fhwc = read_mp4(path).rgb_fhwc
    return Still(strip(rgb_fhwc), min(rgb_fhwc.shape[1:3]) < SMALL_SIDE)


def page_still(path: Path) -> Still:
    """A picture file, at most 96 pixels high.

    Raises:
        DataError: The file holds no picture.
    """
    try:
        with Image.open(path) as opened:
            rgb_hwc = np.asarray(opened.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from error
    height, width = rgb_hwc.shape[:2]
    factor = min(1.0, _STILL_HEIGHT / height, _STILL_WIDTH / width)
    tiny = min(height, width) < _STILL_HEIGHT
    small = scaled(rgb_hwc, max(round(width * factor), 1), max(round(height * factor), 1))
    return Still(as_picture(small, exact=tiny), tiny)


def _preview_sides(height: int, width: int) -> tuple[int, int]:
    lines = min(height, _PREVIEW_HEIGHT) // 2 * 2
    return lines, round(width * lines / height / 2) * 2


def _preview(decoded: Mp4, width: int, height: int) -> bytes:
    small = np.stack([np.asarray(scaled(frame, width, height)) for frame in decoded.rgb_fhwc])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preview.mp4"
        write_mp4(path, small, fps=max(round(decoded.fps), 1), crf=_PREVIEW_CRF)
        return path.read_bytes()

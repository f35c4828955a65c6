"""Videos as a page can carry them: small previews and strips of frames, inside the page itself."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cogvx.mp4 import Mp4, read_mp4, write_mp4
from cogvx.pages.pictures import SMALL_SIDE, data_uri, scaled, strip

_PREVIEW_HEIGHT = 240
_PREVIEW_BYTES = 200_000
_PREVIEW_CRF = 28


@dataclass(frozen=True)
class Clip:
    """A video ready for a page: both as data URIs, its rate, and whether its pixels are few."""

    video: str
    strip: str
    fps: float
    tiny: bool

    @property
    def size(self) -> int:
        """Bytes that it adds to the page."""
        return len(self.video) + len(self.strip)


def page_clip(path: Path) -> Clip:
    """Make a file's preview and strip.

    A file that is short enough goes in as it is; a larger one is scaled to 240 lines.

    Raises:
        DataError: The file holds no video.
    """
    decoded = read_mp4(path)
    height = decoded.rgb_fhwc.shape[1]
    if height <= _PREVIEW_HEIGHT and path.stat().st_size <= _PREVIEW_BYTES:
        data = path.read_bytes()
    else:
        data = _preview(decoded)
    return Clip(
        video=data_uri("video/mp4", data),
        strip=strip(decoded.rgb_fhwc),
        fps=decoded.fps,
        tiny=min(decoded.rgb_fhwc.shape[1:3]) < SMALL_SIDE,
    )


def _preview(decoded: Mp4) -> bytes:
    height = min(decoded.rgb_fhwc.shape[1], _PREVIEW_HEIGHT) // 2 * 2
    width = round(decoded.rgb_fhwc.shape[2] * height / decoded.rgb_fhwc.shape[1] / 2) * 2
    small = np.stack([np.asarray(scaled(frame, width, height)) for frame in decoded.rgb_fhwc])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preview.mp4"
        write_mp4(path, small, fps=max(round(decoded.fps), 1), crf=_PREVIEW_CRF)
        return path.read_bytes()

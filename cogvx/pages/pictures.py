"""Pictures as a page carries them: strips of frames, small, inside the page itself."""

import base64
import io

import numpy as np
from PIL import Image

SMALL_SIDE = 160
"""Videos with a side below this are shown pixel by pixel."""

FRAME_GAP = 2

_FRAMES, _HEIGHT = 6, 96
_EDGE = "#8a94a3"


def strip(rgb_fhwc: np.ndarray, *, height: int = _HEIGHT, quality: int = 80) -> str:
    """Up to six frames side by side as a data URI, at most `height` pixels high.

    Frames that need no reduction keep every pixel (PNG); others become JPEG of the given quality.
    """
    frames = spread(rgb_fhwc, _FRAMES)
    lines = min(rgb_fhwc.shape[1], height)
    width = max(round(rgb_fhwc.shape[2] * lines / rgb_fhwc.shape[1]), 1)
    step = width + FRAME_GAP
    picture = Image.new("RGB", (step * len(frames) - FRAME_GAP, lines), _EDGE)
    for number, frame in enumerate(frames):
        picture.paste(scaled(frame, width, lines), (step * number, 0))
    return as_picture(picture, exact=lines < height, quality=quality)


def as_picture(picture: Image.Image, *, exact: bool, quality: int = 80) -> str:
    """The picture as a data URI: every pixel as it is (PNG), or as JPEG of the given quality."""
    if exact:
        return data_uri("image/png", png(picture))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return data_uri("image/jpeg", file.getvalue())


def spread(rgb_fhwc: np.ndarray, count: int) -> np.ndarray:
    """`count` frames from the first to the last, evenly; fewer if there are fewer."""
    chosen = np.linspace(0, len(rgb_fhwc) - 1, min(count, len(rgb_fhwc))).round().astype(int)
    frames: np.ndarray = rgb_fhwc[chosen]
    return frames


def scaled(rgb_hwc: np.ndarray, width: int, height: int) -> Image.Image:
    """Enlarged pixel by pixel, so that small videos stay what they are; reduced smoothly."""
    picture = Image.fromarray(rgb_hwc)
    enlarged = width > picture.width
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return picture.resize((width, height), method)


def png(picture: Image.Image, *, quickly: bool = False) -> bytes:
    """The picture as a file, without loss; a large one quickly, and a little larger."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=not quickly)
    return file.getvalue()


def data_uri(kind: str, data: bytes) -> str:
    """A file's bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

"""Videos as a page and a sheet can carry them: small previews, strips of frames, one big PNG."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cogvx.mp4 import Mp4, read_mp4, write_mp4
from cogvx.pages.pictures import FRAME_GAP, SMALL_SIDE, data_uri, png, scaled, spread, strip

SHEET_FRAMES = 4

_PREVIEW_HEIGHT = 240
_PREVIEW_BYTES = 200_000
_PREVIEW_CRF = 28
_SHEET_WIDTH = 2400
_LABEL_WIDTH = 280
_GAP = 12
_SMALLEST_CELL = 96
_INK, _FAINT, _PAPER = "#1a202c", "#5a6472", "#ffffff"


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


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Path | None]]], columns: Sequence[str], title: str
) -> bytes:
    """One PNG: a row per prompt, a column per arm, four frames in each cell.

    Args:
        rows: The prompt in words, and a file per arm or None where there is none.
        columns: Names of the arms.
        title: Stands above it all.
    """
    shapes = [_frames_of(path).shape for _, paths in rows for path in paths if path is not None]
    frame_height, frame_width = shapes[0][1:3] if shapes else (_SMALLEST_CELL, _SMALLEST_CELL)
    room = (_SHEET_WIDTH - _LABEL_WIDTH - _GAP * (len(columns) + 1)) // len(columns)
    width = min(room // SHEET_FRAMES - FRAME_GAP, max(frame_width, _SMALLEST_CELL))
    height = max(round(width * frame_height / frame_width), 1)
    across = (width + FRAME_GAP) * SHEET_FRAMES + _GAP
    sheet = Image.new(
        "RGB",
        (_LABEL_WIDTH + across * len(columns) + _GAP, 72 + (height + _GAP) * len(rows)),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 10), title, fill=_INK, font=_font(20))
    for column, name in enumerate(columns):
        draw.text((_LABEL_WIDTH + across * column, 42), name, fill=_INK, font=_font(18))
    for row, (words, paths) in enumerate(rows):
        top = 72 + (height + _GAP) * row
        draw.multiline_text((_GAP, top), _wrapped(words, height), fill=_FAINT, font=_font(15))
        for column, path in enumerate(paths):
            if path is None:
                continue
            for number, frame in enumerate(spread(_frames_of(path), SHEET_FRAMES)):
                left = _LABEL_WIDTH + across * column + (width + FRAME_GAP) * number
                sheet.paste(scaled(frame, width, height), (left, top))
    return png(sheet)


def _preview(decoded: Mp4) -> bytes:
    height = min(decoded.rgb_fhwc.shape[1], _PREVIEW_HEIGHT) // 2 * 2
    width = round(decoded.rgb_fhwc.shape[2] * height / decoded.rgb_fhwc.shape[1] / 2) * 2
    small = np.stack([np.asarray(scaled(frame, width, height)) for frame in decoded.rgb_fhwc])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preview.mp4"
        write_mp4(path, small, fps=max(round(decoded.fps), 1), crf=_PREVIEW_CRF)
        return path.read_bytes()


@lru_cache(maxsize=4)
def _frames_of(path: Path) -> np.ndarray:
    return read_mp4(path).rgb_fhwc


def _wrapped(words: str, height: int) -> str:
    lines, line = [], ""
    for word in words.split():
        if line and len(line) + len(word) >= _LABEL_WIDTH // 8:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    fits = max(height // 19, 1)
    return "\n".join([*lines, line][:fits])


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

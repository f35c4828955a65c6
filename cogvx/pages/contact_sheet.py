"""Videos side by side in one picture: a row for each prompt, a column for each way to make it."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cogvx.mp4 import read_mp4
from cogvx.pages.pictures import FRAME_GAP, png, scaled, spread

SHEET_FRAMES = 4

_SHEET_WIDTH = 2400
_LABEL_WIDTH = 280
_GAP = 12
_SMALLEST_CELL = 96
_INK, _FAINT, _PAPER = "#1a202c", "#5a6472", "#ffffff"


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Path | None]]],
    columns: Sequence[str],
    title: str,
    *,
    most_width: int = _SHEET_WIDTH,
) -> bytes:
    """One PNG: a row per prompt, a column per arm, four frames in each cell.

    Args:
        rows: The prompt in words, and a file per arm or None where there is none.
        columns: Names of the arms.
        title: Stands above it all.
        most_width: Pixels that it may be wide; frames get smaller, but not below 96.
    """
    first = next((path for _, paths in rows for path in paths if path is not None), None)
    square = (_SMALLEST_CELL, _SMALLEST_CELL)
    frame_height, frame_width = square if first is None else _frames_of(first).shape[1:3]
    room = (most_width - _LABEL_WIDTH - _GAP * (len(columns) + 1)) // len(columns)
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
    return png(sheet, quickly=True)


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

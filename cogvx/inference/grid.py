"""A sweep to look at: videos side by side in one labelled video, and one picture of it all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cogvx import files
from cogvx.mp4 import read_mp4, write_mp4
from cogvx.pages.contact_sheet import contact_sheet
from cogvx.pages.pictures import scaled

_WIDTH, _HEIGHT = 1920, 1440  # of a grid; more rows go into further files
_LABELS, _HEAD, _GAP = 240, 34, 6
_SMALLEST_SIDE = 144  # smaller videos are enlarged to it, by whole numbers
_LARGEST_SIDE = 480
_FONT, _HEAD_FONT = 15, 18
_INK, _FAINT, _PAPER = "#1a202c", "#3d4653", "#ffffff"


@dataclass(frozen=True)
class Row:
    """One line of a grid: what it is called, and a video for each column or None."""

    label: str
    videos: tuple[Path | None, ...]


@dataclass(frozen=True)
class Grid:
    """Rows are prompts and seeds, columns are scales or whatever else is compared."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class _Layout:
    """Pixels of one cell's picture, and where the first one begins."""

    width: int
    height: int
    left: int
    top: int

    def place(self, row: int, column: int) -> tuple[int, int]:
        """The upper left corner of a cell."""
        return (
            self.left + column * (self.width + _GAP),
            self.top + row * (self.height + _GAP),
        )

    def size(self, rows: int, columns: int) -> tuple[int, int]:
        """Width and height of it all, even, as H.264 wants them."""
        width, height = self.place(rows, columns)
        return width + width % 2, height + height % 2


def write_sheet(path: Path, grid: Grid) -> None:
    """One PNG with four frames of every video.

    Raises:
        DataError: A file is no video.
    """
    rows = [(row.label, row.videos) for row in grid.rows]
    files.write_bytes(path, contact_sheet(rows, grid.columns, grid.title))


def write_grid(path: Path, grid: Grid, metadata: Mapping[str, str]) -> tuple[Path, ...]:
    """One mp4 in which all play at once, or several where there are more rows than one can show.

    Videos keep their aspect; a shorter one rests at its last frame. Of all videos only the scaled
    pixels of one file's are in memory, less than 1 GB at 81 frames.

    Args:
        path: The first file; a second one is called `name-2.mp4`.
        grid: At least one video, all of the same rate.
        metadata: Of every file.

    Returns:
        The files, from the top to the bottom.

    Raises:
        DataError: A file is no video.
    """
    layout, frames, fps = _measure(grid)
    at_once = max((_HEIGHT - layout.top) // (layout.height + _GAP), 1)
    starts = range(0, len(grid.rows), at_once)
    written = []
    for number, start in enumerate(starts, start=1):
        part = Grid(grid.title, grid.columns, grid.rows[start : start + at_once])
        target = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        write_mp4(target, _draw(part, layout, frames), fps=fps, metadata=metadata)
        written.append(target)
    return tuple(written)


def _measure(grid: Grid) -> tuple[_Layout, int, int]:
    """Where cells lie, the most frames, and the rate; each video is decoded once for it."""
    shapes, fps = [], 1.0
    for path in {path for row in grid.rows for path in row.videos if path is not None}:
        video = read_mp4(path)
        shapes.append(video.rgb_fhwc.shape[:3])
        fps = max(fps, video.fps)
    frames, height, width = (max(extents) for extents in zip(*shapes, strict=True))
    room = (_WIDTH - _LABELS) // len(grid.columns) - _GAP
    factor = min(room / width, _LARGEST_SIDE / max(height, width))
    if factor > 1:
        # by whole numbers, so that every pixel of a small video stays a square
        factor = max(min(int(factor), -(-_SMALLEST_SIDE // min(height, width))), 1)
    layout = _Layout(
        width=max(round(width * factor), 1),
        height=max(round(height * factor), 1),
        left=_LABELS,
        top=_HEAD,
    )
    return layout, frames, round(fps)


def _draw(grid: Grid, layout: _Layout, frames: int) -> np.ndarray:
    """The pixels of one file."""
    page = np.asarray(_draw_labels(grid, layout))
    rgb_fhwc = np.broadcast_to(page, (frames, *page.shape)).copy()
    for row, line in enumerate(grid.rows):
        for column, path in enumerate(line.videos):
            if path is not None:
                _paste(rgb_fhwc, path, layout, layout.place(row, column))
    return rgb_fhwc


def _paste(rgb_fhwc: np.ndarray, path: Path, layout: _Layout, corner: tuple[int, int]) -> None:
    video_fhwc = read_mp4(path).rgb_fhwc
    height, width = video_fhwc.shape[1:3]
    factor = min(layout.width / width, layout.height / height)
    width, height = max(int(width * factor), 1), max(int(height * factor), 1)
    left, top = corner
    for number in range(len(rgb_fhwc)):
        if number < len(video_fhwc):
            picture = np.asarray(scaled(video_fhwc[number], width, height))
        rgb_fhwc[number, top : top + height, left : left + width] = picture


def _draw_labels(grid: Grid, layout: _Layout) -> Image.Image:
    page = Image.new("RGB", layout.size(len(grid.rows), len(grid.columns)), _PAPER)
    draw = ImageDraw.Draw(page)
    _write(draw, (_GAP, 8), [_cut(draw, grid.title, _LABELS - 2 * _GAP, _HEAD_FONT)], _HEAD_FONT)
    for column, name in enumerate(grid.columns):
        left, _ = layout.place(0, column)
        _write(draw, (left, 8), [_cut(draw, name, layout.width, _HEAD_FONT)], _HEAD_FONT)
    for number, row in enumerate(grid.rows):
        _, top = layout.place(number, 0)
        lines = _wrap(draw, row.label, _LABELS - 2 * _GAP, layout.height // (_FONT + 4))
        _write(draw, (_GAP, top), lines, _FONT)
    return page


def _write(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[str], size: int
) -> None:
    ink = _INK if size == _HEAD_FONT else _FAINT
    for number, line in enumerate(lines):
        place = (corner[0], corner[1] + number * (size + 4))
        draw.text(place, line, fill=ink, font=ImageFont.load_default(size))


def _wrap(draw: ImageDraw.ImageDraw, text: str, width: int, most: int) -> list[str]:
    """Lines no wider than this; the last of too many ends with dots."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and _width(draw, longer, _FONT) > width:
            lines.append(line)
            longer = word
        line = longer
    lines.append(line)
    most = max(most, 1)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " ..."]
    return [_cut(draw, line, width, _FONT) for line in lines]


def _cut(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    """The text, or its beginning and dots."""
    if _width(draw, text, size) <= width:
        return text
    while text and _width(draw, f"{text}...", size) > width:
        text = text[:-1]
    return f"{text}..."


def _width(draw: ImageDraw.ImageDraw, text: str, size: int) -> float:
    return draw.textlength(text, font=ImageFont.load_default(size))

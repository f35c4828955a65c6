"""A sweep is one video in which everything plays at once, under labels that can be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvx.inference.grid import Grid, Row, write_grid, write_sheet
from cogvx.mp4 import read_label, read_mp4, write_mp4

LONG = "a very long prompt that goes on and on " * 20 + "x" * 200
COLOURS = ((250, 20, 20), (20, 250, 20), (20, 20, 250))


def video(folder: Path, number: int, *, size: tuple[int, int] = (48, 48), frames: int = 3) -> Path:
    """One flat colour, which becomes darker with every frame."""
    path = folder / f"{number}-{size[0]}x{size[1]}x{frames}.mp4"
    fade = np.linspace(1, 0.5, frames)[:, None, None, None]
    flat = np.broadcast_to(COLOURS[number % 3], (frames, *size, 3))
    write_mp4(path, (flat * fade).astype(np.uint8), fps=8, crf=0)
    return path


def grid_of(*rows: tuple[str, list[Path | None]], columns: int = 3) -> Grid:
    names = tuple(f"scale {number / 2:g}" for number in range(columns))
    return Grid("style at 0.6", names, tuple(Row(name, tuple(cells)) for name, cells in rows))


def has_ink(rgb_hwc: np.ndarray) -> bool:
    return bool((rgb_hwc.min(axis=-1) < 120).mean() > 0.005)


def test_every_video_is_in_its_cell_and_every_label_is_written(tmp_path: Path) -> None:
    first = [video(tmp_path, number) for number in range(3)]
    second = [video(tmp_path, number) for number in (2, 0)]
    grid = grid_of(("a circle, seed 1", first), (LONG, [*second, None]))
    (path,) = write_grid(tmp_path / "grid.mp4", grid, {"made_of": "x"})
    made = read_mp4(path)
    frames, height, width, _ = made.rgb_fhwc.shape
    assert (frames, made.fps) == (3, 8)
    assert (height, width) == (34 + 2 * 150, 240 + 3 * 150), "48 pixels become 144"
    assert read_label(path)["made_of"] == "x"
    for row, colours in enumerate([(0, 1, 2), (2, 0, None)]):
        for column, colour in enumerate(colours):
            top, left = 34 + 150 * row, 240 + 150 * column
            for frame, light in ((0, 1.0), (2, 0.5)):
                cell = made.rgb_fhwc[frame, top + 4 : top + 140, left + 4 : left + 140]
                expected = (255,) * 3 if colour is None else np.multiply(COLOURS[colour], light)
                assert abs(cell.astype(int) - expected).max() <= 12
    page = made.rgb_fhwc[0]
    assert has_ink(page[4:30, :230]), "the title"
    assert all(has_ink(page[4:30, 240 + 150 * n : 330 + 150 * n]) for n in range(3))
    assert has_ink(page[34:70, :230])
    assert has_ink(page[184:320, :230])
    assert (page[:, 234:238] > 235).all(), "no label runs into the videos"


def test_videos_of_several_sizes_and_lengths_share_a_grid(tmp_path: Path) -> None:
    tall, wide = video(tmp_path, 0, size=(96, 48)), video(tmp_path, 1, size=(32, 64), frames=5)
    (path,) = write_grid(tmp_path / "grid.mp4", grid_of(("x", [tall, wide]), columns=2), {})
    made = read_mp4(path).rgb_fhwc
    assert made.shape[0] == 5
    assert made.shape[1] % 2 == made.shape[2] % 2 == 0
    assert abs(made[4, 60, 260].astype(int) - np.multiply(COLOURS[0], 0.5)).max() <= 12, (
        "the shorter one rests at its last frame"
    )


def test_large_videos_are_made_smaller_and_many_rows_go_into_further_files(tmp_path: Path) -> None:
    large = video(tmp_path, 0, size=(480, 720), frames=1)
    rows = [(f"prompt {number}", [large] * 3) for number in range(5)]
    paths = write_grid(tmp_path / "grid.mp4", grid_of(*rows), {})
    assert [path.name for path in paths] == ["grid.mp4", "grid-2.mp4"]
    shapes = [read_mp4(path).rgb_fhwc.shape for path in paths]
    assert all(height <= 1440 and width <= 1920 for _, height, width, _ in shapes)
    assert shapes[0][1] > shapes[1][1]


@pytest.mark.parametrize("columns", [1, 12])
def test_any_number_of_columns_fits(tmp_path: Path, columns: int) -> None:
    small = video(tmp_path, 0, frames=1)
    (path,) = write_grid(
        tmp_path / "grid.mp4", grid_of(("x", [small] * columns), columns=columns), {}
    )
    assert read_mp4(path).rgb_fhwc.shape[2] <= 2048


def test_the_sheet_is_one_picture_of_all(tmp_path: Path) -> None:
    cells: list[Path | None] = [video(tmp_path, number) for number in range(3)]
    write_sheet(tmp_path / "grid.png", grid_of(("a circle, seed 1", cells)))
    with Image.open(tmp_path / "grid.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in COLOURS:
        assert (abs(pixels - colour).max(axis=1) < 12).any()

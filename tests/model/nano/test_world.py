"""The world's clips are real videos that show what their captions say."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from cogvx.model.nano.world import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    Scene,
    captions,
    draw_scene,
    render,
    render_world,
    words,
)
from cogvx.mp4 import read_mp4


def scene(**changes: str) -> Scene:
    traits = {
        "shape": "circle",
        "colour": "red",
        "size": "large",
        "motion": "still",
        "background": "blue",
        **changes,
    }
    return Scene(**traits, offset=(0.0, 0.0), caption="")


def centres(clip: np.ndarray, colour: str, background: str) -> np.ndarray:
    """Where the shape's middle is in each frame, `(f, 2)` as x, y in pixels."""
    paint, ground = np.array(COLOURS[colour], float), np.array(COLOURS[background], float)
    direction = (paint - ground) / np.square(paint - ground).sum()
    cover_fhw = ((clip.astype(float) - ground) @ direction).clip(0, 1)
    total = cover_fhw.sum(axis=(1, 2))
    y, x = np.mgrid[: clip.shape[1], : clip.shape[2]]
    return np.stack([(cover_fhw * x).sum((1, 2)), (cover_fhw * y).sum((1, 2))], -1) / total[:, None]


def test_clips_are_mp4_files_with_captions(world_clips: Path) -> None:
    lines = (world_clips / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["file_name"] for row in rows] == [f"clip-{n:05d}.mp4" for n in range(12)]
    assert [row["text"] for row in rows] == captions(12, seed=1)
    for row in rows:
        with av.open(str(world_clips / row["file_name"])) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.average_rate) == (48, 48, 8)
            assert len(list(container.decode(stream))) == 9


def test_a_file_shows_its_scene(world_clips: Path) -> None:
    for number in range(12):
        drawn = draw_scene(1, number)
        read = read_mp4(world_clips / f"clip-{number:05d}.mp4").rgb_fhwc
        # only brightness, as yuv420p halves the resolution of colour
        error = (read - render(drawn, frames=9, size=48).astype(float)) @ (0.299, 0.587, 0.114)
        assert np.sqrt(np.mean(np.square(error))) < 5
        for word in (drawn.shape, drawn.colour, drawn.size, drawn.background):
            assert word in drawn.caption


@pytest.mark.parametrize("motion", list(MOTIONS))
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_move_as_the_caption_says(shape: str, motion: str) -> None:
    path = centres(render(scene(shape=shape, motion=motion), frames=9, size=48), "red", "blue")
    travelled = path[-1] - path[0]
    expected = np.array(MOTIONS[motion][0]) * 0.4 * 48
    assert travelled == pytest.approx(expected, abs=0.6)
    steps = np.diff(path, axis=0)
    assert steps.std(axis=0) == pytest.approx([0, 0], abs=0.2)


def test_edges_are_smooth_and_sizes_differ() -> None:
    areas = {}
    for size in SIZES:
        frame = render(scene(size=size), frames=1, size=48)[0]
        assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 4
        areas[size] = (frame[..., 0] > 130).sum()
        expected = np.pi * (SIZES[size] * 48) ** 2
        assert areas[size] == pytest.approx(expected, rel=0.05)
    assert areas["large"] > 2 * areas["small"]


def test_shapes_differ() -> None:
    frames = {shape: render(scene(shape=shape), frames=1, size=48).tobytes() for shape in SHAPES}
    assert len(set(frames.values())) == len(SHAPES)


def test_scenes_depend_on_seed_and_number_and_cover_the_grammar() -> None:
    scenes = [draw_scene(0, number) for number in range(300)]
    assert scenes == [draw_scene(0, number) for number in range(300)]
    assert scenes[:20] != [draw_scene(1, number) for number in range(20)]
    assert {drawn.shape for drawn in scenes} == set(SHAPES)
    assert {drawn.motion for drawn in scenes} == set(MOTIONS)
    assert {drawn.size for drawn in scenes} == set(SIZES)
    assert {drawn.colour for drawn in scenes} == {drawn.background for drawn in scenes}
    assert all(drawn.colour != drawn.background for drawn in scenes)
    assert len({drawn.caption for drawn in scenes}) > 250


def test_every_word_of_a_caption_is_known() -> None:
    known = set(words())
    for caption in captions(300, seed=2):
        assert set(caption.replace(",", "").split()) <= known


def test_rendering_twice_gives_the_same_bytes_and_more_clips_join_them(tmp_path: Path) -> None:
    render_world(tmp_path / "a", clips=3, seed=5)
    render_world(tmp_path / "b", clips=1, seed=5)
    render_world(tmp_path / "b", clips=2, seed=5, first=1)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["clip-00000.mp4", "clip-00001.mp4", "clip-00002.mp4", "metadata.jsonl"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_size_length_and_rate_are_as_asked(tmp_path: Path) -> None:
    render_world(tmp_path, clips=1, seed=0, frames=17, size=64, fps=12)
    video = read_mp4(tmp_path / "clip-00000.mp4")
    assert video.rgb_fhwc.shape == (17, 64, 64, 3)
    assert video.fps == 12

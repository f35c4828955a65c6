"""Strips show the frames that training sees, cut and mirrored alike, and never stop the page."""

import base64
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvx.data.decode import decode_clip
from cogvx.data.probe import probe
from cogvx.data.windows import crop_rule
from cogvx.pages.strips import make_strips, read_frames
from cogvx.shapes import VideoSize
from cogvx.store import LocalStore, MemoryStore
from tests.data.clips import write_clip
from tests.pages.datasets import clip_of

SIZE = VideoSize(9, 48, 48)


def small_clip(path: Path, **changes: object):
    return clip_of(1, key=path.name, facts=probe(path), size=SIZE, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"start_frame": 40, "flip": True},
        {"start_frame": 30, "crop": "random-3"},
    ],
)
def test_frames_are_those_that_training_sees(changes: dict[str, object], tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=72, fps=24, options={"g": "12"})
    clip = small_clip(path, **changes)
    wanted_cfhw = decode_clip(
        path,
        start_frame=clip.start_frame,
        size=SIZE,
        fps=8,
        crop=crop_rule(clip),
        flip=clip.flip,
    )
    wanted = ((wanted_cfhw.numpy() + 1) * 127.5).transpose(1, 2, 3, 0)
    found = read_frames(path, clip, fps=8)
    places = np.linspace(0, 8, len(found)).round().astype(int)
    assert np.abs(found.astype(float) - wanted[places]).mean() < 3


def test_a_strip_is_a_picture_of_the_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=24)
    (strip,) = make_strips(
        [small_clip(path)], LocalStore(tmp_path), fps=8, work=tmp_path / "work", seconds=60
    ).values()
    kind, data = strip.picture.split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (4 * 48 + 3 * 2, 48)
    assert strip.tiny


def test_a_clip_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    store = MemoryStore()
    whole = write_clip(tmp_path / "a.mp4")
    store.write("a.mp4", whole.read_bytes())
    store.write("b.mp4", b"no video")
    clip = small_clip(whole)
    clips = [clip.model_copy(update={"key": key}) for key in ("a.mp4", "b.mp4", "c.mp4")]
    strips = make_strips(clips, store, fps=8, work=tmp_path / "work", seconds=60)
    assert strips["a.mp4"].picture
    assert "no picture: the file cannot be read as a video" in strips["b.mp4"].absent
    assert "no picture: c.mp4 is not in memory://" in strips["c.mp4"].absent
    assert not list((tmp_path / "work").iterdir())


def test_what_a_killed_process_left_of_its_clips_is_swept(tmp_path: Path) -> None:
    work, path = tmp_path / "work", write_clip(tmp_path / "a.mp4")
    stale = work / "strips-abc123_x"
    stale.mkdir(parents=True)
    os.utime(stale, (0, 0))
    make_strips([small_clip(path)], LocalStore(tmp_path), fps=8, work=work, seconds=60)
    assert not list(work.iterdir())


def test_slow_clips_cost_no_more_than_their_time(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    (strip,) = make_strips(
        [small_clip(path)], LocalStore(tmp_path), fps=8, work=tmp_path / "work", seconds=-1
    ).values()
    assert strip.absent == "no picture: the clips are slow to read"


def test_pages_are_made_without_torch() -> None:
    code = "import sys, cogvx.pages.dataset, cogvx.pages.strips; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

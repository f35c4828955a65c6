import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from cogvx.data.probe import probe, read_track
from cogvx.errors import DataError
from tests.data.clips import picture, rotate_clockwise, trim, write_clip, write_sound


@pytest.mark.parametrize(
    ("name", "codec", "reported"),
    [
        ("a.mp4", "libx264", "h264"),
        ("a.mov", "libx264", "h264"),
        ("a.mkv", "libx264", "h264"),
        ("a.avi", "libx264", "h264"),
        ("a.avi", "mpeg4", "mpeg4"),
        ("a.webm", "libvpx-vp9", "vp9"),
    ],
)
def test_every_container_tells_size_frames_and_rate(
    tmp_path: Path, name: str, codec: str, reported: str
) -> None:
    facts = probe(write_clip(tmp_path / name, frames=20, fps=24, codec=codec))
    assert (facts.height, facts.width, facts.frames, facts.fps) == (48, 64, 20, 24.0)
    assert facts.codec == reported


def test_a_clip_turned_for_display_has_the_size_that_is_shown(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    rotate_clockwise(path, height=48)
    facts = probe(path)
    assert (facts.height, facts.width) == (64, 48)


def test_oblong_pixels_are_counted_as_players_show_them(tmp_path: Path) -> None:
    facts = probe(write_clip(tmp_path / "a.mp4", aspect=Fraction(3, 2)))
    assert (facts.height, facts.width) == (48, 96)


def test_of_several_tracks_it_is_the_one_that_players_show(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        for width in (32, 96):
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            stream.disposition = Disposition.default if width == 96 else Disposition(0)
        for stream in container.streams.video:
            for number in range(12):
                pixels = picture(number, 48, stream.width)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    assert probe(path).width == 96


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=24, fps=8)
    trim(path, first=4, frames=10, fps=8)
    assert probe(path).frames == 10
    assert read_track(path).hidden == 14


def test_an_uneven_clip_has_its_average_rate(tmp_path: Path) -> None:
    times_ms = [0, 10, 100, 110, 200, 210, 300, 310, 400]
    facts = probe(write_clip(tmp_path / "a.mp4", frames=9, fps=24, times_ms=times_ms))
    assert facts.fps == pytest.approx(8 / 0.4)


def test_a_file_cut_short_says_how_much_is_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=60, faststart=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(DataError, match=r"cut short: \d+ of its 60 frames are there"):
        probe(path)


def _text(path: Path) -> None:
    path.write_text("this is no video")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(10_000))


def _half(path: Path) -> None:
    write_clip(path)  # the index is at the end, so half a file has none
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("spoil", [_text, _empty, _zeros, _half, write_sound])
def test_what_is_no_video_is_one_short_sentence(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "clip.mp4"
    assert callable(spoil)
    spoil(path)
    with pytest.raises(DataError) as caught:
        probe(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 100


def test_a_file_with_sound_alone_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no video, only audio"):
        probe(write_sound(tmp_path / "a.mp4"))


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    path.chmod(0)
    with pytest.raises(DataError, match="may not be read"):
        probe(path)


def test_pixels_so_oblong_that_the_picture_as_shown_is_huge_are_refused(tmp_path: Path) -> None:
    # FFmpeg itself ignores an aspect beyond the height.
    path = write_clip(tmp_path / "a.mp4", frames=3, height=144, aspect=Fraction(129))
    with pytest.raises(DataError, match=r"144x8256 .* is larger than 8192x8192"):
        probe(path)
    path = write_clip(tmp_path / "b.mp4", frames=3, height=144, aspect=Fraction(128))
    assert probe(path).width == 8192


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=8)
        stream.height, stream.width, stream.pix_fmt = 720, 1280, "yuv420p"
        pixels = np.zeros((720 * 3 // 2, 1280), np.uint8)
        for number in range(80):
            frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
    megabytes = path.stat().st_size >> 20
    assert megabytes > 100
    # In a process of its own: the peak of this one is that of whatever ran before.
    program = (
        "import re, sys; from pathlib import Path; from cogvx.data.probe import read_track\n"
        "status = Path('/proc/self/status')\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1]) >> 10\n"
        "before = peak(); read_track(Path(sys.argv[1])); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True
    )
    path.unlink()
    assert int(done.stdout) < megabytes // 3

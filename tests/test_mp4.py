"""Written videos are what players, ffmpeg and we ourselves read back."""

from pathlib import Path

import av
import numpy as np
import pytest

from cogvx.errors import DataError
from cogvx.mp4 import read_mp4, write_mp4


def moving_gradient(frames: int = 9, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth colours that change from frame to frame, as uint8 fhwc."""
    f, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (frames, height, width)), indexing="ij")
    rgb = np.stack([x, y, (f + x) / 2], axis=-1)
    return np.rint(rgb * 255).astype(np.uint8)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize("fps", [8, 16, 30])
def test_a_video_comes_back_with_its_frames_rate_and_colours(tmp_path: Path, fps: int) -> None:
    video = moving_gradient()
    write_mp4(tmp_path / "a.mp4", video, fps=fps)
    read = read_mp4(tmp_path / "a.mp4")
    assert read.fps == fps
    assert read.rgb_fhwc.shape == video.shape
    assert read.rgb_fhwc.dtype == np.uint8
    assert psnr(read.rgb_fhwc, video) > 36


@pytest.mark.parametrize("rgb", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)])
def test_a_flat_colour_keeps_its_hue(tmp_path: Path, rgb: tuple[int, int, int]) -> None:
    video = np.full((3, 32, 32, 3), rgb, dtype=np.uint8)
    write_mp4(tmp_path / "a.mp4", video, fps=8, crf=0)
    difference = read_mp4(tmp_path / "a.mp4").rgb_fhwc.astype(int) - video
    assert abs(difference).max() <= 4


def test_browsers_can_play_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, moving_gradient(), fps=8, metadata={"prompt": "ein großer Kreis"})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.pix_fmt == "yuv420p"
        assert stream.average_rate == 8
        assert stream.frames == 9
        assert container.metadata["prompt"] == "ein großer Kreis"
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index must come before the frames"


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    written = set()
    for _ in range(200):  # x264's defaults give another file in two of a hundred
        write_mp4(tmp_path / "a.mp4", moving_gradient(), fps=8, metadata={"seed": "1"})
        written.add((tmp_path / "a.mp4").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize(
    ("video", "sentence"),
    [
        (np.zeros((2, 47, 48, 3), np.uint8), "47x48 cannot be H.264 .* use even sizes"),
        (np.zeros((2, 48, 48, 3), np.float32), "float32 2x48x48x3 is not a video; use uint8"),
        (np.zeros((2, 48, 48), np.uint8), "is not a video"),
        (np.zeros((0, 48, 48, 3), np.uint8), "is empty"),
    ],
)
def test_an_array_that_is_no_video_is_refused_and_nothing_is_left(
    tmp_path: Path, video: np.ndarray, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        write_mp4(tmp_path / "a.mp4", video, fps=8)
    assert list(tmp_path.iterdir()) == []


def test_what_holds_no_video_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video", encoding="utf-8")
    cut = tmp_path / "cut.mp4"
    write_mp4(cut, moving_gradient(), fps=8)
    cut.write_bytes(cut.read_bytes()[:300])
    for path in (text, cut, tmp_path / "absent.mp4", tmp_path):
        with pytest.raises(DataError, match=path.name):
            read_mp4(path)

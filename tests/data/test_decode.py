import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from cogvx.data.decode import decode_clip, decode_window, window_frames
from cogvx.data.probe import probe, read_track
from cogvx.data.timing import frame_indices
from cogvx.errors import ConfigError, DataError
from cogvx.recipe_sections import VideoConfig
from cogvx.shapes import CropRule, VideoSize, cover_and_crop
from tests.data.clips import damage, numbers_of, rotate_clockwise, trim, write_clip
from tests.data.test_look import grey, write_pictures

REAL_CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"
VIDEO = VideoConfig(frames=9, height=48, width=48, fps=8)


def decode(path: Path, backend: str = "auto", video: VideoConfig = VIDEO, start: int = 0):
    return decode_clip(path, start_frame=start, size=video.size, fps=video.fps, backend=backend)


def reference(path: Path, indices: tuple[int, ...], video: VideoConfig) -> torch.Tensor:
    """Decode all with PyAV, then resize and cut with torchvision-like arithmetic in one batch."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    rgb_fchw = torch.from_numpy(np.stack([frames[i] for i in indices])).permute(0, 3, 1, 2).float()
    crop = cover_and_crop(rgb_fchw.shape[2], rgb_fchw.shape[3], video.size)
    rgb_fchw = torch.nn.functional.interpolate(
        rgb_fchw, (crop.height, crop.width), mode="bilinear", antialias=True
    )
    cut = rgb_fchw[:, :, crop.top : crop.top + video.height, crop.left : crop.left + video.width]
    return cut.permute(1, 0, 2, 3) / 127.5 - 1


@pytest.mark.parametrize("fps", [8, 24, 30])
def test_the_window_plays_at_the_clips_own_speed(tmp_path: Path, fps: int) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=60, fps=fps)
    rgb_cfhw = decode(path)
    assert rgb_cfhw.shape == (3, 9, 48, 48)
    assert rgb_cfhw.dtype == torch.float32
    assert rgb_cfhw.min() >= -1
    assert rgb_cfhw.max() <= 1
    expected = frame_indices(source_frames=60, source_fps=fps, target_fps=8, count=9)
    assert numbers_of(rgb_cfhw.numpy()) == pytest.approx(expected, abs=0.4)


def test_the_window_begins_at_its_start_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=24, fps=8)
    assert numbers_of(decode(path, start=10).numpy()) == pytest.approx(range(10, 19), abs=0.4)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.mp4", "libx265"),
        ("a.webm", "libvpx-vp9"),
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (66, 96), (120, 214)])
def test_decord_and_pyav_give_the_same_frames(
    tmp_path: Path, name: str, codec: str, size: tuple[int, int]
) -> None:
    pytest.importorskip("decord")
    height, width = size
    path = write_clip(tmp_path / name, frames=40, fps=30, codec=codec, height=height, width=width)
    assert torch.equal(decode(path, "decord"), decode(path, "pyav"))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
        ("a.mp4", "libx264", {"x264-params": "keyint=12:bframes=3"}),
        ("a.mp4", "mpeg4", {"g": "12", "bf": "2"}),
        ("a.avi", "libx264", {"g": "12"}),
        ("a.mp4", "libx264", {}),
    ],
)
@pytest.mark.parametrize(("start", "fps"), [(0, 8), (50, 8), (77, 16), (3, 1)])
def test_whatever_reads_a_clip_reads_the_same_frames(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], start: int, fps: int
) -> None:
    path = write_clip(
        tmp_path / name, frames=120, fps=30, height=48, width=48, codec=codec, options=options
    )
    video = VIDEO.model_copy(update={"fps": fps, "frames": 3})
    frames = decode(path, "auto", video, start)
    assert torch.equal(frames, decode(path, "pyav", video, start))
    indices = frame_indices(
        source_frames=120, source_fps=30, target_fps=fps, count=3, start_frame=start
    )
    assert torch.allclose(frames, reference(path, indices, video), atol=1e-5)


@pytest.mark.parametrize("path", sorted(REAL_CLIPS.glob("*.mp4")), ids=lambda path: path.stem)
@pytest.mark.parametrize(("frames", "fps"), [(9, 8), (33, 8)])
def test_decord_and_pyav_agree_with_the_reference_on_real_clips(
    path: Path, frames: int, fps: int
) -> None:
    pytest.importorskip("decord")
    video = VideoConfig(frames=frames, height=96, width=144, fps=fps)
    facts = probe(path)
    indices = frame_indices(
        source_frames=facts.frames, source_fps=facts.fps, target_fps=fps, count=frames
    )
    pyav = decode(path, "pyav", video)
    assert torch.equal(decode(path, "decord", video), pyav)
    assert torch.allclose(pyav, reference(path, indices, video), atol=1e-5)


def test_the_aspect_is_kept_and_the_middle_is_cut_out(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", height=96, width=200)
    expected = reference(path, tuple(range(9)), VIDEO)
    assert torch.allclose(decode(path), expected, atol=1e-5)


def test_a_clip_of_the_right_size_is_not_resampled(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", height=48, width=48)
    with av.open(str(path)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    shown = (decode(path)[:, 0].permute(1, 2, 0) + 1) * 127.5
    assert np.array_equal(shown.round().to(torch.uint8).numpy(), first)


def test_a_clip_turned_for_display_is_turned(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", height=48, width=48)
    upright = decode(path)
    rotate_clockwise(path, height=48)
    assert torch.equal(decode(path), torch.rot90(upright, -1, (2, 3)))


def test_oblong_pixels_are_made_square(tmp_path: Path) -> None:
    video = VIDEO.model_copy(update={"width": 96})
    plain = write_clip(tmp_path / "plain.mp4", height=48, width=96)
    oblong = write_clip(tmp_path / "oblong.mp4", height=48, width=48, aspect=Fraction(2))
    difference = (decode(oblong, video=video) - decode(plain, video=video)).abs().mean()
    assert difference < 0.02


def test_frames_that_an_edit_list_hides_are_not_shown(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=24, fps=8)
    trim(path, first=4, frames=12, fps=8)
    assert numbers_of(decode(path).numpy()) == pytest.approx(range(4, 13), abs=0.4)


def test_an_uneven_clip_keeps_its_speed(tmp_path: Path) -> None:
    times_ms = [*range(0, 1000, 100), *range(1000, 2000, 25)]  # 10 fps, then 40
    path = write_clip(tmp_path / "a.mp4", frames=50, fps=24, times_ms=times_ms)
    nearest = [int(np.abs(np.array(times_ms) - 125 * k).argmin()) for k in range(9)]
    for backend in ("auto", "pyav"):
        assert numbers_of(decode(path, backend).numpy()) == pytest.approx(nearest, abs=0.4)


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_a_damaged_frame_is_refused_and_never_made_up(tmp_path: Path, backend: str) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=24, fps=8)
    damage(path, frame=5)
    assert probe(path).frames == 24
    with pytest.raises(DataError):
        decode(path, backend)


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_a_clip_that_ends_before_the_window_is_refused(tmp_path: Path, backend: str) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=8, fps=8)
    with pytest.raises(DataError, match="has 8 frames, but 9 frames at 8 fps from frame 0 need 9"):
        decode(path, backend)


def test_a_text_named_mp4_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("no video")
    with pytest.raises(DataError, match="cannot be read as a video"):
        decode(path)


def test_ten_bits_are_left_to_pyav(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pixel_format="yuv420p10le")
    assert torch.equal(decode(path), decode(path, "pyav"))
    with pytest.raises(ConfigError, match='use "pyav"'):
        decode(path, "decord")


def test_without_decord_every_clip_is_read_by_pyav(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=40, fps=30)
    before = decode(path)
    monkeypatch.setitem(sys.modules, "decord", None)  # what Python itself does for "not there"
    assert torch.equal(decode(path), before)


@pytest.mark.parametrize(
    ("name", "codec", "options", "times_ms"),
    [
        ("a.mp4", "libx264", {"x264-params": "keyint=30:bframes=3"}, None),
        ("a.mp4", "libx264", {"x264-params": "keyint=3:bframes=2:b-pyramid=normal"}, None),
        ("a.mp4", "libx264", {"x264-params": "open-gop=1:keyint=30:bframes=3"}, None),
        ("a.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=30"}, None),
        ("a.mkv", "libx264", {"x264-params": "keyint=30:bframes=3"}, None),
        ("a.mp4", "libx265", {"x265-params": "keyint=30:bframes=3:log-level=none"}, None),
        ("a.webm", "libvpx-vp9", {"g": "30"}, None),
        (
            "a.mp4",
            "libx264",
            {"x264-params": "keyint=30"},
            [40 * i + i % 3 * 9 for i in range(200)],
        ),
    ],
)
def test_a_late_window_is_what_decoding_from_the_beginning_gives(
    tmp_path: Path,
    name: str,
    codec: str,
    options: dict[str, str],
    times_ms: list[int] | None,
) -> None:
    path = write_clip(
        tmp_path / name,
        frames=200,
        fps=30,
        height=64,
        width=64,
        codec=codec,
        options=options,
        times_ms=times_ms,
    )
    video = VIDEO.model_copy(update={"fps": 12, "frames": 9})
    for start in (65, 170):
        track = read_track(path)
        indices = window_frames(track, start_frame=start, count=9, fps=12)
        expected = reference(path, indices, video)
        assert torch.allclose(decode(path, "auto", video, start), expected, atol=1e-5)
        assert torch.allclose(decode(path, "pyav", video, start), expected, atol=1e-5)


def test_damage_before_a_window_that_is_sought_is_not_its_own(tmp_path: Path) -> None:
    options = {"x264-params": "keyint=30:bframes=2"}
    path = write_clip(tmp_path / "a.mp4", frames=160, fps=8, options=options)
    expected = decode(path, start=140)
    damage(path, frame=5)
    assert torch.equal(decode(path, start=140), expected)
    damage(path, frame=144)
    with pytest.raises(DataError):
        decode(path, start=140)


@pytest.mark.parametrize(("height", "width"), [(96, 200), (150, 60), (48, 50), (96, 96)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_random_cut_and_a_mirror_are_where_an_independent_reference_puts_them(
    tmp_path: Path, height: int, width: int, flip: bool
) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=16, height=height, width=width, fps=8)
    target = VideoSize(5, 48, 48)
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    scale = 48 / min(height, width)
    resized = (max(48, round(height * scale)), max(48, round(width * scale)))
    for down, across in ((0.5, 0.5), (2**-32, 1.0), (1.0, 2**-32), (0.3, 0.8)):
        rgb_cfhw = decode_clip(
            path, start_frame=3, size=target, fps=8, crop=CropRule(down, across), flip=flip
        )
        # Of the n + 1 places of a cut, each has an equal part of the shares from 0 to 1.
        places = [np.linspace(0, 1, free - 48 + 2)[:-1] for free in resized]
        top = int(np.flatnonzero(places[0] < down).max())
        left = int(np.flatnonzero(places[1] < across).max())
        for number in range(5):
            rgb_chw = torch.from_numpy(shown[3 + number]).permute(2, 0, 1)[None].float()
            whole = torch.nn.functional.interpolate(
                rgb_chw, resized, mode="bilinear", antialias=True
            )[0].numpy()
            cut = whole[:, top : top + 48, left : left + 48]
            expected = (cut[:, :, ::-1] if flip else cut) / 127.5 - 1
            assert np.allclose(rgb_cfhw[:, number].numpy(), expected, atol=1e-5)


def test_decord_hands_over_few_large_frames_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decord = pytest.importorskip("decord")
    pictures = [grey(40 + 9 * number, 1600, 1600) for number in range(17)]
    path = write_pictures(tmp_path / "a.mp4", pictures, preset="ultrafast")
    handed_bytes: list[int] = []
    get_batch = decord.VideoReader.get_batch

    def watched(reader: object, indices: list[int]) -> object:
        batch = get_batch(reader, indices)
        handed_bytes.append(int(np.prod(batch.shape)))
        return batch

    monkeypatch.setattr(decord.VideoReader, "get_batch", watched)
    video = VIDEO.model_copy(update={"frames": 17})
    assert torch.equal(decode(path, "decord", video), decode(path, "pyav", video))
    assert sum(handed_bytes) == 17 * 1600 * 1600 * 3
    assert max(handed_bytes) <= 100 << 20


def test_a_window_of_a_clip_whose_track_is_known_is_the_same(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", height=96, width=200)
    options = {"start_frame": 10, "size": VIDEO.size, "fps": 8, "crop": CropRule(0.3, 0.8)}
    window = decode_window(path, read_track(path), flip=True, **options)
    assert torch.equal(window, decode_clip(path, flip=True, **options))

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from cogvx.data.look import look, positions_to_look_at
from cogvx.data.probe import read_track
from cogvx.errors import DataError
from tests.data.clips import damage, free_box, rotate_clockwise, trim, write_clip

REAL_CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"


def remux(path: Path, target: Path) -> Path:
    """The same coded frames in another container, as `ffmpeg -c copy` does."""
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        track = source.streams.best("video")
        copy = container.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
    return target


def write_pictures(path: Path, pictures: list[np.ndarray], **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "10", **options}
        for pixels in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize("value", [0, 3, 16, 100, 255])
def test_brightness_is_the_mean_luma_and_black_is_zero(tmp_path: Path, value: int) -> None:
    found = look(write_pictures(tmp_path / "a.mp4", [grey(value)] * 9))
    assert found.brightness == pytest.approx(value, abs=1.5)
    assert found.motion == 0


def test_motion_is_the_mean_difference_between_neighbouring_looks(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "a.mp4", [grey(100 + 4 * number) for number in range(9)])
    assert look(path).motion == pytest.approx(4, abs=0.5)


def test_a_picture_that_is_only_compressed_counts_as_still(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    still = rng.integers(0, 255, (12, 16, 3)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
    assert look(write_pictures(tmp_path / "a.mp4", [still] * 40, crf="35")).motion < 0.1


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.mov"])
def test_a_clip_in_another_container_shows_the_same_frames(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=40, fps=24)
    copy = remux(path, tmp_path / name)
    assert copy.read_bytes() != path.read_bytes()
    assert look(copy) == look(path)


def test_tags_and_rotation_change_no_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    before = look(path)
    path.write_bytes(path.read_bytes() + free_box(b"a comment"))
    assert look(path) == before
    rotate_clockwise(path, height=48)
    assert look(path).frames_sha256 == before.frames_sha256


def test_other_frames_other_lengths_and_copies_encoded_again_differ(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=24)
    others = [
        write_clip(tmp_path / "b.mp4", frames=24, seed=1),
        write_clip(tmp_path / "c.mp4", frames=25),
        write_clip(tmp_path / "d.mp4", frames=24, options={"crf": "30"}),
    ]
    assert len({look(other).frames_sha256 for other in [path, *others]}) == 4


def test_frames_that_an_edit_list_hides_are_not_looked_at(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=24, fps=8)
    whole = look(path)
    trim(path, first=4, frames=10, fps=8)
    assert look(path).brightness < whole.brightness  # brightness grows with the number


def test_of_a_long_clip_only_key_frames_are_decoded(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=600, fps=30, options={"g": "30"})
    track = read_track(path)
    positions = positions_to_look_at(track)
    assert set(positions) <= set(track.keys)
    assert len(positions) >= 6
    copy = remux(path, tmp_path / "a.mkv")
    assert look(copy).frames_sha256 == look(path).frames_sha256
    with av.open(str(path)) as container:
        planes = [frame.to_ndarray()[:48].mean() for frame in container.decode(video=0)]
    scaled = (np.array(planes)[list(positions)] - 16) * 255 / 219
    assert look(path).brightness == pytest.approx(scaled.mean(), abs=1.5)


def test_a_long_clip_with_few_key_frames_is_decoded_whole(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "a.mp4", frames=400, fps=30, options={"g": "1000", "sc_threshold": "0"}
    )
    positions = positions_to_look_at(read_track(path))
    assert positions[0] == 0
    assert positions[-1] == 399
    assert look(path).motion > 0


@pytest.mark.parametrize(
    ("pixel_format", "codec"),
    [("yuv444p", "libx264"), ("yuv420p10le", "libx264"), ("gray", "libx264"), ("rgb24", "qtrle")],
)
def test_every_form_of_pixels_is_hashed_whole(
    tmp_path: Path, pixel_format: str, codec: str
) -> None:
    paths = [
        write_clip(tmp_path / f"{seed}.mov", codec=codec, pixel_format=pixel_format, seed=seed)
        for seed in (0, 1)
    ]
    first, second = (look(path) for path in paths)
    assert first.frames_sha256 != second.frames_sha256
    assert 20 < first.brightness < 200


def test_the_digest_is_of_the_decoded_planes(tmp_path: Path) -> None:
    import hashlib

    path = write_clip(tmp_path / "a.mp4", frames=10)
    expected = hashlib.sha256(b"10 frames")
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            expected.update(b"yuv420p 64x48")
            expected.update(frame.to_ndarray().tobytes())
    assert look(path).frames_sha256 == expected.hexdigest()


def test_damage_that_is_met_is_an_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=24, fps=8)
    damage(path, frame=5)
    with pytest.raises(DataError, match=r"damaged|cannot be read"):
        look(path)


def test_a_lost_end_is_an_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", frames=24, codec="mpeg4")
    with av.open(str(path)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
        place = last.pos
    data = bytearray(path.read_bytes())
    data[place : place + 4] = struct.pack(">I", 0)
    data[place + 4 : place + last.size] = bytes(last.size - 4)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged|cannot be read"):
        look(path)


@pytest.mark.parametrize("path", sorted(REAL_CLIPS.glob("*.mp4")), ids=lambda path: path.stem)
def test_real_clips_are_neither_black_nor_still(path: Path) -> None:
    found = look(path)
    assert found.brightness > 6
    assert found.motion > 1

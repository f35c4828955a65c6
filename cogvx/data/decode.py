"""A window of a clip as a tensor: the right frames, upright, covering the size, cut to it.

decord reads the clips that it reads right; PyAV reads the others, and everything where decord has
no wheel. Both give the same bytes. What was measured of decord 0.6, and why it is not asked there:
over an edit list it repeats frames; with open groups of pictures, in AVI and in MPEG-4 it seeks to
wrong frames; 10 bits come out wrong by up to 97 of 255; AV1 and some narrow sizes fail; and damage
is filled with whatever lies near, which cannot be seen from outside, so that PyAV decodes the
window strictly first. A window that begins late is sought, where a key frame is a safe beginning.

Both turn YUV into RGB with the BT.601 matrix whatever the file's tag says, as the clips that
CogVideoX was trained on were turned.
"""

import importlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cogvx.data.probe import Track, open_video, read_track
from cogvx.data.timing import frame_indices, nearest_frames
from cogvx.errors import ConfigError, DataError
from cogvx.shapes import CENTRE, Crop, CropRule, VideoSize, cover_and_crop

Backend = Literal["auto", "decord", "pyav"]

_SEEKABLE_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "mjpeg"})
_DECORD_FORMATS = frozenset({"yuv420p", "yuvj420p"})
# The first window begins at frame 0, so most clips are never sought. A container may file a key
# frame under an earlier time than it is shown at, by the frames that are reordered: at most 16.
_FAR, _REORDERED = 64, 16
# What decord may hand over at once: 16 frames of 1080p, one of 8192x8192.
_BATCH_BYTES = 100 << 20

# Times this close to even, in frames, are taken as even: containers round them, Matroska to 1 ms.
_EVEN = Fraction(1, 10)


def decode_clip(
    path: Path,
    *,
    start_frame: int,
    size: VideoSize,
    fps: int,
    crop: CropRule = CENTRE,
    flip: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Decode `size.frames` frames at `fps` from `start_frame` on, cut to the size.

    Frames are chosen by their times, so clips of an uneven rate (phones, screen recordings) keep
    their speed too. A clip that is to be shown rotated is rotated, one with oblong pixels is
    stretched, as players do. The aspect is kept; what sticks out is cut off as `crop` says, counted
    before `flip` mirrors left and right.

    Returns:
        RGB in [-1, 1], float32, `(3, f, h, w)`.

    Raises:
        DataError: The file is no video, ends before the window does, or is damaged inside it.
        ConfigError: decord was asked for by name, and is not installed or cannot read this clip.
    """
    track = read_track(path)
    indices = window_frames(track, start_frame=start_frame, count=size.frames, fps=fps)
    frames = _read(path, track, indices, backend)
    return _stack(frames, cover_and_crop(track.height, track.width, size, crop), size, flip=flip)


def decode_window(
    path: Path,
    track: Track,
    *,
    start_frame: int,
    size: VideoSize,
    fps: int,
    crop: CropRule = CENTRE,
    flip: bool = False,
) -> Tensor:
    """As `decode_clip`, for a file whose track is known already: reading it takes the whole file.

    Raises:
        DataError: The file ends before the window does, or is damaged inside it.
    """
    indices = window_frames(track, start_frame=start_frame, count=size.frames, fps=fps)
    frames = _read(path, track, indices, "auto")
    return _stack(frames, cover_and_crop(track.height, track.width, size, crop), size, flip=flip)


def window_frames(track: Track, *, start_frame: int, count: int, fps: int) -> tuple[int, ...]:
    """Which of the track's frames the window shows.

    Raises:
        DataError: The track ends before the window does.
    """
    frame_ticks = 1 / (track.fps * track.time_base)
    first = track.ticks[0]
    late = (abs(tick - first - i * frame_ticks) for i, tick in enumerate(track.ticks))
    if all(ticks <= _EVEN * frame_ticks for ticks in late):
        return frame_indices(
            source_frames=len(track.ticks),
            source_fps=track.fps,
            target_fps=fps,
            count=count,
            start_frame=start_frame,
        )
    return nearest_frames(track.times_s, target_fps=fps, count=count, start_frame=start_frame)


def _read(
    path: Path, track: Track, indices: Sequence[int], backend: Backend
) -> Iterator[np.ndarray]:
    """The frames at `indices`, as shown, in uint8 `hwc`."""
    done, start = 0, _safe_start(path, track, indices[0], indices[-1])
    if backend != "pyav" and _is_for_decord(track):
        if not start:  # else it was done to find the start
            for _ in _decode_strictly(path, track, 0, indices[-1]):
                pass
        for rgb_hwc in _read_with_decord(path, track, indices):
            yield rgb_hwc
            done += 1
    if done < len(indices):
        if backend == "decord":
            raise ConfigError('decord is not installed here or cannot read this clip; use "pyav"')
        yield from _read_with_pyav(path, track, indices[done:], start)


def _read_with_pyav(
    path: Path, track: Track, indices: Sequence[int], start: int
) -> Iterator[np.ndarray]:
    wanted = iter(indices)
    index = next(wanted)
    for position, frame in _decode_strictly(path, track, start, indices[-1]):
        if position == index:
            rgb_hwc = np.rot90(frame.to_ndarray(format="rgb24"), track.rotation // 90)
        while position == index:
            yield np.ascontiguousarray(rgb_hwc)
            index = next(wanted, -1)


def _read_with_decord(path: Path, track: Track, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """As many of the frames as decord can give, which is all or none of almost every clip."""
    decord = _decord()
    decord.logging.set_level(decord.logging.QUIET)  # its FFmpeg writes to the terminal
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0))
        if len(reader) != len(track.ticks):
            return
        one_nhwc = reader.get_batch(list(indices[:1])).asnumpy()
        yield from one_nhwc
        batch = max(1, _BATCH_BYTES // one_nhwc.nbytes)
        for first in range(1, len(indices), batch):
            yield from reader.get_batch(list(indices[first : first + batch])).asnumpy()
    except decord.DECORDError:
        return


def _is_for_decord(track: Track) -> bool:
    return (
        _is_seekable(track)
        and track.pixel_format in _DECORD_FORMATS
        and not track.rotation
        and _decord() is not None
    )


def _is_seekable(track: Track) -> bool:
    """Whether decoding may begin at a key frame: what follows then is as it would be."""
    return track.codec in _SEEKABLE_CODECS and track.timed and track.closed and not track.hidden


def _decord() -> Any:
    """The library, or None where it has no wheel."""
    try:
        return importlib.import_module("decord")
    except ImportError:
        return None


def _safe_start(path: Path, track: Track, first: int, last: int) -> int:
    """A key frame before `first` from which everything up to `last` decodes; 0 where none is."""
    if first <= _FAR or not _is_seekable(track):
        return 0
    with open_video(path) as (container, stream):
        container.seek(track.ticks[first - _REORDERED], stream=stream)
        packet = next(container.demux(stream))
    start = 0 if packet.pts is None else bisect_left(track.ticks, packet.pts)
    if not packet.is_keyframe or start > first - _REORDERED:
        return 0
    try:
        for _ in _decode_strictly(path, track, start, last):
            pass
    except DataError:  # what follows the key frame leans on frames before it after all
        return 0
    return start


def _decode_strictly(path: Path, track: Track, start: int, last: int) -> Iterator[tuple[int, Any]]:
    """Every shown frame from `start`, 0 or a safe one, up to `last` with its position.

    Raises:
        DataError: The decoder had to guess at a frame, or skipped one.
    """
    with open_video(path) as (container, stream):
        stream.codec_context.options = {"err_detect": "explode"}
        if start:
            container.seek(track.ticks[start], stream=stream)
        position = start - 1
        for position, frame in enumerate(container.decode(stream), start=start):
            misplaced = track.timed and frame.pts not in (None, track.ticks[position])
            if frame.is_corrupt or misplaced:
                raise DataError(f"the file is damaged at frame {position}")
            yield position, frame
            if position == last:
                return
    raise DataError(f"the file is damaged: frame {position + 1} of {len(track.ticks)} is lost")


def _stack(frames: Iterator[np.ndarray], cut: Crop, size: VideoSize, *, flip: bool) -> Tensor:
    """Frames as shown, in uint8 `hwc`, fitted to the size: RGB in [-1, 1], `cfhw`."""
    rgb_cfhw = torch.stack([fit_frame(rgb_hwc, cut, size) for rgb_hwc in frames], dim=1)
    if flip:
        rgb_cfhw = rgb_cfhw.flip(-1)
    return rgb_cfhw.div_(127.5).sub_(1).clamp_(-1, 1)


def fit_frame(rgb_hwc: np.ndarray, crop: Crop, size: VideoSize) -> Tensor:
    """Resize one frame to cover the size, antialiased, and cut it out: `chw`, still in 0..255."""
    rgb_chw = torch.from_numpy(rgb_hwc).permute(2, 0, 1).float()
    if rgb_chw.shape[1:] != (crop.height, crop.width):
        rgb_chw = functional.interpolate(
            rgb_chw[None],
            size=(crop.height, crop.width),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )[0]
    bottom, right = crop.top + size.height, crop.left + size.width
    return rgb_chw[:, crop.top : bottom, crop.left : right]

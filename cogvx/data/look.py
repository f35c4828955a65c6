"""What a clip looks like, from a few of its frames: how bright, how much moves, and which pixels.

Of a clip of ordinary length every frame is decoded and a few spread over it are looked at. Of a
long one only key frames are decoded, unless it has too few. Damage that is met on the way rules
the clip out here, before a GPU is asked for.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cogvx.data.manifest import ClipLook
from cogvx.data.probe import Track, open_video, read_track
from cogvx.errors import DataError

_LOOKS = 12
# Beyond this many frames the key frames are enough, if there are at least `_LOOKS // 2` of them.
_ORDINARY = 300
# Longer side of the pictures that brightness and motion are measured on: grain and the noise of
# compression are averaged away, so that they do not look like motion.
_SIDE = 64
_SMALLEST = 8
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_DECIMALS = 3


def look(path: Path, track: Track | None = None) -> ClipLook:
    """Look at up to 12 frames of a clip.

    `frames_sha256` is of the pixels as the decoder gives them, before any conversion, and of the
    number of frames. So a file that was renamed, tagged anew or moved into another container has
    the same digest. A copy that was encoded again has other pixels and is not found.

    Args:
        path: The clip.
        track: What `read_track` found in it, where that is known.

    Raises:
        DataError: A frame cannot be decoded, or the picture changes its size on the way.
    """
    track = track or read_track(path)
    pixels = hashlib.sha256(f"{len(track.ticks)} frames".encode())
    lumas: list[np.ndarray] = []
    for frame in _frames(path, track, positions_to_look_at(track)):
        _update(pixels, frame)
        lumas.append(_small_luma(frame))
    motion = [np.abs(after - before).mean() for before, after in pairwise(lumas)]
    return ClipLook(
        brightness=round(float(np.mean(lumas)), _DECIMALS),
        motion=round(float(np.mean(motion)), _DECIMALS) if motion else 0.0,
        frames_sha256=pixels.hexdigest(),
    )


def positions_to_look_at(track: Track) -> tuple[int, ...]:
    """Evenly spread frames, the first and the last among them; key frames in a long clip."""
    last = len(track.ticks) - 1
    spread = sorted({round(number * last / (_LOOKS - 1)) for number in range(_LOOKS)})
    if len(track.ticks) <= _ORDINARY or not _may_seek(track):
        return tuple(spread)
    keys = np.array(track.keys)
    nearest = sorted({int(keys[np.abs(keys - position).argmin()]) for position in spread})
    return tuple(nearest if len(nearest) >= _LOOKS // 2 else spread)


def _may_seek(track: Track) -> bool:
    return track.timed and track.closed and not track.hidden and bool(track.keys)


def _frames(path: Path, track: Track, positions: Sequence[int]) -> Iterator[Any]:
    if len(track.ticks) > _ORDINARY and _may_seek(track) and set(positions) <= set(track.keys):
        yield from _key_frames(path, track, positions)
    else:
        yield from _frames_in_passing(path, track, positions)


def _key_frames(path: Path, track: Track, positions: Sequence[int]) -> Iterator[Any]:
    with open_video(path) as (container, stream):
        for position in positions:
            tick = track.ticks[position]
            container.seek(tick, stream=stream)
            # An index may name an earlier key frame than the one that was asked for.
            late = (frame for frame in container.decode(stream) if (frame.pts or 0) >= tick)
            frame = next(late, None)
            if frame is None or frame.pts != tick or frame.is_corrupt:
                raise DataError(f"the file is damaged at frame {position}")
            yield frame


def _frames_in_passing(path: Path, track: Track, positions: Sequence[int]) -> Iterator[Any]:
    wanted = set(positions)
    size = None
    position = -1
    with open_video(path) as (container, stream):
        stream.codec_context.options = {"err_detect": "explode"}
        for position, frame in enumerate(container.decode(stream)):
            size = size or (frame.height, frame.width)
            if frame.is_corrupt:
                raise DataError(f"the file is damaged at frame {position}")
            if (frame.height, frame.width) != size:
                raise DataError(
                    f"its picture changes from {size[0]}x{size[1]} to {frame.height}x{frame.width}"
                    f" (height x width) at frame {position}; cut it there into two clips"
                )
            if position in wanted:
                yield frame
            if position == positions[-1]:
                return
    raise DataError(f"the file is damaged: frame {position + 1} of {len(track.ticks)} is lost")


def _update(hasher: Any, frame: Any) -> None:
    """Hash a frame's planes line by line, without what the decoder keeps beside each line."""
    hasher.update(f"{frame.format.name} {frame.width}x{frame.height}".encode())
    line_bytes: dict[int, int] = {}
    for part in frame.format.components:
        whole_bytes = -(-part.bits // 8)
        line_bytes[part.plane] = line_bytes.get(part.plane, 0) + part.width * whole_bytes
    for number, plane in enumerate(frame.planes):
        if number not in line_bytes:
            hasher.update(plane)  # a palette
            continue
        lines = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        hasher.update(np.ascontiguousarray(lines[:, : line_bytes[number]]).data)


def _small_luma(frame: Any) -> np.ndarray:
    """Luma in 0..255, `hw`; through RGB, so that every range of YUV means the same."""
    scale = min(1.0, _SIDE / max(frame.height, frame.width))
    height, width = (max(_SMALLEST, round(n * scale)) for n in (frame.height, frame.width))
    rgb_hwc = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    luma_hw: np.ndarray = rgb_hwc @ _LUMA
    return luma_hw

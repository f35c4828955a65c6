"""A few frames of some windows, small, as training sees them: cut, mirrored, in their order.

Only what is shown is decoded, from the key frame before it, without torch. Slow files or a slow
store end it early: then the page has fewer pictures.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cogvx.data.manifest import Clip
from cogvx.data.probe import Track, open_video, read_track
from cogvx.data.scratch import scratch_folder
from cogvx.data.timing import nearest_frames
from cogvx.data.windows import crop_rule
from cogvx.errors import DataError, IntegrityError
from cogvx.pages.pictures import SMALL_SIDE, strip
from cogvx.shapes import Crop, VideoSize, cover_and_crop
from cogvx.store import ObjectStore

_FRAMES, _HEIGHT = 4, 96
_QUALITY = 70
# Fetching waits for the network, decoding has threads of its own.
_WORKERS = 4


@dataclass(frozen=True)
class Strip:
    """A window's frames as a data URI, empty where there are none: then `absent` says why.

    `tiny` pictures are shown pixel by pixel.
    """

    picture: str
    tiny: bool = False
    absent: str = ""


def make_strips(
    clips: Sequence[Clip], dataset: ObjectStore, *, fps: int, work: Path, seconds: float
) -> Mapping[str, Strip]:
    """Strips by the clips' keys, for as many clips as can be made in about `seconds`.

    Args:
        clips: One window of each clip to show.
        dataset: Where the clips lie.
        fps: Rate of the windows.
        work: A folder for clips on their way; nothing is left there.
        seconds: When no further strip is begun.

    Raises:
        TransientError: The store did not answer this time.
    """
    end = time.monotonic() + seconds
    strips = {}
    with scratch_folder(work, "strips") as folder:
        pool = ThreadPoolExecutor(_WORKERS)
        try:
            futures: list[tuple[Clip, Future[Strip]]] = [
                (clip, pool.submit(_make_strip, clip, dataset, fps, folder, end)) for clip in clips
            ]
            for clip, future in futures:
                strips[clip.key] = future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return strips


def read_frames(path: Path, clip: Clip, *, fps: int) -> np.ndarray:
    """A few frames of a window, evenly spread and reduced: RGB, `fhwc`, uint8.

    Raises:
        DataError: The file holds no such window.
    """
    track = read_track(path)
    shown = nearest_frames(
        track.times_s, target_fps=fps, count=clip.size.frames, start_frame=clip.start_frame
    )
    places = np.linspace(0, len(shown) - 1, min(_FRAMES, len(shown))).round().astype(int)
    height = min(_HEIGHT, clip.size.height)
    width = max(1, round(clip.size.width * height / clip.size.height))
    target = VideoSize(1, height, width)
    cut = cover_and_crop(track.height, track.width, target, crop_rule(clip))
    frames = _decode(path, track, {shown[place] for place in places}, cut)
    bottom, right = cut.top + height, cut.left + width
    rgb_fhwc = np.stack(
        [frames[shown[place]][cut.top : bottom, cut.left : right] for place in places]
    )
    return rgb_fhwc[:, :, ::-1] if clip.flip else rgb_fhwc


def _make_strip(clip: Clip, dataset: ObjectStore, fps: int, folder: Path, end: float) -> Strip:
    if time.monotonic() > end:
        return Strip("", absent="no picture: the clips are slow to read")
    path = None
    try:
        path = dataset.fetch(clip.key, folder)
        rgb_fhwc = read_frames(path, clip, fps=fps)
    except (DataError, IntegrityError) as error:
        return Strip("", absent=f"no picture: {error}")
    finally:
        if path is not None and path.is_relative_to(folder):
            path.unlink(missing_ok=True)
    tiny = min(clip.size.height, clip.size.width) < SMALL_SIDE
    return Strip(strip(rgb_fhwc, height=_HEIGHT, quality=_QUALITY), tiny=tiny)


def _decode(path: Path, track: Track, wanted: set[int], cut: Crop) -> dict[int, np.ndarray]:
    """The wanted frames, resized to what `cut` is cut from, upright."""
    found: dict[int, np.ndarray] = {}
    first, last = min(wanted), max(wanted)
    position_at = {tick: position for position, tick in enumerate(track.ticks)}
    with open_video(path) as (container, stream):
        if _may_seek(track):
            container.seek(track.ticks[first], stream=stream)
        for passed, frame in enumerate(container.decode(stream)):
            position = position_at.get(frame.pts, -1) if track.timed else passed
            if position in wanted:
                found[position] = _reduced(frame, track, cut)
            if position >= last:
                break
    lost = sorted(wanted - set(found))
    if lost:
        raise DataError(f"frame {lost[0]} cannot be decoded")
    return found


def _may_seek(track: Track) -> bool:
    return track.timed and track.closed and not track.hidden


def _reduced(frame: Any, track: Track, cut: Crop) -> np.ndarray:
    upright = track.rotation % 180 == 0
    height, width = (cut.height, cut.width) if upright else (cut.width, cut.height)
    rgb_hwc = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return np.rot90(rgb_hwc, track.rotation // 90)

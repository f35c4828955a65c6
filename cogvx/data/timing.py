"""Which source frames show a clip at another frame rate: always the nearest in time.

Never a stride: a stride of n // F plays every clip at its own speed, and the model learns motion
from the speed. A tie takes the earlier frame, so a window never reaches further than it must.
"""

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from cogvx.errors import DataError

# A rate such as 30000/1001 survives the trip through a float.
_MAX_DENOMINATOR = 100_000


def exact_rate(fps: float | Fraction) -> Fraction:
    """A frame rate as the fraction that a container meant by it."""
    return Fraction(fps).limit_denominator(_MAX_DENOMINATOR)


@lru_cache(maxsize=4096)  # exact arithmetic takes longer than all the rest of screening a clip
def frames_needed(*, source_fps: float | Fraction, target_fps: float | Fraction, count: int) -> int:
    """Source frames from the first to the last of a window of `count` frames at `target_fps`."""
    return _nearest((count - 1) * exact_rate(source_fps) / exact_rate(target_fps)) + 1


def frame_indices(
    *,
    source_frames: int,
    source_fps: float | Fraction,
    target_fps: float | Fraction,
    count: int,
    start_frame: int = 0,
) -> tuple[int, ...]:
    """Source frames of a window in a clip whose frames are evenly spaced.

    Output frame k, at k / `target_fps` seconds, shows source frame
    `start_frame + ceil(k * source_fps / target_fps - 1/2)`, in exact arithmetic.

    Returns:
        `count` indices below `source_frames`, never decreasing, the first one `start_frame`.

    Raises:
        DataError: The clip ends before the window does.
    """
    needed = frames_needed(source_fps=source_fps, target_fps=target_fps, count=count)
    if start_frame + needed > source_frames:
        raise DataError(
            f"the clip has {source_frames} frames, but {count} frames at {float(target_fps):g} fps"
            f" from frame {start_frame} need {start_frame + needed}"
        )
    step = exact_rate(source_fps) / exact_rate(target_fps)
    return tuple(start_frame + _nearest(k * step) for k in range(count))


def nearest_frames(
    times_s: Sequence[Fraction], *, target_fps: int, count: int, start_frame: int = 0
) -> tuple[int, ...]:
    """Source frames of a window in a clip whose frames come at uneven times.

    On even times it equals `frame_indices`; a single time has no spacing, so it shows one frame.
    The window begins where `start_frame` would be if the frames came evenly: counted in real
    frames, a window of a clip that speeds up would begin too late to fit.

    Args:
        times_s: When each source frame is shown, ascending.
        target_fps: Rate of the window.
        count: Frames of the window.
        start_frame: How many source frames lie before the window, on average.

    Raises:
        DataError: The window ends later than half a source frame after the last source frame.
    """
    if not 0 <= start_frame < len(times_s):
        raise DataError(f"the clip has {len(times_s)} frames, so none is frame {start_frame}")
    end_s = times_s[-1]
    spacing_s = (end_s - times_s[0]) / max(1, len(times_s) - 1)
    start_s = times_s[0] + start_frame * spacing_s
    last_s = start_s + Fraction(count - 1, target_fps)
    if last_s > end_s + spacing_s / 2:
        raise DataError(
            f"the clip lasts {float(end_s - start_s):.2f} s from frame {start_frame}, but"
            f" {count} frames at {target_fps} fps need {(count - 1) / target_fps:.2f} s"
        )
    return tuple(_nearest_time(times_s, start_s + Fraction(k, target_fps)) for k in range(count))


def _nearest(position: Fraction) -> int:
    """The nearest integer; of two, the smaller."""
    return -((1 - 2 * position) // 2)


def _nearest_time(times_s: Sequence[Fraction], time_s: Fraction) -> int:
    after = bisect_left(times_s, time_s)
    if after == 0:
        return 0
    if after == len(times_s):
        return after - 1
    return after if times_s[after] - time_s < time_s - times_s[after - 1] else after - 1

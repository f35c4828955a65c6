from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cogvx.data.timing import frame_indices, frames_needed, nearest_frames
from cogvx.errors import DataError

RATES = st.one_of(
    st.sampled_from([Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)]),
    st.integers(1, 120).map(Fraction),
    st.floats(5, 120),
)
WINDOWS = {
    "source_fps": RATES,
    "target_fps": st.integers(1, 60),
    "count": st.integers(1, 161),
    "start_frame": st.integers(0, 1000),
}


@given(**WINDOWS)
def test_frames_ascend_from_the_start_and_keep_the_speed_within_half_a_source_frame(
    source_fps: Fraction | float, target_fps: int, count: int, start_frame: int
) -> None:
    needed = frames_needed(source_fps=source_fps, target_fps=target_fps, count=count)
    indices = frame_indices(
        source_frames=start_frame + needed,
        source_fps=source_fps,
        target_fps=target_fps,
        count=count,
        start_frame=start_frame,
    )
    assert len(indices) == count
    assert indices[0] == start_frame
    assert indices[-1] == start_frame + needed - 1
    assert list(indices) == sorted(indices)
    for k, index in enumerate(indices):
        asked_s, shown_s = k / target_fps, (index - start_frame) / float(source_fps)
        assert abs(asked_s - shown_s) <= 0.5 / float(source_fps) + 1e-4


@given(**WINDOWS)
def test_a_window_that_is_one_frame_too_long_is_refused(
    source_fps: Fraction | float, target_fps: int, count: int, start_frame: int
) -> None:
    needed = frames_needed(source_fps=source_fps, target_fps=target_fps, count=count)
    with pytest.raises(DataError, match="frames"):
        frame_indices(
            source_frames=start_frame + needed - 1,
            source_fps=source_fps,
            target_fps=target_fps,
            count=count,
            start_frame=start_frame,
        )


@given(
    source_fps=st.integers(1, 120),
    target_fps=st.integers(1, 60),
    count=st.integers(1, 81),
    source_frames=st.integers(2, 600),  # one time tells no rate
    start_frame=st.integers(0, 100),
)
def test_even_times_are_sampled_like_a_rate(
    source_fps: int, target_fps: int, count: int, source_frames: int, start_frame: int
) -> None:
    assume(start_frame < source_frames)
    times_s = [Fraction(7) + Fraction(i, source_fps) for i in range(source_frames)]
    window = {"target_fps": target_fps, "count": count, "start_frame": start_frame}
    try:
        by_rate = frame_indices(source_frames=source_frames, source_fps=source_fps, **window)
    except DataError:
        with pytest.raises(DataError):
            nearest_frames(times_s, **window)
        return
    assert nearest_frames(times_s, **window) == by_rate


@given(
    gaps_ms=st.lists(st.integers(1, 200), min_size=2, max_size=80),
    target_fps=st.integers(1, 60),
    count=st.integers(1, 40),
)
def test_uneven_times_give_the_frame_that_no_other_frame_is_nearer_than(
    gaps_ms: list[int], target_fps: int, count: int
) -> None:
    times_s = [Fraction(sum(gaps_ms[:i]), 1000) for i in range(len(gaps_ms) + 1)]
    assume(Fraction(count - 1, target_fps) <= times_s[-1])
    indices = nearest_frames(times_s, target_fps=target_fps, count=count)
    for k, index in enumerate(indices):
        asked_s = Fraction(k, target_fps)
        nearest = min(range(len(times_s)), key=lambda i: (abs(times_s[i] - asked_s), i))
        assert index == nearest


@given(
    gaps_ms=st.lists(st.integers(1, 200), min_size=20, max_size=80),
    target_fps=st.integers(4, 30),
    count=st.integers(1, 20),
    windows=st.integers(1, 4),
)
def test_equal_parts_of_an_uneven_clip_hold_a_window_each(
    gaps_ms: list[int], target_fps: int, count: int, windows: int
) -> None:
    frames = len(gaps_ms) + 1
    times_s = [Fraction(sum(gaps_ms[:i]), 1000) for i in range(frames)]
    fps = len(gaps_ms) / times_s[-1]
    needed = frames_needed(source_fps=fps, target_fps=target_fps, count=count)
    assume(windows * needed <= frames)
    window = {"target_fps": target_fps, "count": count}
    found = [
        nearest_frames(times_s, **window, start_frame=number * frames // windows)
        for number in range(windows)
    ]
    for number, indices in enumerate(found):
        begins_s = number * frames // windows / fps
        for k, index in enumerate(indices):
            asked_s = begins_s + Fraction(k, target_fps)
            nearest = min(range(frames), key=lambda i: (abs(times_s[i] - asked_s), i))
            assert index == nearest


def test_thirty_frames_a_second_become_eight_without_a_stride() -> None:
    indices = frame_indices(source_frames=390, source_fps=29.97002997, target_fps=8, count=9)
    assert indices == (0, 4, 7, 11, 15, 19, 22, 26, 30)


def test_a_tie_takes_the_earlier_frame() -> None:
    indices = frame_indices(source_frames=10, source_fps=24, target_fps=16, count=5)
    assert indices == (0, 1, 3, 4, 6)


def test_the_same_rate_takes_every_frame() -> None:
    indices = frame_indices(source_frames=49, source_fps=8.0, target_fps=8, count=49)
    assert indices == tuple(range(49))


def test_a_single_picture_shows_itself_and_nothing_after() -> None:
    assert nearest_frames([Fraction(7)], target_fps=2, count=1) == (0,)
    with pytest.raises(DataError, match=r"lasts 0\.00 s"):
        nearest_frames([Fraction(7)], target_fps=2, count=2)


def test_a_start_outside_the_clip_is_refused() -> None:
    with pytest.raises(DataError, match="none is frame 5"):
        nearest_frames([Fraction(0), Fraction(1)], target_fps=8, count=1, start_frame=5)

"""Each clip goes to the size that fits it; windows do not overlap; places of cuts are even."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvx.data.manifest import Clip, ClipFacts, Fault, Manifest
from cogvx.data.timing import frame_indices
from cogvx.data.windows import (
    Bucket,
    best_bucket,
    crop_rule,
    is_mirrorable,
    unmirrored,
    window_clips,
    windows_of,
)
from cogvx.recipe_sections import VideoConfig
from cogvx.shapes import CENTRE, VideoSize, cover_and_crop

PLAIN = {"width": 720, "height": 480, "frames": 100, "fps": 8.0, "codec": "h264"}


def facts(**changes: float) -> ClipFacts:
    return ClipFacts.model_validate({**PLAIN, **changes})


def video(*buckets: str, **changes: object) -> VideoConfig:
    plain = {"frames": 49, "height": 480, "width": 720, "fps": 8, "buckets": buckets}
    return VideoConfig.model_validate({**plain, **changes})


def clip(caption: str = "a cat", **changes: object) -> Clip:
    fields = {"key": "a.mp4", "sha256": "a" * 64, "size": VideoSize(49, 480, 720), **changes}
    return Clip.model_validate({"caption": caption, "facts": facts(), **fields})


@pytest.mark.parametrize(
    ("changes", "buckets", "expected"),
    [
        ({}, (), "49x480x720"),
        # most of the picture first, even where the window is shorter or smaller
        ({"height": 720, "width": 480}, ("49x720x480",), "49x720x480"),
        ({"height": 720, "width": 720}, ("9x480x480",), "9x480x480"),
        # ... but a hair of it counts for nothing
        ({"width": 735}, ("9x480x735",), "49x480x720"),
        ({"width": 760}, ("9x480x760",), "9x480x760"),
        # then frames
        ({"width": 1440, "height": 960}, ("9x960x1440", "81x480x720"), "81x480x720"),
        # then pixels
        ({"width": 1440, "height": 960}, ("49x960x1440", "49x320x480"), "49x960x1440"),
        # of equals the first
        ({"width": 960, "height": 960}, ("49x720x480",), "49x480x720"),
        # never enlarged, never filled up
        ({"height": 470, "width": 720}, ("49x320x480",), "49x320x480"),
        ({"frames": 48}, ("9x480x720", "17x480x720"), "17x480x720"),
        ({"frames": 48, "height": 470}, ("9x480x720", "9x320x480"), "9x320x480"),
    ],
)
def test_a_clip_goes_to_the_best_bucket(
    changes: dict[str, float], buckets: tuple[str, ...], expected: str
) -> None:
    bucket = best_bucket(facts(**changes), video(*buckets))
    assert isinstance(bucket, Bucket)
    assert str(bucket.size) == expected


@pytest.mark.parametrize(
    ("changes", "buckets", "reason", "said"),
    [
        ({"fps": 7.0}, ("9x16x16",), "too_slow", "7 fps is slower than video.fps = 8"),
        ({"frames": 8}, ("9x480x720",), "too_short", "fewer than the 9 behind 9x480x720"),
        ({"fps": 24.0, "frames": 24}, ("9x480x720",), "too_short", "fewer than the 25 behind"),
        ({"height": 300}, ("49x320x480",), "too_small", "300x720 does not cover 320x480"),
        # long enough for the large one only, large enough for the long one only
        ({"frames": 20, "height": 400}, ("9x480x720", "49x320x480"), "too_small", "480x720"),
    ],
)
def test_a_clip_that_fits_no_bucket_is_told_the_least_that_was_asked(
    changes: dict[str, float], buckets: tuple[str, ...], reason: str, said: str
) -> None:
    fault = best_bucket(facts(**changes), video(*buckets))
    assert isinstance(fault, Fault)
    assert fault.reason == reason
    assert said in fault.detail
    assert windows_of(facts(**changes), video(*buckets)) == ()


@given(
    height=st.integers(16, 3000),
    width=st.integers(16, 3000),
    sizes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=4),
)
def test_what_a_bucket_keeps_is_what_the_cut_leaves(
    height: int, width: int, sizes: list[tuple[int, int]]
) -> None:
    first, *others = dict.fromkeys(f"9x{16 * h}x{16 * w}" for h, w in sizes)
    size = VideoSize.parse(first)
    config = video(*others, frames=9, height=size.height, width=size.width)
    bucket = best_bucket(facts(height=height, width=width), config)
    if isinstance(bucket, Fault):
        assert all(height < s.height or width < s.width for s in config.sizes)
        return
    cut = cover_and_crop(height, width, bucket.size)
    left = bucket.size.pixels / (cut.height * cut.width)
    assert bucket.kept == pytest.approx(left, abs=1 / min(bucket.size.height, bucket.size.width))
    for other in config.sizes:
        if height >= other.height and width >= other.width:
            scale = max(other.height / height, other.width / width)
            kept = other.pixels / (height * width * scale**2)
            assert kept < bucket.kept + 0.05 + 1e-9


@given(
    frames=st.integers(1, 4000),
    fps=st.sampled_from([8.0, 23.976, 24.0, 29.97, 30.0, 59.94]),
    windows=st.integers(1, 12),
    count=st.sampled_from([9, 17, 49]),
)
def test_windows_never_overlap_and_all_lie_inside(
    frames: int, fps: float, windows: int, count: int
) -> None:
    source = facts(frames=frames, fps=fps)
    starts = windows_of(source, video(frames=count, windows=windows))
    shown = [
        frame_indices(
            source_frames=frames, source_fps=fps, target_fps=8, count=count, start_frame=start
        )
        for start in starts
    ]
    assert all(one[-1] < other[0] for one, other in itertools.pairwise(shown))
    assert starts[:1] == ((0,) if shown else ())
    if shown:
        length = shown[0][-1] + 1
        assert len(starts) == min(windows, frames // length)


def test_one_window_is_the_beginning_and_several_are_spread_over_the_clip() -> None:
    assert windows_of(facts(frames=1000), video()) == (0,)
    assert windows_of(facts(frames=1000), video(windows=4)) == (0, 250, 500, 750)
    assert windows_of(facts(frames=100), video(windows=4)) == (0, 50)


def test_mirrored_windows_are_further_ones_of_the_same_place() -> None:
    made = window_clips(clip(facts=facts(frames=200)), video(windows=2, flip=True))
    assert [(each.start_frame, each.flip) for each in made] == [
        (0, False),
        (0, True),
        (100, False),
        (100, True),
    ]
    assert {each.key for each in made} == {"a.mp4"}
    assert len({crop_rule(each) for each in made}) == 1


@pytest.mark.parametrize(
    "caption",
    [
        "a cat looks LEFT",
        "the right-hand door opens",
        "it moves rightwards",
        "(left) a tree",
        "the leftmost dog",
        "a wheel turns clockwise",
        "turning counter-clockwise",
        "an anticlockwise spin",
        "from left to right",
    ],
)
def test_captions_that_name_a_side_are_not_mirrored(caption: str) -> None:
    assert not is_mirrorable(clip(caption))
    (only,) = window_clips(clip(caption), video(flip=True))
    assert not only.flip


@pytest.mark.parametrize(
    "caption", ["a bright cleft", "an upright piano", "copyright", "frightened"]
)
def test_words_that_only_contain_a_side_are_mirrored(caption: str) -> None:
    assert is_mirrorable(clip(caption))


def test_held_out_clips_are_never_mirrored() -> None:
    (only,) = window_clips(clip(split="heldout"), video(flip=True))
    assert not only.flip


def test_clips_that_are_passed_over_are_counted_once() -> None:
    windows = [clip("to the left", key=key, start_frame=start) for key in "ab" for start in (0, 9)]
    others = [clip("to the left", key="c", split="heldout"), clip("a cat", key="d")]
    assert unmirrored([*windows, *others]) == 2


def test_places_of_random_cuts_are_even_and_follow_from_bytes_start_and_seed_alone() -> None:
    rules = [
        crop_rule(clip(sha256=f"{number:064x}", crop="random-0", key=f"{number}"))
        for number in range(2000)
    ]
    for shares in ([rule.down for rule in rules], [rule.across for rule in rules]):
        assert min(shares) > 0
        assert max(shares) <= 1
        tenths = Counter(int(share * 10) for share in shares)
        assert all(150 < tenths[tenth] < 250 for tenth in range(10))
    one = clip(crop="random-3")
    assert crop_rule(one) == crop_rule(one.model_copy(update={"key": "b", "caption": "x"}))
    for change in ({"sha256": "b" * 64}, {"start_frame": 1}, {"crop": "random-4"}):
        assert crop_rule(one.model_copy(update=change)) != crop_rule(one)
    assert crop_rule(clip()) == CENTRE


DIGESTED = {
    "sha256": "b" * 64,
    "caption": "a dog",
    "start_frame": 5,
    "split": "heldout",
    "size": VideoSize(9, 480, 720),
    "flip": True,
    "crop": "random-0",
}
NOT_DIGESTED = {"key": "b.mp4", "facts": facts(frames=200), "tokens": 7}


def test_the_manifests_digest_covers_what_training_sees_and_nothing_else() -> None:
    # A field that is added to a clip later must be put into one of the two tables.
    assert set(DIGESTED) | set(NOT_DIGESTED) == set(Clip.model_fields)

    def digest_with(**changes: object) -> str:
        changed = clip().model_copy(update=changes)
        return Manifest(dataset="file:///a", clips=(changed,)).content_digest()

    digests = {digest_with(**{name: value}) for name, value in DIGESTED.items()}
    assert len(digests | {digest_with()}) == len(DIGESTED) + 1
    assert {digest_with(**{name: value}) for name, value in NOT_DIGESTED.items()} == {digest_with()}

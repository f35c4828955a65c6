"""A clip counts once, a window once, a second once."""

import statistics

from cogvx.data.manifest import Rejected
from cogvx.data.statistics import describe_manifest, each_clip
from cogvx.shapes import VideoSize
from tests.pages.datasets import clip_of, manifest_of


def describe(manifest):
    return describe_manifest(manifest, fps=8, token_limit=226)


def test_windows_of_one_clip_are_one_clip_and_mirrors_add_no_seconds() -> None:
    window = clip_of(1)
    later = window.model_copy(update={"start_frame": 12})
    mirrored = window.model_copy(update={"flip": True})
    numbers = describe(manifest_of(clip_of(0), window, mirrored, later))
    assert (numbers.all.clips, numbers.all.windows, numbers.mirrored) == (2, 4, 1)
    assert numbers.all.seconds == 3 * 9 / 8
    assert numbers.source_seconds == 2 * 24 / 8
    assert (numbers.heldout.clips, numbers.train.clips, numbers.train.windows) == (1, 1, 3)


def test_spreads_are_over_clips() -> None:
    clips = [clip_of(number) for number in (1, 2, 3, 30)]
    numbers = describe(manifest_of(*clips, clips[3].model_copy(update={"start_frame": 9})))
    motions = [clip.facts.look.motion for clip in clips]
    assert numbers.motion is not None
    assert numbers.motion.median == round(statistics.median(motions), 3)
    assert numbers.motion.mean == round(statistics.fmean(motions), 3)
    assert (numbers.motion.low, numbers.motion.high) == (1.2, 30.2)
    assert numbers.tokens is not None
    assert numbers.tokens.median == statistics.median(clip.tokens for clip in clips)


def test_what_nobody_measured_is_absent_and_not_zero() -> None:
    clip = clip_of(1)
    blind = clip.model_copy(
        update={"tokens": None, "facts": clip.facts.model_copy(update={"look": None})}
    )
    numbers = describe(manifest_of(blind))
    assert numbers.tokens is numbers.motion is numbers.brightness is None


def test_a_caption_of_exactly_the_limit_fits() -> None:
    clips = [clip_of(number, tokens=225 + number) for number in range(3)]
    assert describe(manifest_of(*clips)).too_long == 1


def test_sizes_and_rates_come_fullest_first() -> None:
    wide = VideoSize(9, 48, 96)
    clips = [clip_of(1, size=wide), clip_of(2), clip_of(3, size=wide)]
    slow = clips[1].facts.model_copy(update={"fps": 30000 / 1001})
    manifest = manifest_of(
        clips[0],
        clips[1].model_copy(update={"facts": slow}),
        clips[2],
        rejected=(Rejected(key="x.mp4", reason="static", detail="it rests"),),
    )
    numbers = describe(manifest)
    assert [(b.size, b.windows) for b in numbers.buckets] == [("9x48x96", 2), ("9x48x64", 1)]
    assert [(rate.fps, rate.clips) for rate in numbers.rates] == [(8.0, 2), (29.97, 1)]
    assert numbers.rejected == {"static": 1}
    assert numbers.manifest == manifest.content_digest()


def test_each_clip_is_its_first_window() -> None:
    clip = clip_of(1)
    later = clip.model_copy(update={"start_frame": 9})
    assert each_clip(manifest_of(clip, later, clip_of(2))) == (clip, clip_of(2))

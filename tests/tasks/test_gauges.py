"""The gauges of an arm: built from what a recipe has, each clip decoded once for all time."""

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cogvx.data.manifest import Clip, ClipFacts, Manifest
from cogvx.digest import sha256_file
from cogvx.evaluation.documents import Neighbour, Reading
from cogvx.evaluation.gauge import Seen
from cogvx.evaluation.render import Arm
from cogvx.evaluation.suite import Suite
from cogvx.mp4 import read_mp4, write_mp4
from cogvx.shapes import VideoSize
from cogvx.store import LocalStore
from tasks.evaluation.gauges import Surroundings, gauges_for, look_around
from tasks.workbench import Workbench
from tests.evaluation.builders import suite_of
from tests.fixtures.family import MEMBERS
from tests.tasks.test_drift import bench_of, never

BASE = Arm("base")
SIZE = VideoSize(9, 48, 48)


def manifest_of(clips: Path, heldout: int = 3) -> Manifest:
    """The clips of a folder, the first of them held out, the first nine frames of each."""
    return Manifest(
        dataset="toy",
        clips=tuple(
            Clip(
                key=path.relative_to(clips).as_posix(),
                sha256=sha256_file(path),
                caption=path.stem,
                facts=ClipFacts(width=48, height=48, frames=9, fps=8.0, codec="h264"),
                size=SIZE,
                split="heldout" if number < heldout else "train",
            )
            for number, path in enumerate(sorted(clips.rglob("*.mp4")))
        ),
    )


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Eight clips of blobs that drift, each its own, and a ninth that is all of one grey."""
    folder = tmp_path / "clips"
    down, across = np.mgrid[:48, :48]
    for number in range(9):
        rng = np.random.default_rng(number)
        pace, tilt, phase = rng.uniform(0.1, 0.4), rng.uniform(-0.3, 0.3), rng.uniform(0, 6)
        grey = [
            127 + 90 * np.sin(down * pace + across * tilt + phase + frame / 2) for frame in range(9)
        ]
        shade = np.stack(grey) if number < 8 else np.full((9, 48, 48), 90)
        rgb_fhwc = np.repeat(shade[..., None], 3, axis=3).astype(np.uint8)
        write_mp4(folder / f"{number}.mp4", rgb_fhwc, fps=8)
    return folder


@pytest.fixture
def bench(nano_base: Path, clips: Path, tmp_path: Path) -> Workbench:
    return replace(bench_of(nano_base, tmp_path, MEMBERS[0]), dataset=LocalStore(clips))


def look(
    bench: Workbench, around: Surroundings, suite: Suite, videos: Iterable[Path]
) -> tuple[list[dict[str, float]], list[Reading], list[Neighbour]]:
    """What the gauges of the base say of some videos, and of them together; no losses."""
    around = replace(around, manifest=None)
    given: dict[str, Any] = {"base_videos": {}, "open_session": never}
    gauges = gauges_for(bench, BASE, around, suite=suite, **given)
    values = []
    for (prompt, seed), path in zip(suite.shots, videos, strict=False):
        seen = Seen(prompt=prompt, seed=seed, path=path, sha256=sha256_file(path))
        values.append({k: v for gauge in gauges for k, v in gauge.look(seen).items()})
    found = [gauge.findings() for gauge in gauges]
    readings = [reading for each in found for reading in each.readings]
    return values, readings, [near for each in found for near in each.neighbours]


def thumbnails(path: Path) -> NDArray[np.float64]:
    """By numpy alone, every frame: `(9, 16, 16)`."""
    grey = read_mp4(path).rgb_fhwc @ np.array([0.2126, 0.7152, 0.0722])
    return np.asarray(grey.reshape(9, 16, 3, 16, 3).mean(axis=(2, 4)))


def nearest(path: Path, others: Iterable[Path]) -> tuple[float, str]:
    """The highest correlation of a frame of one to a frame of others, by numpy alone."""
    found = []
    for other in others:
        rows = np.concatenate([thumbnails(path), thumbnails(other)]).reshape(18, 256)
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.corrcoef(rows)[:9, 9:]
        # the eight middle frames of nine are all but one
        found.append((float(np.nanmax(correlation)) if other.stem != "8" else -1.0, other.name))
    return max(found)


def test_every_video_has_its_nearest_training_clip(bench: Workbench, clips: Path) -> None:
    manifest = manifest_of(clips)
    suite = suite_of()
    around = look_around(bench, suite, manifest)
    videos = [clips / f"{number}.mp4" for number in range(6)]
    values, _, neighbours = look(bench, around, suite, videos)
    train = [clips / clip.key for clip in manifest.train]
    for found, neighbour, path in zip(values, neighbours, videos, strict=True):
        similarity, clip = nearest(path, train)
        assert found["memorisation_luma"] == pytest.approx(similarity, abs=0.01)
        assert neighbour.similarity == found["memorisation_luma"]
        assert neighbour.clip == clip
    assert [near.clip for near in neighbours[3:]] == ["3.mp4", "4.mp4", "5.mp4"]


def test_the_limit_is_what_held_out_clips_reach(bench: Workbench, clips: Path) -> None:
    manifest = manifest_of(clips, heldout=4)
    limits = look_around(bench, suite_of(), manifest).limits
    train = [clips / clip.key for clip in manifest.train]
    highest = [nearest(clips / clip.key, train)[0] for clip in manifest.heldout]
    assert set(limits) == {"memorisation_luma"}
    limit = limits["memorisation_luma"]
    assert limit.value == pytest.approx(np.percentile(highest, 99), abs=0.01)
    assert (limit.clips, limit.above) == (4, 1)


@pytest.mark.parametrize("heldout", [0, 9])
def test_without_clips_of_both_kinds_there_is_no_limit(
    heldout: int, bench: Workbench, clips: Path
) -> None:
    around = look_around(bench, suite_of(), manifest_of(clips, heldout))
    assert around.limits == {}
    values, _, neighbours = look(bench, around, suite_of(), [clips / "1.mp4"])
    assert ("memorisation_luma" in values[0]) == (heldout == 0)
    assert len(neighbours) == (heldout == 0)


def test_a_video_without_light_and_dark_resembles_no_clip(bench: Workbench, clips: Path) -> None:
    around = look_around(bench, suite_of(), manifest_of(clips))
    values, _, neighbours = look(bench, around, suite_of(), [clips / "8.mp4"])
    assert values == [{"memorisation_luma": 0.0}]
    assert neighbours == []


def test_variety_is_read_of_prompts_that_are_no_training_captions(
    bench: Workbench, clips: Path
) -> None:
    suite = suite_of(
        prompts=[{"id": g, "prompt": g, "group": g} for g in ("domain", "train_caption")]
    )
    around = look_around(bench, suite, manifest_of(clips))
    videos = [clips / f"{number}.mp4" for number in (0, 1, 2, 2)]
    _, readings, _ = look(bench, around, suite, videos)
    one, other = (thumbnails(path) for path in videos[:2])
    (found,) = [reading for reading in readings if reading.metric == "diversity_luma"]
    assert (found.unit, found.draw) == ("domain", 0)
    assert found.value == pytest.approx(np.abs(one - other).mean() / 255, abs=0.01)


def test_clips_and_videos_are_decoded_once(bench: Workbench, clips: Path, tmp_path: Path) -> None:
    manifest, suite, copy = manifest_of(clips), suite_of(), tmp_path / "copy.mp4"
    shutil.copy(clips / "1.mp4", copy)
    around = look_around(bench, suite, manifest)
    first = look(bench, around, suite, [copy])
    for path in clips.glob("*.mp4"):  # whoever reads one now is told nothing that can be decoded
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = look_around(bench, suite, manifest)
    assert again.remarks == ()
    assert again.limits == around.limits
    given: dict[str, Any] = {"base_videos": None, "open_session": never}
    gauges = gauges_for(bench, BASE, replace(again, manifest=None), suite=suite, **given)
    prompt, seed = suite.shots[0]
    seen = Seen(prompt=prompt, seed=seed, path=tmp_path / "gone", sha256=sha256_file(copy))
    assert [dict(gauge.look(seen)) for gauge in gauges] == [{}, first[0][0]]


def test_what_training_saw_is_looked_at_and_not_the_whole_clip(
    bench: Workbench, tmp_path: Path
) -> None:
    """A window from frame 9 on, cut to the left half and mirrored, is another window."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 256, (18, 12, 24, 3), dtype=np.uint8)
    whole = low.repeat(4, axis=1).repeat(4, axis=2)
    write_mp4(tmp_path / "long" / "a.mp4", whole, fps=8, crf=0)
    clip = manifest_of(tmp_path / "long", heldout=0).clips[0]
    windows = (clip, clip.model_copy(update={"start_frame": 9, "flip": True}))
    manifest = Manifest(dataset="toy", clips=windows)
    around = look_around(
        replace(bench, dataset=LocalStore(tmp_path / "long")), suite_of(), manifest
    )
    cut = read_mp4(tmp_path / "long" / "a.mp4").rgb_fhwc[9:, :, 24:72][:, :, ::-1]
    write_mp4(tmp_path / "seen.mp4", np.ascontiguousarray(cut), fps=8, crf=0)
    (_, first), (_, second) = around.clips.train
    seen = thumbnails(tmp_path / "seen.mp4").reshape(9, 256)
    correlation = np.corrcoef(seen, second)[:9, 9:].max(axis=0)
    assert correlation.min() > 0.99
    assert np.corrcoef(seen, first)[:9, 9:].max() < 0.5


@pytest.mark.parametrize("seen_before", [False, True])
@pytest.mark.parametrize("ending", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_a_clip_that_is_gone_is_told_and_the_others_are_compared(
    ending: Callable[[Path], Any],
    seen_before: bool,
    bench: Workbench,
    clips: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Or changed; and whether or not the store still knows what it looked like."""
    manifest = manifest_of(clips)
    if seen_before:
        assert look_around(bench, suite_of(), manifest).remarks == ()
    ending(clips / "5.mp4")
    with caplog.at_level(logging.WARNING, logger="cogvx.evaluation.gauges_clips"):
        around = look_around(bench, suite_of(), manifest)
    assert "no video can be compared with 1 clip(s): " in caplog.text
    assert "5.mp4" in caplog.text
    assert {clip for clip, _ in around.clips.train} == {"3.mp4", "4.mp4", "6.mp4", "7.mp4"}
    (told,) = around.remarks
    assert told.startswith("1 of 9 clips are gone from the dataset, changed or damaged (5.mp4). ")

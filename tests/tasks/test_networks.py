"""The networks of a recipe measure every arm, and what is wrong with them is told first."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cogvx.errors import ConfigError
from cogvx.metrics.learned import LEARNED
from cogvx.store import LocalStore
from tasks.evaluation.contest import provenance_of
from tasks.evaluation.gauges import look_around
from tasks.workbench import Workbench
from tests.evaluation.builders import suite_of
from tests.fixtures.family import MEMBERS
from tests.metrics.networks import build_networks
from tests.tasks.test_drift import bench_of
from tests.tasks.test_gauges import look, manifest_of


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return build_networks(tmp_path_factory.mktemp("networks"))


def bench_with(base: Path, root: Path, clips: Path, encoders: dict[str, str]) -> Workbench:
    bench = replace(bench_of(base, root, MEMBERS[0]), dataset=LocalStore(clips))
    evaluation = bench.recipe.evaluation.model_copy(update={"encoders": encoders})
    return replace(bench, recipe=bench.recipe.model_copy(update={"evaluation": evaluation}))


def test_an_arm_has_every_metric_of_the_recipes_networks(
    nano_base: Path, world_clips: Path, named: dict[str, str], tmp_path: Path
) -> None:
    bench = bench_with(nano_base, tmp_path, world_clips, named)
    manifest, suite = manifest_of(world_clips), suite_of()
    around = look_around(bench, suite, manifest)
    videos = sorted(world_clips.glob("*.mp4"))[: len(suite.shots)]
    values, readings, neighbours = look(bench, around, suite, videos)
    learned = {metric.name: metric for metric in LEARNED}
    assert {name for name, metric in learned.items() if metric.kind == "video"} <= set(values[0])
    assert {"diversity_dinov2", "diversity_clip"} <= {reading.metric for reading in readings}
    # a training clip is its own neighbour, whatever looks at it
    held = [clip.key for clip in manifest.heldout]
    own = [near for near in neighbours if near.metric == "memorisation_dinov2"][len(held) :]
    assert own
    for near, path in zip(own, videos[len(held) :], strict=True):
        assert near.clip == path.name
        assert near.similarity == pytest.approx(1.0, abs=1e-4)
    limits = {"memorisation_luma", "memorisation_dinov2", "memorisation_clip"}
    assert set(around.limits) == limits
    told = provenance_of(bench, around.networks)
    assert set(told) == {f"network {kind}" for kind in named}
    assert told["network clip"].startswith(f"{named['clip']} ")
    assert told["network clip"].endswith(" on cpu")
    assert provenance_of(bench, None) == {}


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({"clip": "openai/clip-vit-base-patch32"}, "the 40 digits of the commit"),
        ({"clip": "nowhere"}, "is not a folder on this machine"),
    ],
)
def test_networks_that_cannot_be_had_are_refused_before_clips_are_looked_at(
    encoders: dict[str, str], message: str, nano_base: Path, tmp_path: Path
) -> None:
    bench: Any = bench_with(nano_base, tmp_path, tmp_path, encoders)
    with pytest.raises(ConfigError, match=message):
        look_around(bench, suite_of(), manifest_of(tmp_path))

"""A plan is cut evenly, by kind, without loss, and always the same way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvx.cache.plan import CachePlan, plan_cache
from cogvx.cache.shards import cut, estimated_seconds
from cogvx.data.manifest import Manifest
from cogvx.shapes import VideoSize
from cogvx.store import MemoryStore
from cogvx.variants import PUBLISHED
from tests.cache.toys import IDS, clip, recipe

REAL = VideoSize(49, 480, 720)


def plan_of(*clips: object) -> CachePlan:
    manifest = Manifest(dataset="file:///clips", clips=clips)
    facts = PUBLISHED["CogVideoX-5b"]
    return plan_cache(manifest, recipe(), facts=facts, ids=IDS, store=MemoryStore())


def plan_with(count: int, size: VideoSize = REAL) -> CachePlan:
    return plan_of(*(clip(number, f"caption {number}", size=size) for number in range(count)))


def test_a_complete_plan_has_no_shards() -> None:
    nothing = plan_with(2).model_copy(update={"clips": (), "captions": ()})
    assert cut(nothing, seconds=60) == ()


def test_a_small_plan_is_one_shard_of_both_kinds() -> None:
    plan = plan_with(3)
    (shard,) = cut(plan, seconds=60)
    assert (shard.clips, shard.captions) == (plan.clips, plan.captions)


def test_a_large_plan_has_shards_of_one_kind_each() -> None:
    shards = cut(plan_with(300), seconds=2)
    assert all(bool(shard.clips) != bool(shard.captions) for shard in shards)
    assert len({bool(shard.clips) for shard in shards}) == 2


sizes = st.sampled_from([REAL, VideoSize(9, 480, 720), VideoSize(81, 768, 1360)])


@given(
    windows=st.lists(st.tuples(sizes, st.integers(1, 4)), min_size=1, max_size=40),
    seconds=st.floats(0.5, 600),
)
@settings(max_examples=60)
def test_shards_hold_the_plan_exactly_and_evenly(
    windows: list[tuple[VideoSize, int]], seconds: float
) -> None:
    plan = plan_of(
        *(
            clip(number, f"caption {number}", size=size, start_frame=start)
            for number, (size, count) in enumerate(windows)
            for start in range(count)
        )
    )
    shards = cut(plan, seconds=seconds)
    assert shards == cut(plan, seconds=seconds)
    assert all(not shard.is_complete for shard in shards)

    clips = [missing for shard in shards for missing in shard.clips]
    captions = [missing for shard in shards for missing in shard.captions]
    assert sorted(map(repr, clips)) == sorted(map(repr, plan.clips))
    assert sorted(map(repr, captions)) == sorted(map(repr, plan.captions))
    for shard in shards:  # in the plan's order, so that neighbours stay neighbours
        assert list(shard.clips) == [item for item in plan.clips if item in shard.clips]
        assert (shard.latents_wanted, shard.prompts_wanted) == (
            len(shard.clips),
            len(shard.captions),
        )

    files = [{missing.clip.key for missing in shard.clips} for shard in shards]
    assert sum(map(len, files)) == len(set().union(*files)), "a clip would be fetched twice"
    costs = [estimated_seconds(shard) for shard in shards if shard.clips]
    largest = max(
        estimated_seconds(
            plan.model_copy(
                update={
                    "clips": tuple(item for item in plan.clips if item.clip.key == key),
                    "captions": (),
                }
            )
        )
        for key in {item.clip.key for item in plan.clips}
    )
    assert max(costs) - min(costs) <= largest + 1e-9
    assert max(costs) <= seconds + largest + 1e-9


def test_larger_clips_cost_more() -> None:
    small, large = plan_with(1, VideoSize(9, 480, 720)), plan_with(1, VideoSize(81, 768, 1360))
    assert estimated_seconds(small) < estimated_seconds(large)


def test_a_shard_that_could_hold_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="holds nothing"):
        cut(plan_with(1), seconds=0)

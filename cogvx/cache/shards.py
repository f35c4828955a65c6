"""A plan cut into shards: each is one worker's share of the encoding, and a plan itself.

The cut follows from the plan alone, so two machines that plan alike cut alike. Costs are estimates;
what a wrong one costs is that some workers finish earlier than others.
"""

import heapq
from collections.abc import Callable, Hashable, Sequence
from math import ceil
from typing import TypeVar

from cogvx.cache.plan import CachePlan, MissingCaption, MissingClip

# Orders of magnitude for one data-centre GPU in half precision: half a clip of 49x480x720 through
# the VAE in a second, and 50 captions through T5-XXL, which pads each to the same length.
VAE_PIXELS_PER_SECOND = 8e6
CAPTIONS_PER_SECOND = 50.0

ItemT = TypeVar("ItemT", MissingClip, MissingCaption)


def estimated_seconds(plan: CachePlan) -> float:
    """About how long one GPU works on what the plan misses, loading not counted."""
    return sum(map(_clip_seconds, plan.clips)) + sum(map(_caption_seconds, plan.captions))


def cut(plan: CachePlan, *, seconds: float) -> tuple[CachePlan, ...]:
    """Cut a plan into shards of about `seconds` each, the same for the same plan.

    Together the shards list exactly what the plan misses, each record once. What one shard holds
    stays one shard; beyond that clips and captions part, so that a worker loads one model. Windows
    of one clip stay together, so that it is fetched once.

    Args:
        plan: What is missing; a complete plan has no shards.
        seconds: Estimated work in a shard. One that holds a single clip of many windows may take
            longer, the others differ by less than the largest clip.

    Raises:
        ValueError: `seconds` is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"a shard of {seconds} seconds holds nothing")
    if plan.is_complete:
        return ()
    if estimated_seconds(plan) <= seconds:
        return (_shard(plan, plan.clips, plan.captions),)
    clips = _balanced(plan.clips, seconds, cost=_clip_seconds, group=lambda item: item.clip.key)
    captions = _balanced(plan.captions, seconds, cost=_caption_seconds, group=lambda item: item.key)
    return (
        *(_shard(plan, part, ()) for part in clips),
        *(_shard(plan, (), part) for part in captions),
    )


def _clip_seconds(missing: MissingClip) -> float:
    size = missing.clip.size
    frames = size.frames * missing.latents + len(missing.draws)
    return frames * size.height * size.width / VAE_PIXELS_PER_SECOND


def _caption_seconds(_missing: MissingCaption) -> float:
    return 1 / CAPTIONS_PER_SECOND


def _balanced(
    items: Sequence[ItemT],
    seconds: float,
    *,
    cost: Callable[[ItemT], float],
    group: Callable[[ItemT], Hashable],
) -> list[tuple[ItemT, ...]]:
    """Give each group, the dearest first, to the shard that has least; items keep their order."""
    groups: dict[Hashable, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(group(item), []).append(number)
    costs = {name: sum(cost(items[n]) for n in numbers) for name, numbers in groups.items()}
    count = min(len(groups), ceil(sum(costs.values()) / seconds))
    shards: list[list[int]] = [[] for _ in range(count)]
    loads = [(0.0, shard) for shard in range(count)]
    for name in sorted(groups, key=lambda name: -costs[name]):
        load, shard = heapq.heappop(loads)
        shards[shard] += groups[name]
        heapq.heappush(loads, (load + costs[name], shard))
    return [tuple(items[number] for number in sorted(shard)) for shard in shards]


def _shard(
    plan: CachePlan, clips: tuple[MissingClip, ...], captions: tuple[MissingCaption, ...]
) -> CachePlan:
    return CachePlan(
        manifest=plan.manifest,
        latents_wanted=sum(missing.latents for missing in clips),
        latents_present=0,
        prompts_wanted=len(captions),
        prompts_present=0,
        images_wanted=sum(len(missing.draws) for missing in clips),
        images_present=0,
        clips=clips,
        captions=captions,
    )

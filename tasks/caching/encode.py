"""Encode what the cache lacks, shard by shard. Models are loaded only if something is missing.

A shard's plan lies at plans/<digest>.json. It stays there: another flow on the same store may be
about to read it, and nothing reaches it, so pruning takes it away.
"""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from cogvx.cache.index import index_cache
from cogvx.cache.plan import CachePlan, plan_cache
from cogvx.cache.shards import cut
from cogvx.data.ingest import Ledger
from cogvx.data.manifest import Manifest
from cogvx.digest import canonical_json, digest
from cogvx.errors import TransientError
from cogvx.recipe import Recipe
from tasks.clients.slots import gpu_slots
from tasks.documents import CacheReport, ShardReport
from tasks.pages.labels import tag_run
from tasks.pages.progress import Progress
from tasks.pages.shown import shown
from tasks.pools.afar import elsewhere
from tasks.pools.children import Child, Ended
from tasks.pools.fan_out import Elsewhere
from tasks.pools.metering import metered
from tasks.pools.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)

_PLANS = "plans"
_INDEXES = "indexes"


@dataclass(frozen=True)
class Work:
    """What a manifest wants of the cache: how many records, their index, and the shards to encode.

    Without shards the cache is complete.
    """

    index: str
    wanted: int
    shards: tuple[Child, ...]


@task(
    name="plan shards",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def plan_shards(bench: Workbench, manifest: Manifest) -> Work:
    """Publish what the cache lacks, cut into shards.

    First of all the index is written, anew each time: pruning keeps what a young one reaches, so
    that it takes nothing which is found to be present here.
    """
    index = index_cache(manifest, bench.recipe, facts=bench.facts, ids=bench.ids)
    name = digest(index)
    bench.store.write(f"{_INDEXES}/{name}.json", canonical_json(index))
    plan = plan_cache(manifest, bench.recipe, facts=bench.facts, ids=bench.ids, store=bench.store)
    shards = cut(plan, seconds=bench.settings.shard_seconds)
    children = (
        _child(bench, bench.publish(_PLANS, shard), f"{number} of {len(shards)}")
        for number, shard in enumerate(shards, start=1)
    )
    return Work(index=name, wanted=plan.wanted, shards=tuple(children))


@task(
    name="encode records",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def encode_records(bench: Workbench, shard: str, part: str) -> ShardReport:
    """Make those records of a published shard that are not there yet.

    Raises:
        ConfigError: There are no such GPU slots as the settings name.
        IntegrityError: The shard's plan is absent, damaged, or of another recipe or base model.
    """
    from cogvx.encoding import Encoders, encode_missing  # noqa: PLC0415 - loads torch

    plan = bench.published(_PLANS, shard, CachePlan)
    suffix = "" if part == "1 of 1" else f" of shard {part}"
    bars = {
        kind: Progress(f"encode {kind}{suffix}", kind, logger) for kind in ("clips", "captions")
    }
    with (
        gpu_slots(bench.settings, 1),
        metered(bench.store, "cache", model=bench.recipe.name) as meter,
    ):
        report = encode_missing(
            _in_own_order(plan),
            bench.recipe,
            encoders=Encoders(bench.base, bench.facts, bench.ids, device=bench.device),
            dataset=bench.dataset,
            store=bench.store,
            work=bench.work / "clips",
            on_progress=lambda kind, done, total: bars[kind](done, total),
        )
        meter.made = report.encoded
    return meter.on(
        ShardReport(
            records_wanted=plan.wanted, records_encoded=report.encoded, refused=report.refused
        )
    )


def encoded_elsewhere(bench: Workbench) -> Elsewhere[ShardReport] | None:
    """Where shards are encoded, if the settings do not leave it to this process."""
    here = bench.settings
    return elsewhere(here.encode_deployment, ShardReport, bench.store, here)


@task(name="settle shards", cache_policy=NO_CACHE)
def settle_shards(bench: Workbench, ended: Sequence[Ended[ShardReport]]) -> bool:
    """Show how the shards ended and quarantine the clips that could not be encoded.

    The ledger is written here and not by the workers, since its last writer wins.

    Returns:
        Whether clips were quarantined, so that the survey must be made again without them: the
        limit on rejected clips and the held-out split hold for what is really used.
    """
    with shown("shards of the cache"):
        create_table_artifact(
            [_row(one) for one in ended], key="cache-shards", description="Shards of the cache"
        )
    refused = [clip for one in ended if one.report for clip in one.report.refused]
    if refused:
        ledger = Ledger.load(bench.store, bench.dataset.url)
        for clip in refused:
            ledger.refuse(clip)
        ledger.save()
    return bool(refused)


def report_cache(
    bench: Workbench,
    manifest: Manifest,
    *,
    work: Work,
    done: Sequence[ShardReport],
    page: str = "",
) -> CacheReport:
    """What the cache holds for a manifest now that it is complete, and what was done for it."""
    encoded = sum(report.records_encoded for report in done)
    tag_run(f"index:{work.index[:8]}")
    return CacheReport(
        dataset=bench.dataset.url,
        manifest=manifest.content_digest(),
        index=work.index,
        accepted=manifest.count_clips(manifest.clips),
        heldout=manifest.count_clips(manifest.heldout),
        rejected=manifest.rejected_counts(),
        records_encoded=encoded,
        # Fewer than none, if clips that were encoded at first are gone by the end.
        records_reused=max(0, work.wanted - encoded),
        diff=bench.shelf.last_change(),
        page=page,
    )


def encoding_never_ends(recipe: Recipe, rounds: int) -> TransientError:
    """The error of a cache that still lacks records after every round of encoding."""
    return TransientError(
        f"{recipe.dataset.uri} still lacks records after {rounds} rounds of encoding: its clips "
        "change meanwhile, or the store loses objects; run again when they rest"
    )


def _child(bench: Workbench, shard: str, part: str) -> Child:
    return Child(
        name=f"shard {part}",
        key=digest([shard, bench.recipe.model_dump(mode="json")]),
        parameters={"recipe": bench.recipe, "shard": shard, "part": part},
    )


def _row(ended: Ended[ShardReport]) -> dict[str, object]:
    report = ended.report
    return {
        "shard": ended.child.name,
        "wanted": report.records_wanted if report else None,
        "encoded": report.records_encoded if report else None,
        "refused clips": len(report.refused) if report else None,
        "seconds": round(ended.seconds, 1),
        "failed": "" if ended.error is None else f"{type(ended.error).__name__}: {ended.error}",
    }


def _in_own_order(plan: CachePlan) -> CachePlan:
    """The same plan, shuffled, with windows of one clip side by side.

    Two workers that were given the same shard would otherwise walk through it side by side and
    encode everything twice; so they meet seldom, and each skips what the other has made.
    """
    chance = secrets.SystemRandom()
    files = sorted({missing.clip.key for missing in plan.clips})
    rank = {key: place for place, key in enumerate(chance.sample(files, len(files)))}
    clips = sorted(plan.clips, key=lambda missing: rank[missing.clip.key])
    captions = chance.sample(plan.captions, len(plan.captions))
    return plan.model_copy(update={"clips": tuple(clips), "captions": tuple(captions)})

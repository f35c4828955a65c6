"""Encode what the cache lacks. Models are loaded only if something is missing."""

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.cache.plan import CachePlan, plan_cache
from cogvx.data.ingest import Ledger
from cogvx.data.manifest import Manifest
from tasks.documents import CacheReport
from tasks.ingest import survey_clips
from tasks.progress import Progress
from tasks.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


@task(
    name="encode records",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def encode_records(bench: Workbench, manifest: Manifest) -> CacheReport:
    """Bring the cache up to the manifest; a clip that cannot be decoded is quarantined.

    When a clip is quarantined here, the clips are surveyed again without it, so that the limit on
    the share of rejected clips and the held-out split hold for what is really used.
    """
    plan = _plan(bench, manifest)
    encoded = 0
    if not plan.is_complete:
        encoded, refused = _encode(bench, plan)
        if refused:
            manifest = survey_clips(bench)
            plan = _plan(bench, manifest)
    return CacheReport(
        dataset=bench.dataset.url,
        manifest=manifest.content_digest(),
        accepted=len(manifest.clips),
        heldout=len(manifest.heldout),
        rejected=manifest.rejected_counts(),
        records_encoded=encoded,
        records_reused=plan.latents_wanted + plan.prompts_wanted - encoded,
    )


def _plan(bench: Workbench, manifest: Manifest) -> CachePlan:
    return plan_cache(manifest, bench.recipe, facts=bench.facts, ids=bench.ids, store=bench.store)


def _encode(bench: Workbench, plan: CachePlan) -> tuple[int, bool]:
    from cogvx.encoding import Encoders, encode_missing  # noqa: PLC0415 - loads torch

    bars = {kind: Progress(f"encode {kind}", kind, logger) for kind in ("clips", "captions")}
    report = encode_missing(
        plan,
        bench.recipe,
        encoders=Encoders(bench.base, bench.facts, bench.ids, device=bench.device),
        dataset=bench.dataset,
        store=bench.store,
        work=bench.work / "clips",
        on_progress=lambda kind, done, total: bars[kind](done, total),
    )
    if report.refused:
        ledger = Ledger.load(bench.store, bench.dataset.url)
        for clip in report.refused:
            ledger.refuse(clip.key, clip.reason, clip.detail)
        ledger.save()
    return report.encoded_latents + report.encoded_prompts, bool(report.refused)

"""Look at the clips: which are new, which are fit, which are held out. Loads no GPU stack."""

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.data.ingest import Ledger, ingest
from cogvx.data.manifest import Manifest
from tasks.progress import Progress
from tasks.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.workbench import Workbench, warn_once

logger = logging.getLogger(__name__)

_ENOUGH_HELDOUT = 2


@task(
    name="survey clips",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def survey_clips(bench: Workbench) -> Manifest:
    """Probe what changed since the last look, screen everything, and publish the manifest."""
    ledger = Ledger.load(bench.store, bench.dataset.url)
    manifest = ingest(
        bench.dataset,
        config=bench.recipe.dataset,
        video=bench.recipe.video,
        ledger=ledger,
        work=bench.work / "clips",
        on_progress=Progress("survey clips", "clips", logger),
    )
    ledger.save()
    bench.publish_manifest(manifest)
    for clip in manifest.rejected:
        warn_once(f"rejected {clip.key}: {clip.reason} ({clip.detail})")
    if len(manifest.heldout) < _ENOUGH_HELDOUT:
        warn_once(
            f"{len(manifest.heldout)} clip(s) held out, but an interval needs {_ENOUGH_HELDOUT}: "
            "nothing can be promoted on held-out loss; raise dataset.min_heldout or add clips"
        )
    return manifest

"""Look at the clips: which are new, which are fit, which are held out. Loads no GPU stack."""

import logging
from collections import Counter
from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from cogvx.data.ingest import Ledger, TooManyRejected, ingest
from cogvx.data.manifest import Manifest, Rejected
from cogvx.data.tokens import TokenCounter
from cogvx.data.windows import unmirrored
from cogvx.files import write_document
from cogvx.recipe_sections import VideoConfig
from tasks.pages.progress import Progress, is_watched
from tasks.pages.shown import shown
from tasks.pools.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.workbench import Workbench, warn_once

logger = logging.getLogger(__name__)

_ENOUGH_HELDOUT = 2
_EXAMPLES = 5
# The UI shows a table whole; the manifest, or the list that is kept instead, has every row.
_MOST_ROWS = 10_000
# So many rejected clips are read in a log; the table has them all.
_MOST_LINES = 20


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
    try:
        manifest = ingest(
            bench.dataset,
            config=bench.recipe.dataset,
            video=bench.recipe.video,
            ledger=ledger,
            work=bench.work / "clips",
            on_progress=Progress("survey clips", "clips", logger),
            count_tokens=TokenCounter.of(bench.base),
        )
    except TooManyRejected as error:
        _show_quarantine(bench.dataset.url, error.rejected)
        _keep_list(bench, error.rejected)
        raise
    _say_what_changed(bench, manifest)
    _show_quarantine(manifest.dataset, manifest.rejected)
    _warn_of_long_captions(manifest, bench.facts.text_tokens)
    _warn_of_unmirrored(manifest, bench.recipe.video)
    heldout = manifest.count_clips(manifest.heldout)
    if heldout < _ENOUGH_HELDOUT:
        warn_once(
            f"{heldout} clip(s) held out, but an interval needs {_ENOUGH_HELDOUT}: "
            "nothing can be promoted on held-out loss; raise dataset.min_heldout or add clips"
        )
    return manifest


def _say_what_changed(bench: Workbench, manifest: Manifest) -> None:
    """Publish the manifest, and log how it differs from the one before, the first time it does."""
    before = bench.shelf.latest_name()
    change = bench.shelf.publish(manifest)
    if before is None:
        logger.info("clips: the first manifest of this dataset under these settings")
    elif before == manifest.content_digest():
        logger.info("clips: nothing changed since manifest %s", before[:8])
    elif change is not None:
        logger.info("clips since manifest %s: %s", before[:8], change)


def _keep_list(bench: Workbench, rejected: Sequence[Rejected]) -> None:
    """Write down what no manifest will have, as none is published."""
    path = bench.work / f"rejected-{bench.recipe.name}.json"
    write_document(path, [clip.model_dump() for clip in rejected])
    warn_once(f"the whole list is in {path}")


def _show_quarantine(dataset_url: str, rejected: Sequence[Rejected]) -> None:
    """Name the clips that are not used, each with its reason: in the log and in the UI."""
    for clip in rejected[:_MOST_LINES]:
        warn_once(f"rejected {clip.key}: {clip.reason} ({clip.detail})")
    if len(rejected) > _MOST_LINES:
        more = len(rejected) - _MOST_LINES
        warn_once(f"{more} more rejected clip(s); see the artifact quarantine or the whole list")
    if not rejected or not is_watched():
        return
    by_reason = sorted(Counter(clip.reason for clip in rejected).items())
    counts = ", ".join(f"{count} {reason}" for reason, count in by_reason)
    parts = {"key", "reason", "detail"}
    with shown("quarantine"):
        create_table_artifact(
            [clip.model_dump(include=parts) for clip in rejected[:_MOST_ROWS]],
            key="quarantine",
            description=f"{len(rejected)} clip(s) of {dataset_url} are not used: {counts}",
        )


def _warn_of_long_captions(manifest: Manifest, limit: int) -> None:
    """Say which captions the model cuts; `limit` is in tokens."""
    long = {clip.key: clip.tokens for clip in manifest.clips if (clip.tokens or 0) > limit}
    if not long:
        return
    examples = ", ".join(f"{key} ({tokens})" for key, tokens in list(long.items())[:_EXAMPLES])
    more = ", ..." if len(long) > _EXAMPLES else ""
    warn_once(
        f"{len(long)} caption(s) have more than {limit} tokens, and the model reads only the"
        f" first {limit}: {examples}{more}; say what matters first"
    )


def _warn_of_unmirrored(manifest: Manifest, video: VideoConfig) -> None:
    passed_over = unmirrored(manifest.clips) if video.flip else 0
    if passed_over:
        warn_once(
            f"{passed_over} of {manifest.count_clips(manifest.train)} training clip(s) are not"
            " mirrored, since their captions speak of left, right or a direction of turning"
        )

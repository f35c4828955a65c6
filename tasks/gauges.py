"""What measures an arm's videos beyond their own frames, put together from what a recipe offers.

Loads the GPU stack: import it inside a task's body.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cogvx.data.manifest import Clip, Manifest
from cogvx.evaluation.feature_gauges import Memorisation
from cogvx.evaluation.gauge import Findings, Gauge, Seen
from cogvx.evaluation.gauges import BaseDistance, Told, Variety
from cogvx.evaluation.gauges_clips import ClipRows
from cogvx.evaluation.render import Arm
from cogvx.evaluation.suite import Suite
from cogvx.inference.session import Session
from cogvx.metrics.features import features_of
from cogvx.metrics.luma import Thumbnails, luma_rows
from cogvx.metrics.registry import metrics
from cogvx.metrics.relative import MEMORISATION_LUMA
from cogvx.metrics.similarity import Gallery, Rows
from tasks.clients.stores import kept_on_disk
from tasks.drift import drift_of
from tasks.progress import Progress
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


def gauges_for(
    bench: Workbench,
    arm: Arm,
    *,
    base_videos: Mapping[tuple[str, int], Path] | None,
    suite: Suite,
    manifest: Manifest,
    open_session: Callable[[], Session],
) -> tuple[Gauge, ...]:
    """Everything that measures one arm; drift is measured now, the rest when videos come.

    What was measured before, or of clips and videos before, comes from the store.

    Args:
        bench: The recipe's workbench.
        arm: Who is measured.
        base_videos: The base's videos by prompt and seed; None where nobody draws them, and then
            there is no drift and no distance from it.
        suite: What the arm is measured under.
        manifest: Its training clips are what videos may be copies of.
        open_session: Called only if a drift is not kept.

    Raises:
        IntegrityError: An adapter does not fit the base, or what was kept is damaged.
        TransientError: The dataset or the store did not answer this time.
    """

    def thumbnails(seen: Seen) -> Rows:
        store = kept_on_disk(bench.store, bench.settings)
        return features_of(
            lambda: seen.video.rgb_fhwc, seen.sha256, encoder=Thumbnails(), store=store
        )

    found: list[Gauge] = [Variety(thumbnails)]
    if clips := _luma_of(bench, manifest.train, "training clips"):
        metric = metrics()[MEMORISATION_LUMA]
        rows = Gallery.of(clips)
        found.append(Memorisation(metric, lambda seen: luma_rows(thumbnails(seen)), rows))
    if base_videos is not None:
        drifts = drift_of(bench, arm, suite, base_videos=base_videos, open_session=open_session)
        found += [Told(Findings(readings=drifts)), BaseDistance(base_videos)]
    return tuple(found)


def calibrated_limits(bench: Workbench, manifest: Manifest) -> Mapping[str, float]:
    """What the held-out clips reach themselves, by metric: for ceilings that declare no limit.

    The 99th percentile of their own highest values against the training clips, of which they are
    no copies. Empty without clips of both kinds.

    Raises:
        IntegrityError: What was kept is damaged.
        TransientError: The dataset or the store did not answer this time.
    """
    train = _luma_of(bench, manifest.train, "training clips")
    heldout = _luma_of(bench, manifest.heldout, "held-out clips")
    if not train:
        return {}
    usual = Gallery.of(train).usual([rows_fd for _, rows_fd in heldout])
    return {} if usual is None else {MEMORISATION_LUMA: usual}


def _luma_of(bench: Workbench, windows: Sequence[Clip], what: str) -> list[tuple[str, Rows]]:
    """Clip and rows of each window, as `luma_rows` gives them."""
    clips = ClipRows(
        recipe=bench.recipe,
        ids=bench.ids,
        dataset=bench.dataset,
        store=kept_on_disk(bench.store, bench.settings),
        work=bench.work,
    )
    progress = Progress(f"look at {what}", "windows", logger)
    rows = clips.of(windows, Thumbnails(), on_progress=progress)
    return [(clip, luma_rows(grey_fd)) for clip, grey_fd in rows]

"""What measures an arm's videos beyond their own frames, put together from what a recipe offers.

Loads the GPU stack: import it inside a task's body.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvx.data.manifest import Clip, Manifest
from cogvx.evaluation.documents import Limit
from cogvx.evaluation.encoder_gauges import Networks, SeenClips, encoder_gauges
from cogvx.evaluation.feature_gauges import Diversity, Memorisation
from cogvx.evaluation.gauge import Findings, Gauge, Seen
from cogvx.evaluation.gauges import BaseDistance, Told
from cogvx.evaluation.gauges_clips import ClipRows, remarks_of_lost
from cogvx.evaluation.render import Arm
from cogvx.evaluation.suite import Suite
from cogvx.inference.session import Session
from cogvx.metrics.features import features_of
from cogvx.metrics.luma import Thumbnails, luma_rows, mean_difference
from cogvx.metrics.registry import metrics
from cogvx.metrics.relative import DIVERSITY_LUMA, MEMORISATION_LUMA
from cogvx.metrics.similarity import Rows
from tasks.clients.stores import kept_on_disk
from tasks.evaluation.drift import drift_of
from tasks.evaluation.networks import networks_of
from tasks.evaluation.overfit import overfit_of
from tasks.pages.progress import Progress
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What all arms are measured beside: the clips' grey copies, and networks where there are any.

    Held by whoever evaluates, not by the process, so that a GPU is free again afterwards.
    """

    clips: SeenClips
    networks: Networks | None
    manifest: Manifest | None = None
    """Where it is known, arms are asked how much better they know what they were trained on."""
    remarks: tuple[str, ...] = ()
    """What a verdict must say first: of clips that could not be looked at."""

    @property
    def limits(self) -> dict[str, Limit]:
        """What the held-out clips reach themselves, for ceilings that declare no limit, by metric.

        The 99th percentile of their highest values against the training clips, of which they are
        no copies. A metric without clips of both kinds has none.
        """
        luma = self.clips.limit
        found = {} if luma is None else {MEMORISATION_LUMA: luma}
        return found if self.networks is None else found | self.networks.limits


def look_around(bench: Workbench, suite: Suite, manifest: Manifest) -> Surroundings:
    """Open the recipe's networks and look at the clips, before any video is rendered.

    The first time every clip is decoded; from then on the store knows what was seen.

    Raises:
        ConfigError: Networks cannot be had, or texts are too long for them; with all of them.
        TransientError: The hub, the dataset or the store did not answer this time.
        IntegrityError: What was kept is damaged.
    """
    grey, remarks = grey_clips(bench, manifest)
    return Surroundings(grey, networks_of(bench, suite, manifest), manifest, remarks)


def grey_clips(bench: Workbench, manifest: Manifest) -> tuple[SeenClips, tuple[str, ...]]:
    """The grey copies of all clips, decoded where the store knows none; and which are lost.

    What is lost to them is lost to networks as well.

    Raises:
        TransientError: The dataset or the store did not answer this time.
        IntegrityError: What was kept is damaged.
    """
    heldout = _luma_of(bench, manifest.heldout, "held-out clips")
    train = _luma_of(bench, manifest.train, "training clips")
    remarks = remarks_of_lost(manifest.clips, (*heldout, *train))
    return SeenClips(heldout=_with_contrast(heldout), train=_with_contrast(train)), remarks


def gauges_for(
    bench: Workbench,
    arm: Arm,
    around: Surroundings,
    *,
    suite: Suite,
    base_videos: Mapping[tuple[str, int], Path] | None,
    open_session: Callable[[], Session],
) -> tuple[Gauge, ...]:
    """Everything that measures one arm; predictions are measured now, the rest when videos come.

    Args:
        bench: The recipe's workbench; its store keeps what is found.
        arm: Who is measured.
        around: From `look_around`, the same for every arm.
        suite: What the arm is measured under.
        base_videos: The base's videos by prompt and seed; None where nobody draws them, and then
            there is no drift and no distance from it.
        open_session: Called only if a drift or a loss is not kept.

    Raises:
        IntegrityError: An adapter does not fit the base, or what was kept is damaged.
        TransientError: The store did not answer this time.
    """
    store = kept_on_disk(bench.store, bench.settings)

    def thumbnails(seen: Seen) -> Rows:
        frames = lambda: seen.video.rgb_fhwc  # noqa: E731 - decoded only when asked for
        return features_of(frames, seen.sha256, encoder=Thumbnails(), store=store)

    known = metrics()
    found: list[Gauge] = [Diversity(known[DIVERSITY_LUMA], thumbnails, mean_difference)]
    if gallery := around.clips.gallery:
        metric = known[MEMORISATION_LUMA]
        found.append(Memorisation(metric, lambda seen: luma_rows(thumbnails(seen)), gallery))
    if around.manifest is not None:
        gaps = overfit_of(bench, arm, around.manifest, open_session)
        found.append(Told(Findings(readings=gaps)))
    if base_videos is not None:
        drifts = drift_of(bench, arm, suite, base_videos=base_videos, open_session=open_session)
        found += [Told(Findings(readings=drifts)), BaseDistance(base_videos, store)]
    return (*found, *(() if around.networks is None else encoder_gauges(around.networks)))


def _luma_of(bench: Workbench, windows: Sequence[Clip], what: str) -> tuple[tuple[str, Rows], ...]:
    """Clip and rows of each window; no rows of one that shows no light and dark."""
    clips = ClipRows(
        recipe=bench.recipe,
        ids=bench.ids,
        dataset=bench.dataset,
        store=kept_on_disk(bench.store, bench.settings),
        work=bench.work,
    )
    progress = Progress(f"look at {what}", "windows", logger)
    found = clips.of(windows, Thumbnails(), on_progress=progress)
    return tuple((clip, luma_rows(grey_fd)) for clip, grey_fd in found)


def _with_contrast(windows: Sequence[tuple[str, Rows]]) -> tuple[tuple[str, Rows], ...]:
    return tuple((clip, rows_fd) for clip, rows_fd in windows if len(rows_fd))

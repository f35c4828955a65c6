"""How much better an arm denoises what it was trained on than what it never saw.

Loads the GPU stack: import it inside a task's body. It informs a person, and decides nothing.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from cogvx.cache.plan import Sample, samples
from cogvx.data.manifest import Manifest
from cogvx.digest import sha256_bytes
from cogvx.evaluation.documents import Reading
from cogvx.evaluation.render import Arm
from cogvx.inference.session import Session
from tasks.caching.records import RecordsLost
from tasks.evaluation.heldout import losses_of
from tasks.evaluation.measure import heldout_of
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)

OVERFIT_GAP = "overfit_gap"


def overfit_of(
    bench: Workbench, arm: Arm, manifest: Manifest, open_session: Callable[[], Session]
) -> tuple[Reading, ...]:
    """Mean loss of the held-out windows minus that of as many training windows, by timestep.

    In the unit of the held-out loss, and measured as it is. The base has a gap, too: the clips that
    were held out may be harder. What training adds to it is overfitting. Nothing without clips of
    both kinds, and nothing, with a warning, where their records are lost.

    Args:
        bench: Its store keeps what was measured.
        arm: Who is measured.
        manifest: Its clips. Which training windows are looked at, their names decide.
        open_session: Called if losses are not kept.

    Raises:
        IntegrityError: An adapter does not fit the base, or what was kept is damaged.
    """
    train, heldout = overfit_windows(bench, manifest)
    if not train or not heldout:
        return ()
    try:
        seen, unseen = (
            _by_timestep(bench, arm, windows, open_session) for windows in (train, heldout)
        )
    except RecordsLost as error:
        logger.warning("the overfit gap of %s is not measured: %s", arm.name, error)
        return ()
    gaps = {timestep: unseen[timestep] - seen[timestep] for timestep in unseen}
    if not all(math.isfinite(gap) for gap in gaps.values()):
        return ()  # that losses are not finite is told where they decide
    return tuple(
        Reading(metric=OVERFIT_GAP, unit="clips", draw=timestep, value=gap)
        for timestep, gap in gaps.items()
    )


def overfit_windows(
    bench: Workbench, manifest: Manifest
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """The training windows that are looked at, and all that are held out."""
    heldout = heldout_of(bench, manifest)
    train = samples(manifest.train, bench.recipe, facts=bench.facts, ids=bench.ids)
    return _chosen(train, len(heldout)), heldout


def _chosen(windows: Sequence[Sample], count: int) -> tuple[Sample, ...]:
    """Some windows, the same ones each time, wherever they stand in the manifest."""
    lots = sorted(windows, key=lambda window: sha256_bytes(f"overfit:{window.latents}".encode()))
    return tuple(lots[:count])


def _by_timestep(
    bench: Workbench, arm: Arm, windows: Sequence[Sample], open_session: Callable[[], Session]
) -> dict[int, float]:
    found: dict[int, list[float]] = defaultdict(list)
    for loss in losses_of(bench, arm, windows, open_session):
        found[loss.timestep].append(loss.loss)
    return {timestep: sum(losses) / len(losses) for timestep, losses in found.items()}

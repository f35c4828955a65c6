"""The held-out losses of an arm: measured once, then read from the store.

Loads the GPU stack: import it inside a task's body.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from cogvx.cache.plan import Sample, record_paths
from cogvx.digest import canonical_json, digest
from cogvx.evaluation.render import Arm
from cogvx.inference.session import Session
from cogvx.model.image_scale import image_scale_of
from cogvx.objective.heldout import HeldoutLoss, heldout_losses
from cogvx.objective.objective import Objective
from tasks.caching.records import bring_records
from tasks.pages.progress import Progress
from tasks.workbench import Workbench, read_stored

logger = logging.getLogger(__name__)

Losses = Sequence[tuple[int, float]]
"""Timestep and loss, window after window."""
Told = Mapping[str, Losses]
"""What others measured that the store does not keep, by the place where it would lie."""
NOTHING_TOLD: Told = MappingProxyType({})

# Raised when the way of measuring changes, so that losses of before are not compared with it.
_VERSION = 1


class _KeptLosses(BaseModel):
    """Timestep and loss, window after window; windows are named by the samples in the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    losses: tuple[tuple[int, float], ...]


def losses_of(
    bench: Workbench,
    arm: Arm,
    heldout: Sequence[Sample],
    open_session: Callable[[], Session],
    *,
    draw: int = 0,
    told: Told = NOTHING_TOLD,
) -> tuple[HeldoutLoss, ...]:
    """Held-out losses of an arm, window by window.

    The session is opened if they are neither kept nor told. A loss that is not finite is returned
    and not kept. Arms are compared under one `draw` of noise.

    Raises:
        RecordsLost: Records of the windows are absent or damaged.
        IntegrityError: An adapter does not fit the base, or what was kept is damaged.
    """
    key = losses_path(bench, arm, heldout, draw=draw)
    if bench.store.info(key) is None:
        if key in told:
            return _named(bench, heldout, told[key])
        scores = _measure(bench, arm, heldout, open_session(), draw=draw)
        if not all(math.isfinite(score.loss) for score in scores):
            return scores  # the scores become faults, and the verdict INVALID
        losses = tuple((score.timestep, score.loss) for score in scores)
        bench.store.write(key, canonical_json(_KeptLosses(losses=losses)))
    return _named(bench, heldout, read_stored(bench.store, key, _KeptLosses).losses)


def _named(bench: Workbench, heldout: Sequence[Sample], losses: Losses) -> tuple[HeldoutLoss, ...]:
    clips = [sample.clip for sample in heldout for _ in range(bench.recipe.train.heldout_strata)]
    rows = zip(clips, losses, strict=True)
    return tuple(HeldoutLoss(clip=clip, timestep=t, loss=loss) for clip, (t, loss) in rows)


def losses_path(bench: Workbench, arm: Arm, heldout: Sequence[Sample], *, draw: int = 0) -> str:
    """Where an arm's held-out losses are kept: named by everything that decides them.

    That is of an image-to-video base also the first frame that is shown, and how it is scaled.

    Raises:
        ConfigError: The recipe's image scale is none of the base's.
    """
    parts = {
        "version": _VERSION,
        "base": bench.base_fingerprint,
        "dtype": bench.recipe.base.dtype,
        "adapters": [[adapter.sha256, adapter.weight] for adapter in arm.adapters],
        "samples": [[sample.latents, sample.prompt] for sample in heldout],
        "strata": bench.recipe.train.heldout_strata,
    }
    if draw:
        parts["draw"] = draw
    scale = image_scale_of(bench.facts.variant, bench.recipe.base.image_latent_scale)
    if scale is not None:
        shown = [image for sample in _as_shown(heldout) for image in sample.images]
        parts |= {"images": shown, "image_scale": scale}
    name = digest(parts)
    return f"heldout/{name[:2]}/{name}.json"


def _measure(
    bench: Workbench, arm: Arm, heldout: Sequence[Sample], session: Session, *, draw: int
) -> tuple[HeldoutLoss, ...]:
    records = bench.work / "records"
    shown = _as_shown(heldout)
    bring_records(bench, record_paths(shown), records, what="fetch held-out records")
    objective = Objective.of(bench.base, image_scale=bench.recipe.base.image_latent_scale)
    names = [f"heldout{number}" for number, _ in enumerate(arm.adapters)]
    for name, adapter in zip(names, arm.adapters, strict=True):
        session.attach(name, adapter.path)
    session.use({n: a.weight for n, a in zip(names, arm.adapters, strict=True)})
    try:
        return heldout_losses(
            session.transformer,
            objective,
            samples=shown,
            records=records,
            strata=bench.recipe.train.heldout_strata,
            draw=draw,
            on_progress=Progress(f"held-out loss of {arm.name}", "losses", logger),
        )
    finally:
        session.use({})
        for name in names:
            session.detach(name)


def _as_shown(heldout: Sequence[Sample]) -> tuple[Sample, ...]:
    """The windows with the only one of their noised first frames that is looked at."""
    return tuple(sample.model_copy(update={"images": sample.images[:1]}) for sample in heldout)

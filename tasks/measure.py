"""Measure the arms of an evaluation. Loads the GPU stack: import it inside a task's body.

One model is loaded for all arms, and only if a video or a held-out loss is missing from the store.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from cogvx.cache.plan import Sample, record_paths, samples
from cogvx.data.manifest import Manifest
from cogvx.digest import canonical_json, digest
from cogvx.evaluation.documents import ArmResult
from cogvx.evaluation.index import EvaluationIndex, evaluation_path
from cogvx.evaluation.render import Arm, Rendered, Setting, render_arm, video_key
from cogvx.evaluation.scoring import score_arm
from cogvx.evaluation.suite import Suite
from cogvx.inference.prompts import CachedPrompts
from cogvx.inference.session import Session
from cogvx.objective.heldout import HeldoutLoss, by_clip, heldout_losses
from cogvx.objective.objective import Objective
from tasks.clients.stores import kept_on_disk
from tasks.lineage import judgement
from tasks.progress import Progress
from tasks.records import bring_records
from tasks.workbench import Workbench, read_stored

logger = logging.getLogger(__name__)

# Raised when the way of measuring changes, so that losses of before are not compared with it.
_HELDOUT_VERSION = 1


class _KeptLosses(BaseModel):
    """Timestep and loss, window after window; windows are named by the samples in the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    losses: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class MeasuredArm:
    """An arm's videos on this machine and what was measured on them."""

    arm: Arm
    videos: tuple[Rendered, ...]
    result: ArmResult


def measure_arms(
    bench: Workbench, arms: Sequence[Arm], suite: Suite, manifest: Manifest
) -> tuple[MeasuredArm, ...]:
    """Render, measure and score every arm, one after the other.

    First it is written down what they need, as pruning keeps only what a document reaches.
    """
    setting = Setting(
        video=bench.recipe.video,
        base_fingerprint=bench.base_fingerprint,
        dtype=bench.recipe.base.dtype,
    )
    heldout = samples(manifest.heldout, bench.recipe, facts=bench.facts, ids=bench.ids)
    index = EvaluationIndex(
        videos=tuple(
            video_key(arm, suite, prompt, seed, setting).path
            for arm in arms
            for prompt in suite.prompts
            for seed in suite.seeds
        ),
        heldout=tuple(_losses_path(bench, arm, heldout) for arm in arms),
    )
    place = evaluation_path(bench.run_identity(manifest), judgement(bench.recipe, suite))
    bench.store.write(place, canonical_json(index))
    open_session = functools.cache(lambda: _open_session(bench))
    measured = []
    for arm in arms:
        videos = render_arm(
            open_session,
            arm,
            suite,
            setting=setting,
            store=kept_on_disk(bench.store, bench.settings),
            work=bench.work / "videos",
            on_progress=Progress(f"render {arm.name}", "videos", logger),
        )
        losses = by_clip(_heldout(bench, arm, heldout, open_session))
        result = score_arm(arm, videos, suite=suite, video=bench.recipe.video, heldout=losses)
        measured.append(MeasuredArm(arm, videos, result))
    return tuple(measured)


def _open_session(bench: Workbench) -> Session:
    logger.info("load %s for generation", bench.recipe.base.path)
    return Session.open(
        bench.base,
        dtype=bench.recipe.base.dtype,
        device=bench.device,
        fingerprint=bench.base_fingerprint,
        prompts=CachedPrompts(
            store=kept_on_disk(bench.store, bench.settings),
            encoder_fingerprint=bench.ids.text,
            max_length=bench.facts.text_tokens,
            dtype=bench.recipe.base.dtype,
        ),
    )


def _heldout(
    bench: Workbench, arm: Arm, heldout: Sequence[Sample], open_session: Callable[[], Session]
) -> tuple[HeldoutLoss, ...]:
    """Held-out losses of an arm, window by window; measured once, then read from the store."""
    key = _losses_path(bench, arm, heldout)
    if bench.store.info(key) is None:
        scores = _measure_heldout(bench, arm, heldout, open_session())
        if not all(math.isfinite(score.loss) for score in scores):
            return scores  # not kept; the scores become faults, and the verdict INVALID
        losses = tuple((score.timestep, score.loss) for score in scores)
        bench.store.write(key, canonical_json(_KeptLosses(losses=losses)))
    kept = read_stored(bench.store, key, _KeptLosses)
    clips = [sample.clip for sample in heldout for _ in range(bench.recipe.train.heldout_strata)]
    rows = zip(clips, kept.losses, strict=True)
    return tuple(HeldoutLoss(clip=clip, timestep=t, loss=loss) for clip, (t, loss) in rows)


def _losses_path(bench: Workbench, arm: Arm, heldout: Sequence[Sample]) -> str:
    """Where an arm's held-out losses are kept: named by everything that decides them."""
    name = digest(
        {
            "version": _HELDOUT_VERSION,
            "base": bench.base_fingerprint,
            "dtype": bench.recipe.base.dtype,
            "adapters": [[adapter.sha256, adapter.weight] for adapter in arm.adapters],
            "samples": [[sample.latents, sample.prompt] for sample in heldout],
            "strata": bench.recipe.train.heldout_strata,
        }
    )
    return f"heldout/{name[:2]}/{name}.json"


def _measure_heldout(
    bench: Workbench, arm: Arm, heldout: Sequence[Sample], session: Session
) -> tuple[HeldoutLoss, ...]:
    records = bench.work / "records"
    bring_records(bench, record_paths(heldout), records, what="fetch held-out records")
    objective = Objective.of(bench.base)
    names = [f"heldout{number}" for number, _ in enumerate(arm.adapters)]
    for name, adapter in zip(names, arm.adapters, strict=True):
        session.attach(name, adapter.path)
    session.use({n: a.weight for n, a in zip(names, arm.adapters, strict=True)})
    try:
        return heldout_losses(
            session.transformer,
            objective,
            samples=heldout,
            records=records,
            strata=bench.recipe.train.heldout_strata,
            on_progress=Progress(f"held-out loss of {arm.name}", "losses", logger),
        )
    finally:
        session.use({})
        for name in names:
            session.detach(name)

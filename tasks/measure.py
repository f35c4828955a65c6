"""Measure the arms of an evaluation. Loads the GPU stack: import it inside a task's body.

One model is loaded for all arms, and only if a video or a held-out loss is missing from the store.
"""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.cache.plan import samples
from cogvx.data.manifest import Manifest
from cogvx.digest import canonical_json
from cogvx.evaluation.documents import ArmResult
from cogvx.evaluation.index import EvaluationIndex, evaluation_path
from cogvx.evaluation.render import Arm, Rendered, Setting, render_arm, video_key
from cogvx.evaluation.scoring import score_arm
from cogvx.evaluation.suite import Suite
from cogvx.inference.prompts import CachedPrompts
from cogvx.inference.session import Session
from cogvx.objective.heldout import by_clip
from tasks.clients.stores import kept_on_disk
from tasks.heldout import losses_of, losses_path
from tasks.lineage import judgement
from tasks.progress import Progress
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


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
            for prompt, seed in suite.shots
        ),
        heldout=tuple(losses_path(bench, arm, heldout) for arm in arms),
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
        losses = by_clip(losses_of(bench, arm, heldout, open_session))
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
        image_scale=bench.recipe.base.image_latent_scale,
        prompts=CachedPrompts(
            store=kept_on_disk(bench.store, bench.settings),
            encoder_fingerprint=bench.ids.text,
            max_length=bench.facts.text_tokens,
            dtype=bench.recipe.base.dtype,
        ),
    )

"""Measure the arms of an evaluation. Loads the GPU stack: import it inside a task's body.

Held-out losses come first, as they are cheap and may end it; then every arm's videos are scored.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cogvx.cache.plan import Sample, samples
from cogvx.data.manifest import Manifest
from cogvx.errors import DataError, IntegrityError
from cogvx.evaluation.documents import ArmResult, VideoScore
from cogvx.evaluation.gauge import Gauge
from cogvx.evaluation.render import (
    Arm,
    Footage,
    Rendered,
    Setting,
    Unmade,
    remove_damaged,
    render_arm,
)
from cogvx.evaluation.scores import Scores
from cogvx.evaluation.scoring import score_arm
from cogvx.evaluation.suite import Suite
from cogvx.inference.prompts import CachedPrompts
from cogvx.inference.session import Session
from cogvx.model.image_scale import image_scale_of
from cogvx.objective.heldout import HeldoutLoss, by_clip
from tasks.caching.records import VideosLost
from tasks.clients.stores import kept_on_disk
from tasks.evaluation.heldout import Told, losses_of
from tasks.pages.progress import Progress
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)

Losses = Mapping[str, tuple[HeldoutLoss, ...]]
"""Held-out losses by the arms' names."""


@dataclass(frozen=True)
class MeasuredArm:
    """An arm's videos on this machine and what was measured on them."""

    arm: Arm
    videos: tuple[Rendered, ...]
    result: ArmResult


@dataclass(frozen=True)
class Measurer:
    """Who measures predictions that the store does not keep: this process, or others did before.

    Attributes:
        open_session: Opens the base; where others measured it raises instead.
        told: What they measured and the store does not keep.
        refused: Why they could not measure arms, by name.
    """

    open_session: Callable[[], Session]
    told: Told = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, bench: Workbench) -> "Measurer":
        """This process, which loads the base when it must, and once."""
        return cls(one_session(bench))

    def require(self, arm: Arm) -> None:
        """Refuse an arm that others could not measure.

        Raises:
            IntegrityError: With their reason.
        """
        if arm.name in self.refused:
            raise IntegrityError(self.refused[arm.name])


def setting_of(bench: Workbench) -> Setting:
    """What all arms of a recipe's evaluation share."""
    base = bench.recipe.base
    return Setting(
        video=bench.recipe.video,
        base_fingerprint=bench.base_fingerprint,
        dtype=base.dtype,
        image_scale=image_scale_of(bench.facts.variant, base.image_latent_scale),
    )


def one_session(bench: Workbench) -> Callable[[], Session]:
    """Opens the base when it is called first, and gives the same session ever after."""
    return functools.cache(lambda: _open_session(bench))


def heldout_of(bench: Workbench, manifest: Manifest) -> tuple[Sample, ...]:
    """The held-out windows that losses are measured on."""
    return samples(manifest.heldout, bench.recipe, facts=bench.facts, ids=bench.ids)


def measure_losses(
    bench: Workbench, arms: Sequence[Arm], manifest: Manifest, measurer: Measurer
) -> Losses:
    """Held-out losses of every arm, clip by clip.

    Raises:
        RecordsLost: Records of the windows are absent or damaged.
        IntegrityError: An adapter does not fit the base, or what was kept is damaged.
    """
    heldout = heldout_of(bench, manifest)
    return {
        arm.name: by_clip(losses_of(bench, arm, heldout, measurer.open_session, told=measurer.told))
        for arm in arms
    }


def render_here(
    bench: Workbench, arm: Arm, suite: Suite, open_session: Callable[[], Session]
) -> Footage:
    """Bring an arm's videos, rendering in this process those that the store lacks."""
    return render_arm(
        open_session,
        arm,
        suite,
        setting=setting_of(bench),
        store=kept_on_disk(bench.store, bench.settings),
        work=bench.work / "videos",
        on_progress=Progress(f"render {arm.name}", "videos", logger),
    )


def score_footage(
    bench: Workbench,
    arm: Arm,
    footage: Footage,
    *,
    suite: Suite,
    losses: Iterable[HeldoutLoss],
    gauges: Callable[[], Sequence[Gauge]] = tuple,
) -> MeasuredArm:
    """Score an arm's videos; one that could not be rendered is a fault in words.

    So is what keeps its gauges from measuring. They are not asked for where videos are lacking:
    the arm is judged invalid in any case.

    Raises:
        VideosLost: Kept videos cannot be decoded.
    """
    found, faults = ((), ()) if footage.unmade else _opened(arm, gauges)
    store = kept_on_disk(bench.store, bench.settings)
    try:
        result = score_arm(
            arm,
            footage.videos,
            suite=suite,
            scores=Scores(bench.recipe.video, store),
            heldout=losses,
            gauges=found,
            on_progress=Progress(f"score {arm.name}", "videos", logger),
        )
    except DataError as error:
        removed = remove_damaged(footage.videos, store)
        if not removed:
            raise
        raise VideosLost(
            f"{len(removed)} video(s) of {arm.name} were damaged in {store.url} and are removed; "
            f"evaluate again and they are rendered again: {error}"
        ) from error
    told = {
        "videos": (*result.videos, *(_unscored(each) for each in footage.unmade)),
        "faults": (*result.faults, *faults),
    }
    return MeasuredArm(arm, footage.videos, result.model_copy(update=told))


def _opened(
    arm: Arm, gauges: Callable[[], Sequence[Gauge]]
) -> tuple[Sequence[Gauge], tuple[str, ...]]:
    """An arm's gauges, or why there are none."""
    try:
        return gauges(), ()
    except IntegrityError as error:
        return (), (f"{arm.name} could not be measured: {error}.",)


def _unscored(unmade: Unmade) -> VideoScore:
    return VideoScore(
        prompt=unmade.prompt_id,
        seed=unmade.seed,
        key=unmade.key,
        values={},
        faults=(f"could not be rendered: {unmade.why}",),
    )


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

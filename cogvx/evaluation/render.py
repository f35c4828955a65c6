"""Render what is missing: arms x prompts x seeds as mp4s under names made from their content.

A base or a champion that was rendered once is never rendered again, and a killed evaluation goes on
with the next video. One video at a time, each from its own seed, so that neither order nor sharding
can change a frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cogvx.evaluation.canary import require_effect
from cogvx.evaluation.suite import PromptConfig, Suite
from cogvx.inference.batch import AdapterAtWeight, Hooks, Wanted, render_videos
from cogvx.inference.image import load_image
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.inference.video_key import Engine, VideoKey
from cogvx.recipe_sections import VideoConfig
from cogvx.store import ObjectStore
from cogvx.variants import DType


@dataclass(frozen=True)
class Arm:
    """One contestant: the base alone, or with adapters. `name` is what reports call it."""

    name: str
    adapters: tuple[AdapterAtWeight, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What all arms share besides the suite: size and rate, the exact base, and how it decodes."""

    video: VideoConfig
    base_fingerprint: str
    dtype: DType
    tiling: bool = False

    @property
    def engine(self) -> Engine:
        """What generates every arm: never fused, so that the base stays what it is."""
        return Engine(self.base_fingerprint, self.dtype, tiling=self.tiling)


@dataclass(frozen=True)
class Rendered:
    """A video of an arm as a local file; `fresh` if it was not in the store before."""

    prompt_id: str
    seed: int
    key: str
    path: Path
    fresh: bool


def video_key(
    arm: Arm, suite: Suite, prompt: PromptConfig, seed: int, setting: Setting
) -> VideoKey:
    """The name of one video of an arm. Adapters of weight 0 change nothing and are left out."""
    wanted = Wanted(_request(suite, prompt, seed, setting), arm.adapters)
    return wanted.key(setting.engine)


def render_arm(
    open_session: Callable[[], Session],
    arm: Arm,
    suite: Suite,
    *,
    setting: Setting,
    store: ObjectStore,
    work: Path,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Rendered, ...]:
    """Bring every video of an arm to this machine, generating those that the store lacks.

    Args:
        open_session: Called only if a video is missing; give `functools.cache(...)` of it to share
            one loaded model between arms. The session is left as it was found.
        arm: Who is rendered.
        suite: Prompts, seeds and sampling.
        setting: Size, rate and base.
        store: Where videos are kept for good, one by one as they are finished.
        work: A folder for local copies.
        on_progress: Called with videos at hand and videos wanted.

    Returns:
        One entry per prompt and seed, in the suite's order.

    Raises:
        IntegrityError: The adapter has no effect, or its effect does not vanish at weight 0.
    """
    asked = suite.shots
    wanted = [Wanted(_request(suite, *each, setting), arm.adapters) for each in asked]
    videos = render_videos(
        open_session,
        wanted,
        engine=setting.engine,
        store=store,
        work=work,
        hooks=Hooks(
            videos=on_progress,
            mix=lambda session, weights: require_effect(session, weights, arm.name),
        ),
    )
    return tuple(
        Rendered(prompt.id, seed, made.key.digest, made.path, made.fresh)
        for (prompt, seed), made in zip(asked, videos, strict=True)
    )


def _request(suite: Suite, prompt: PromptConfig, seed: int, setting: Setting) -> Request:
    return Request(
        prompt=prompt.prompt,
        seed=seed,
        size=setting.video.size,
        fps=setting.video.fps,
        sampling=_sampling(suite),
        negative_prompt=suite.sampling.negative_prompt,
        image_hwc=None
        if prompt.image is None
        else load_image(Path(prompt.image), setting.video.size),
    )


def _sampling(suite: Suite) -> Sampling:
    chosen = suite.sampling
    return Sampling(
        steps=chosen.steps,
        guidance=chosen.guidance,
        sampler=chosen.sampler,
        dynamic_guidance=chosen.dynamic_guidance,
    )

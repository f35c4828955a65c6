"""Render what is missing: arms x prompts x seeds as mp4s under names made from their content.

A base or a champion that was rendered once is never rendered again, and a killed evaluation goes on
with the next video. One video at a time, each from its own seed, so that neither order nor sharding
can change a frame. A video that cannot be rendered is told with its reason, and the others follow.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cogvx.errors import DataError, IntegrityError
from cogvx.evaluation.canary import require_effect
from cogvx.evaluation.proof import Proof, proof_of
from cogvx.evaluation.suite import PromptConfig, Suite
from cogvx.inference.batch import AdapterAtWeight, Failed, Hooks, Wanted, try_mix, try_videos
from cogvx.inference.image import load_image
from cogvx.inference.request import Request, Sampling, Weights
from cogvx.inference.session import Session
from cogvx.inference.video_key import Engine, VideoKey, path_of
from cogvx.mp4 import read_mp4
from cogvx.recipe_sections import VideoConfig
from cogvx.shapes import VideoSize
from cogvx.store import ObjectStore
from cogvx.variants import DType, ImageScale


@dataclass(frozen=True)
class Arm:
    """One contestant: the base alone, or with adapters. `name` is what reports call it."""

    name: str
    adapters: tuple[AdapterAtWeight, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What all arms share besides the suite: size and rate, the exact base, and how it decodes.

    `image_scale` is what a first frame's latent is scaled with; None for text-to-video.
    """

    video: VideoConfig
    base_fingerprint: str
    dtype: DType
    tiling: bool = False
    image_scale: ImageScale | None = None

    @property
    def engine(self) -> Engine:
        """What generates every arm: never fused, so that the base stays what it is."""
        return Engine(
            self.base_fingerprint, self.dtype, tiling=self.tiling, image_scale=self.image_scale
        )


@dataclass(frozen=True)
class Rendered:
    """A video of an arm as a local file; `fresh` if it was not in the store before."""

    prompt_id: str
    seed: int
    key: str
    path: Path
    fresh: bool


@dataclass(frozen=True)
class Unmade:
    """A video of an arm that could not be rendered, and why."""

    prompt_id: str
    seed: int
    key: str
    why: str


@dataclass(frozen=True)
class Footage:
    """An arm's videos, each in one of the two parts; both in the suite's order."""

    videos: tuple[Rendered, ...]
    unmade: tuple[Unmade, ...] = ()


def video_key(
    arm: Arm, suite: Suite, prompt: PromptConfig, seed: int, setting: Setting
) -> VideoKey:
    """The name of one video of an arm. Adapters of weight 0 change nothing and are left out."""
    return _wanted(arm, suite, prompt, seed, setting).key(setting.engine)


def render_arm(
    open_session: Callable[[], Session],
    arm: Arm,
    suite: Suite,
    *,
    setting: Setting,
    store: ObjectStore,
    work: Path,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Footage:
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
        One entry per prompt and seed. Of an adapter that is refused (no effect, another base's) no
        video is rendered; where that was never looked at before, those that are there do not count.
    """
    missing = missing_shots(arm, suite, setting=setting, store=store)
    wanted = [_wanted(arm, suite, *shot, setting) for shot in missing]
    keys = [each.key(setting.engine).digest for each in wanted]
    whys: dict[str, str] = {}
    at_hand = suite.videos - len(missing)
    proof = proof_of_arm(arm, setting, store)

    def prove(session: Session, weights: Weights) -> None:
        require_effect(session, weights, arm.name)
        proof.keep()

    hooks = Hooks(videos=lambda done, _total: on_progress(at_hand + done, suite.videos), mix=prove)
    videos = try_videos(
        open_session, wanted, engine=setting.engine, store=store, work=work, hooks=hooks
    )
    try:
        if not wanted and proof.is_missing:
            try_mix(open_session, arm.adapters, engine=setting.engine, hooks=hooks)
        for video in videos:
            if isinstance(video, Failed):
                whys[video.key.digest] = str(video.error)
    except IntegrityError as error:  # of the adapter, not of one video
        shots = missing or suite.shots
        refused = [video_key(arm, suite, *shot, setting).digest for shot in shots]
        whys = dict.fromkeys(refused, str(error))
    return find_footage(arm, suite, setting=setting, store=store, work=work, fresh=keys, whys=whys)


def proof_of_arm(arm: Arm, setting: Setting, store: ObjectStore) -> Proof:
    """The proof that an arm's adapters act, whether somebody has proved it or not."""
    adapters = ((adapter.sha256, adapter.weight) for adapter in arm.adapters)
    return proof_of(adapters, setting.engine, store=store)


def missing_shots(
    arm: Arm, suite: Suite, *, setting: Setting, store: ObjectStore
) -> tuple[tuple[PromptConfig, int], ...]:
    """Prompts and seeds of which the store has no video of this arm, in the suite's order."""
    return tuple(
        (prompt, seed)
        for prompt, seed in suite.shots
        if store.info(video_key(arm, suite, prompt, seed, setting).path) is None
    )


def find_footage(
    arm: Arm,
    suite: Suite,
    *,
    setting: Setting,
    store: ObjectStore,
    work: Path,
    fresh: Collection[str],
    whys: Mapping[str, str],
) -> Footage:
    """Bring what the store has of an arm to this machine; nothing is rendered.

    By their keys, `fresh` are those that were missing before, and `whys` the reasons for those that
    still are, or that do not count.
    """
    videos, unmade = [], []
    for prompt, seed in suite.shots:
        key = video_key(arm, suite, prompt, seed, setting)
        if key.digest in whys or store.info(key.path) is None:
            why = whys.get(key.digest, "it is gone from the store; evaluate again")
            unmade.append(Unmade(prompt.id, seed, key.digest, why))
        else:
            path = store.fetch(key.path, work)
            is_fresh = key.digest in fresh
            videos.append(Rendered(prompt.id, seed, key.digest, path, is_fresh))
    return Footage(tuple(videos), tuple(unmade))


def remove_damaged(videos: Sequence[Rendered], store: ObjectStore) -> tuple[str, ...]:
    """Remove from the store the videos that cannot be decoded, so that they are rendered again.

    Where none of several can be, the decoder is at fault rather than they, and all stay.

    Returns:
        The keys of those that were removed.
    """
    damaged = tuple(video.key for video in videos if not _is_whole(video.path))
    if len(damaged) == len(videos) > 1:
        return ()
    for key in damaged:
        store.delete(path_of(key))
    return damaged


def _is_whole(path: Path) -> bool:
    try:
        read_mp4(path)
    except DataError:
        return False
    return True


def _wanted(arm: Arm, suite: Suite, prompt: PromptConfig, seed: int, setting: Setting) -> Wanted:
    return Wanted(_request(suite, prompt, seed, setting), arm.adapters)


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
        else _first_frame(Path(prompt.image), prompt.image_sha256, setting.video.size),
    )


@functools.lru_cache(maxsize=64)
def _first_frame(path: Path, sha256: str | None, size: VideoSize) -> np.ndarray:  # noqa: ARG001
    """A picture as a first frame; a photo takes long, and every key of a video asks for it.

    `sha256` only names the bytes, so that a file that was replaced is read again.
    """
    rgb_hwc = load_image(path, size)
    rgb_hwc.setflags(write=False)  # as others are given the same
    return rgb_hwc


def _sampling(suite: Suite) -> Sampling:
    chosen = suite.sampling
    return Sampling(
        steps=chosen.steps,
        guidance=chosen.guidance,
        sampler=chosen.sampler,
        dynamic_guidance=chosen.dynamic_guidance,
    )

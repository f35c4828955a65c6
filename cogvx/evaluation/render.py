"""Render what is missing: arms x prompts x seeds as mp4s under names made from their content.

A base or a champion that was rendered once is never rendered again, and a killed evaluation goes on
with the next video. One video at a time, each from its own seed, so that neither order nor sharding
can change a frame.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cogvx.cache.keys import VIDEO_VERSION
from cogvx.digest import digest
from cogvx.evaluation.canary import require_effect
from cogvx.evaluation.suite import PromptConfig, Suite
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.mp4 import write_mp4
from cogvx.recipe_sections import VideoConfig
from cogvx.store import ObjectStore
from cogvx.variants import DType

CRF = 18


@dataclass(frozen=True)
class AdapterAtWeight:
    """An adapter file and the weight it acts with; 1 is the strength that it was trained for."""

    sha256: str
    path: Path
    weight: float = 1.0


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


@dataclass(frozen=True)
class VideoKey:
    """What decides the bytes of one generated mp4; `adapters` are (sha256 of the file, weight)."""

    base_fingerprint: str
    adapters: tuple[tuple[str, float], ...]
    prompt: str
    seed: int
    sampling: Sampling
    negative_prompt: str
    frames: int
    height: int
    width: int
    fps: int
    dtype: str
    tiling: bool
    codec: str = "h264-yuv420p"
    crf: int = CRF
    version: int = VIDEO_VERSION

    @property
    def digest(self) -> str:
        """The video's name."""
        return digest({"kind": "video", **asdict(self)})

    @property
    def path(self) -> str:
        """The video's place in the store."""
        return f"videos/{self.digest[:2]}/{self.digest}.mp4"


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
    video = setting.video
    used = [(adapter.sha256, float(adapter.weight)) for adapter in arm.adapters if adapter.weight]
    return VideoKey(
        base_fingerprint=setting.base_fingerprint,
        adapters=tuple(sorted(used)),
        prompt=prompt.prompt,
        seed=seed,
        sampling=_sampling(suite),
        negative_prompt=suite.sampling.negative_prompt,
        frames=video.frames,
        height=video.height,
        width=video.width,
        fps=video.fps,
        dtype=setting.dtype,
        tiling=setting.tiling,
    )


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
    wanted = [
        (prompt, seed, video_key(arm, suite, prompt, seed, setting))
        for prompt in suite.prompts
        for seed in suite.seeds
    ]
    missing = {key.path for _, _, key in wanted if store.info(key.path) is None}
    done = len({key.path for _, _, key in wanted}) - len(missing)
    on_progress(done, len(wanted))
    if missing:
        session = open_session()
        with _Adapted(session, arm) as weights:
            for prompt, seed, key in wanted:
                if key.path in missing:
                    session.use(weights)
                    _render(session, _request(suite, prompt, seed, setting), key, store, work)
                    done += 1
                    on_progress(done, len(wanted))
    return tuple(
        Rendered(prompt.id, seed, key.digest, store.fetch(key.path, work), key.path in missing)
        for prompt, seed, key in wanted
    )


class _Adapted:
    """The arm's adapters in a session, proved to act, and taken out again."""

    def __init__(self, session: Session, arm: Arm) -> None:
        self._session = session
        self._arm = arm
        self._names = [f"adapter{number}" for number, _ in enumerate(arm.adapters)]

    def __enter__(self) -> dict[str, float]:
        attached = []
        try:
            for name, adapter in zip(self._names, self._arm.adapters, strict=True):
                self._session.attach(name, adapter.path)
                attached.append(name)
            weights = {
                name: float(adapter.weight)
                for name, adapter in zip(self._names, self._arm.adapters, strict=True)
            }
            if any(weights.values()):
                require_effect(self._session, weights, self._arm.name)
        except BaseException:
            self._leave(attached)
            raise
        return weights

    def __exit__(self, *_: object) -> None:
        self._leave(self._names)

    def _leave(self, names: list[str]) -> None:
        self._session.use({})
        for name in names:
            self._session.detach(name)


def _render(
    session: Session, request: Request, key: VideoKey, store: ObjectStore, work: Path
) -> None:
    path = work / f"{key.digest}.mp4"
    # No prompt in the file: its name says what made it, and captions may be private.
    write_mp4(path, session.generate(request), fps=key.fps, crf=key.crf)
    store.upload(path, key.path)
    path.unlink()


def _request(suite: Suite, prompt: PromptConfig, seed: int, setting: Setting) -> Request:
    return Request(
        prompt=prompt.prompt,
        seed=seed,
        size=setting.video.size,
        fps=setting.video.fps,
        sampling=_sampling(suite),
        negative_prompt=suite.sampling.negative_prompt,
    )


def _sampling(suite: Suite) -> Sampling:
    chosen = suite.sampling
    return Sampling(
        steps=chosen.steps,
        guidance=chosen.guidance,
        sampler=chosen.sampler,
        dynamic_guidance=chosen.dynamic_guidance,
    )

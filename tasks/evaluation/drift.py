"""How far an arm moves the base where it should not: measured once, then read from the store.

Loads the GPU stack: import it inside a task's body.

Both are asked about the same noised latents: those of the video that the base itself drew for the
prompt, so that nothing but the prompts must be chosen, and they are what the base would do there.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from cogvx.cache.plan import is_tiled
from cogvx.digest import canonical_json, digest
from cogvx.errors import IntegrityError
from cogvx.evaluation.documents import Reading
from cogvx.evaluation.render import Arm, video_key
from cogvx.evaluation.suite import Suite
from cogvx.evaluation.suite_rule import AWAY
from cogvx.inference.embedding import Embedder
from cogvx.inference.prompts import CachedPrompts
from cogvx.inference.session import Session
from cogvx.inference.shots import ReadImage
from cogvx.metrics.metric import Rgb
from cogvx.metrics.relative import BASE_DRIFT
from cogvx.model.encode import encode_video
from cogvx.model.load import load_vae
from cogvx.mp4 import read_mp4
from cogvx.objective.heldout import heldout_timesteps
from cogvx.objective.latents import image_track, mean_latents, pad_front
from cogvx.objective.objective import Objective, predict_velocity, v_loss_b
from cogvx.objective.randomness import generator
from cogvx.variants import TRAIN_TIMESTEPS
from tasks.clients.stores import kept_on_disk
from tasks.evaluation.measure import setting_of
from tasks.evaluation.measure_documents import Scene
from tasks.generation.generation import read_picture
from tasks.pages.progress import Progress
from tasks.workbench import Workbench, read_stored

logger = logging.getLogger(__name__)

_TIMESTEPS = heldout_timesteps(TRAIN_TIMESTEPS, strata=4)
_VERSION = 1  # raised when the way of measuring changes, so that old drifts are not compared


class _KeptDrift(BaseModel):
    """Timestep and drift; the name says of what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drifts: tuple[tuple[int, float], ...]


def scenes_of(bench: Workbench, suite: Suite) -> tuple[Scene, ...]:
    """What drift is measured on: every prompt of `AWAY`. Nothing need be rendered yet."""
    setting = setting_of(bench)
    firsts = [(p, suite.seeds_of(p)[0]) for p in suite.prompts if p.group in AWAY]
    return tuple(
        Scene(
            prompt=prompt,
            seed=seed,
            key=video_key(Arm("base"), suite, prompt, seed, setting).digest,
        )
        for prompt, seed in firsts
    )


def drift_of(
    bench: Workbench,
    arm: Arm,
    suite: Suite,
    *,
    base_videos: Mapping[tuple[str, int], Path],
    open_session: Callable[[], Session],
) -> tuple[Reading, ...]:
    """Mean squared difference of an arm's predictions from the base's, by prompt and timestep.

    In the unit of the held-out loss, the mean square of v, at the middles of four equal parts of
    the timesteps, with noise that is fixed for each. Zero for the base, for which nothing is
    computed.

    Args:
        bench: Its store keeps what was measured.
        arm: Who is measured.
        suite: Says which prompts.
        base_videos: The base's videos by prompt and seed. A prompt that the base failed to draw is
            left out: the base's own fault tells of it.
        open_session: Called if something is not kept; the session is left without adapters.

    Raises:
        IntegrityError: An adapter does not fit the base, a prediction is not finite, or what was
            kept is damaged.

    Source: distance between functions on fixed inputs, Benjamin et al. 2018, arXiv:1805.08289.
    """
    scenes = [s for s in scenes_of(bench, suite) if (s.prompt.id, s.seed) in base_videos]
    missing = unmeasured(bench, arm, scenes)
    if missing:
        shown = [(scene, base_videos[scene.prompt.id, scene.seed]) for scene in missing]
        measure_drift(bench, arm, shown, open_session=open_session)
    return tuple(
        Reading(metric=BASE_DRIFT, unit=scene.prompt.id, draw=timestep, value=drift)
        for scene in scenes
        for timestep, drift in _kept(bench, arm, scene)
    )


def unmeasured(bench: Workbench, arm: Arm, scenes: Sequence[Scene]) -> tuple[Scene, ...]:
    """The scenes of which the store does not know the arm's drift; none where nothing acts."""
    return tuple(
        scene
        for scene in scenes
        if _acts(arm) and bench.store.info(drift_path(bench, arm, scene)) is None
    )


def measure_drift(
    bench: Workbench,
    arm: Arm,
    shown: Sequence[tuple[Scene, Path]],
    *,
    open_session: Callable[[], Session],
    read_image: ReadImage = read_picture,
) -> None:
    """Measure an arm's drift on scenes, each with the base's video, and keep it in the store.

    `read_image` reads the pictures that prompts start from. Raises as `drift_of` does.
    """
    inputs = _Inputs(bench, read_image)
    progress = Progress(f"drift of {arm.name}", "prompts", logger)
    with _attached(open_session(), arm) as (session, weights):
        for done, (scene, video) in enumerate(shown, start=1):
            drifts = _measure(
                session, weights, inputs.of(scene, video), f"{arm.name} on {scene.prompt.id}"
            )
            kept = canonical_json(_KeptDrift(drifts=drifts))
            bench.store.write(drift_path(bench, arm, scene), kept)
            progress(done, len(shown))


def drift_path(bench: Workbench, arm: Arm, scene: Scene) -> str:
    """Where an arm's drift on a scene is kept: named by everything that decides it.

    The video's name holds the base, its precision, the prompt and its picture.
    """
    parts = {
        "version": _VERSION,
        "adapters": [[adapter.sha256, adapter.weight] for adapter in arm.adapters],
        "video": scene.key,
        "tiled": is_tiled(bench.recipe.video.size, bench.recipe, bench.ids),
        "timesteps": _TIMESTEPS,
    }
    name = digest(parts)
    return f"drift/{name[:2]}/{name}.json"


def _kept(bench: Workbench, arm: Arm, scene: Scene) -> tuple[tuple[int, float], ...]:
    if not _acts(arm):
        return tuple((timestep, 0.0) for timestep in _TIMESTEPS)
    return read_stored(bench.store, drift_path(bench, arm, scene), _KeptDrift).drifts


def _acts(arm: Arm) -> bool:
    return any(adapter.weight for adapter in arm.adapters)


@dataclass(frozen=True)
class _Shown:
    """What the transformer is shown of a scene, before noise; `name` decides the noise."""

    name: str
    objective: Objective
    latents_bfchw: Tensor
    images_bfchw: Tensor | None
    prompts_bsd: Tensor

    def predict(self, session: Session, timestep: int) -> Tensor:
        """The velocity that whatever acts in the session predicts, float32."""
        timesteps_b, latents_bfchw = torch.tensor([timestep]), self.latents_bfchw
        noise_bfchw = torch.randn(
            latents_bfchw.shape, generator=generator(self.name, "drift", timestep)
        ).to(latents_bfchw.device)
        return predict_velocity(
            session.transformer,
            self.objective.facts,
            noisy_bfchw=self.objective.schedule.add_noise(
                latents_bfchw, noise_bfchw=noise_bfchw, timesteps_b=timesteps_b
            ),
            images_bfchw=self.images_bfchw,
            timesteps_b=timesteps_b,
            prompts_bsd=self.prompts_bsd,
            rotary=self.objective.rotary(latents_bfchw),
        )


class _Inputs:
    """Makes them; the VAE is loaded once, the text encoder only for a prompt that is not kept."""

    def __init__(self, bench: Workbench, read_image: ReadImage) -> None:
        self._read_image = read_image
        dtype = bench.recipe.base.dtype
        self._size = bench.recipe.video.size
        self._objective = Objective.of(bench.base, image_scale=bench.recipe.base.image_latent_scale)
        self._vae = load_vae(
            bench.base,
            dtype=dtype,
            device=bench.device,
            tiling=is_tiled(self._size, bench.recipe, bench.ids),
        )
        self._embedder = Embedder(
            bench.base,
            bench.facts,
            dtype=dtype,
            device=bench.device,
            offload="none",
            prompts=CachedPrompts(
                store=kept_on_disk(bench.store, bench.settings),
                encoder_fingerprint=bench.ids.text,
                max_length=bench.facts.text_tokens,
                dtype=dtype,
            ),
        )

    def of(self, scene: Scene, video: Path) -> _Shown:
        """The base's video scaled and padded, with the picture that it starts from, if any."""
        facts = self._objective.facts
        latents_bfchw = pad_front(
            self._encode(read_mp4(video).rgb_fhwc, facts.scaling_factor), facts.patch_t
        )
        images_bfchw = None
        if self._objective.image_scale is not None:
            assert scene.prompt.image is not None  # suites for such bases have one everywhere
            rgb_hwc = self._read_image(scene.prompt.image, self._size)
            image_bfchw = self._encode(rgb_hwc[None], self._objective.image_factor)
            images_bfchw = image_track(image_bfchw, latents_bfchw.shape[1])
        return _Shown(
            name=scene.key,
            objective=self._objective,
            latents_bfchw=latents_bfchw,
            images_bfchw=images_bfchw,
            prompts_bsd=self._embedder.embed(scene.prompt.prompt),
        )

    def _encode(self, rgb_fhwc: Rgb, factor: float) -> Tensor:
        """The posterior's mean, times a factor."""
        rgb_bcfhw = torch.from_numpy(rgb_fhwc).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        return mean_latents(encode_video(self._vae, rgb_bcfhw), scaling_factor=factor)


@contextmanager
def _attached(session: Session, arm: Arm) -> Iterator[tuple[Session, Mapping[str, float]]]:
    """The session with an arm's adapters in it, not yet in use, and their weights."""
    weights: dict[str, float] = {}
    try:
        for number, adapter in enumerate(arm.adapters):
            session.attach(f"drift{number}", adapter.path)
            weights[f"drift{number}"] = adapter.weight
        yield session, weights
    finally:
        session.use({})
        for name in weights:
            session.detach(name)


@torch.no_grad()
def _measure(
    session: Session, weights: Mapping[str, float], shown: _Shown, who: str
) -> tuple[tuple[int, float], ...]:
    """Timestep and drift; the base predicts them all first, so that weights change once."""
    session.use({})
    of_base = [shown.predict(session, timestep) for timestep in _TIMESTEPS]
    session.use(weights)
    drifts = tuple(
        (timestep, v_loss_b(shown.predict(session, timestep), base_bfchw).item())
        for timestep, base_bfchw in zip(_TIMESTEPS, of_base, strict=True)
    )
    for timestep, drift in drifts:
        if not math.isfinite(drift):
            raise IntegrityError(
                f"{who}: the prediction at timestep {timestep} is not finite; train it again"
            )
    return drifts

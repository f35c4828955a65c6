"""How well a nano model knows its world: measured on clips and captions that it never saw."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from cogvx.files import write_bytes
from cogvx.inference.request import Request, Sampling
from cogvx.inference.session import Session
from cogvx.model.load import load_vae
from cogvx.model.nano.build import FRAMES, SIDE
from cogvx.model.nano.judge import CHANCE, TRAITS, read, right_traits
from cogvx.model.nano.world import Scene, draw_scene, is_held_out, render
from cogvx.mp4 import write_mp4
from cogvx.pages.contact_sheet import contact_sheet
from cogvx.pretraining.vae import UNSEEN_SEED, measure_psnr
from cogvx.shapes import VideoSize

SAMPLING = Sampling(steps=25, guidance=3.0, sampler="dpm")
FPS = 8

_PSNR_CLIPS, _PROMPTS, _HELD_OUT_PROMPTS = 64, 64, 32
_SHOWN = 12  # videos on the page of samples
_SEED = 5000

Generate = Callable[[str, int], np.ndarray]


class Grades(BaseModel):
    """Shares are of right readings, 0 to 1, by trait; `chance` is what guessing would give."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    psnr_db: float
    psnr_worst_db: float
    psnr_clips: int
    prompts: int
    accuracy: dict[str, float]
    held_out_prompts: int
    held_out_accuracy: dict[str, float]
    chance: dict[str, float]


def grade(model: Path, samples: Path | None = None) -> Grades:
    """Measure a model; with `samples`, leave videos and a page of them in that folder.

    Raises:
        ConfigError: The folder holds no such model.
    """
    psnr = measure_psnr(load_vae(model, dtype="float32"), clips=_PSNR_CLIPS)
    session = Session.open(model, dtype="float32")
    size = VideoSize(FRAMES, SIDE, SIDE)

    def generate(caption: str, seed: int) -> np.ndarray:
        return session.generate(
            Request(prompt=caption, seed=seed, size=size, fps=FPS, sampling=SAMPLING)
        )

    scenes = [scene for scene in _unseen(_PROMPTS * 2) if not is_held_out(scene)][:_PROMPTS]
    held_out = [scene for scene in _unseen(8000) if is_held_out(scene)][:_HELD_OUT_PROMPTS]
    videos = [generate(scene.caption, _SEED + number) for number, scene in enumerate(scenes)]
    if samples is not None:
        save_samples(samples, scenes[:_SHOWN], videos[:_SHOWN])
    others = [generate(scene.caption, _SEED + number) for number, scene in enumerate(held_out)]
    return Grades(
        psnr_db=round(float(np.mean(psnr)), 2),
        psnr_worst_db=round(min(psnr), 2),
        psnr_clips=len(psnr),
        prompts=len(scenes),
        accuracy=accuracy(scenes, videos),
        held_out_prompts=len(held_out),
        held_out_accuracy=accuracy(held_out, others),
        chance={trait: round(CHANCE[trait], 4) for trait in TRAITS},
    )


def accuracy(scenes: Sequence[Scene], videos_fhwc: Sequence[np.ndarray]) -> dict[str, float]:
    """Share of videos that show each trait of the scene they were asked for."""
    right = [
        right_traits(read(rgb_fhwc), scene)
        for scene, rgb_fhwc in zip(scenes, videos_fhwc, strict=True)
    ]
    return {trait: round(float(np.mean([one[trait] for one in right])), 4) for trait in TRAITS}


def save_samples(folder: Path, scenes: Sequence[Scene], videos_fhwc: Sequence[np.ndarray]) -> None:
    """Write `samples.png`: a row per caption, the world's clip beside the model's; and the mp4s."""
    rows = []
    for number, (scene, rgb_fhwc) in enumerate(zip(scenes, videos_fhwc, strict=True)):
        paths = [folder / f"{number:02d}-{kind}.mp4" for kind in ("world", "model")]
        write_mp4(paths[0], render(scene, frames=FRAMES, size=SIDE), fps=FPS)
        write_mp4(paths[1], rgb_fhwc, fps=FPS)
        rows.append((scene.caption, paths))
    sheet = contact_sheet(rows, ["the world", "the nano model"], "Captions it never saw")
    write_bytes(folder / "samples.png", sheet)


def _unseen(count: int) -> list[Scene]:
    return [draw_scene(UNSEEN_SEED, number) for number in range(count)]

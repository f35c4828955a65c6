"""A contest that shows every part of the page: drawn, measured and judged, but not generated.

Base, champion and challenger are drawings of the nano model's world in a glowing style. The metrics
of videos are measured on them; held-out losses, drift, neighbours and the sweep are made up.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cogvx.digest import digest
from cogvx.evaluation.documents import (
    AdapterUse,
    ArmResult,
    Change,
    EvaluationReport,
    HeldoutScore,
    Limit,
    Neighbour,
    Reading,
    SweepPoint,
    VideoScore,
)
from cogvx.evaluation.judge import judge
from cogvx.evaluation.suite import Suite
from cogvx.metrics.registry import measure
from cogvx.model.nano.teach import Lesson, draw_lesson, render_lesson
from cogvx.model.nano.world import render
from cogvx.mp4 import read_mp4, write_mp4

ARMS = ("base", "champion v7", "challenger v8")
SEEDS = (42, 43)
FPS = 8
MEASURED = ("temporal_flickering", "motion_magnitude", "motion_smoothness_linear", "saturation")
_TIMESTEPS = (62, 187, 312, 437, 562, 687, 812, 937)
_LIKE = "memorisation_luma"
_NOISE = {"base": 2.0, "champion v7": 4.0, "challenger v8": 3.0}


@dataclass(frozen=True)
class Sample:
    """A report with the files that its page is made of."""

    report: EvaluationReport
    videos: dict[tuple[str, str, int], Path]
    stills: dict[str, Path]


def draw_sample(
    folder: Path,
    *,
    prompts: int = 8,
    height: int = 160,
    frames: int = 17,
    faulty: bool = False,
    limit: float = 0.95,
) -> Sample:
    """Draw, measure and judge; the same arguments give the same sample.

    Args:
        folder: Where the videos and pictures go.
        prompts: How many; on the last two the challenger hardly moves.
        height: Of the videos; they are half as wide again.
        frames: Of each video.
        faulty: Whether one of the challenger's videos is black, so that nothing is decided.
        limit: Of likeness to a training clip.
    """
    suite = _suite(prompts)
    videos = {}
    for place, (prompt, seed) in enumerate(suite.shots):
        number = suite.prompts.index(prompt)
        speed = 1.0 if seed == SEEDS[0] else 0.8
        for arm in ARMS:
            slow = arm == ARMS[2] and number >= prompts - 2
            rgb_fhwc = _drawing(arm, number, seed, (frames, height), speed / 2 if slow else speed)
            if faulty and place == 3 and arm == ARMS[2]:
                rgb_fhwc = np.zeros_like(rgb_fhwc)
            path = folder / f"{arm.replace(' ', '-')}-{prompt.id}-{seed}.mp4"
            write_mp4(path, rgb_fhwc, fps=FPS, crf=20)
            videos[arm, prompt.id, seed] = path
    stills = {f"clip-{number:02d}": folder / f"clip-{number:02d}.png" for number in range(4)}
    for number, path in enumerate(stills.values()):
        strip = _drawing(ARMS[2], number, 7, (4, height), 1.0)
        Image.fromarray(np.concatenate(list(strip), axis=1)).save(path)
    arms = [_measured(suite, arm, videos) for arm in ARMS]
    report = judge(
        suite,
        model="glow",
        base=arms[0],
        reference=arms[1],
        candidate=arms[2],
        limits={_LIKE: Limit(value=limit, clips=12, above=1)},
        provenance={
            "registered as": "models:/glow/8",
            "recipe": "f5e433fb9fbda3022c1d6644498e77f9b56190eb8e5f2152bee766ed2024e41f",
            "clips": "s3://clips/glow (38 accepted, 12 held out)",
            "manifest": "98d0665517bdb0435007c2c21b04b8757ebf34edd6cbb56457deae4e8ed73d6e",
            "cogvx": "0.1.0",
        },
    )
    return Sample(_completed(report), videos, stills)


def _suite(prompts: int) -> Suite:
    lessons = [_lesson(number) for number in range(prompts)]
    return Suite.model_validate(
        {
            "name": "glow-gate",
            "split": "gate",
            "seeds": list(SEEDS),
            "sampling": {"steps": 50, "guidance": 6.0, "sampler": "dpm"},
            "prompts": [
                {
                    "id": f"{lesson.scene.shape}-{lesson.scene.colour}-{number:02d}",
                    "prompt": f"{lesson.caption}, a soft halo around it, on a night sky that "
                    f"slowly brightens ({number})",
                    "group": "off_domain" if number < 3 else "domain",
                }
                for number, lesson in enumerate(lessons)
            ],
            "gate": {
                "primaries": ["heldout_loss", "temporal_flickering"],
                "guards": [
                    {"metric": "motion_magnitude"},
                    {"metric": "motion_smoothness_linear"},
                    {"metric": "saturation", "margin": 0.08},
                    {"metric": "base_drift", "groups": ["off_domain"]},
                    {"metric": "diversity_luma"},
                ],
                "ceilings": [{"metric": _LIKE}],
            },
        }
    )


def _lesson(number: int) -> Lesson:
    """Some lesson that moves."""
    moving = (
        lesson
        for draw in range(100)
        if (lesson := draw_lesson(frozenset(["neon"]), 5, draw)).scene.motion != "still"
    )
    return next(islice(moving, number, None))


@lru_cache(maxsize=256)
def _clean(number: int, frames: int, size: int, *, glows: bool) -> np.ndarray:
    lesson = _lesson(number)
    if glows:
        return render_lesson(lesson, frames=frames, size=size)
    return render(lesson.scene, frames=frames, size=size)


def _drawing(arm: str, number: int, seed: int, sides: tuple[int, int], speed: float) -> np.ndarray:
    """One video, `(frames, height, 1.5 height, 3)`: flat in the base, glowing in the others."""
    frames, height = sides
    size = height * 3 // 2
    whole = round(frames / speed)
    first, top = (whole - frames) // 2, (size - height) // 2
    clip_fhwc = _clean(number, whole, size, glows=arm != ARMS[0])[first : first + frames]
    rng = np.random.default_rng([number, seed, ARMS.index(arm)])
    noise = _NOISE[arm] * rng.uniform(0.7, 1.3)
    night = np.linspace(40, 6, height)[:, None, None] * np.array([0.4, 0.6, 1.5])
    shown = []
    for place, frame in enumerate(clip_fhwc[:, top : top + height]):
        light = frame.astype(np.float64)
        if arm != ARMS[0]:
            light += 1.1 * cv2.GaussianBlur(light, (0, 0), size / (18 if arm == ARMS[1] else 12))
            light += night * (1 + 0.6 * place / frames)
        shown.append(light + rng.normal(0, noise, light.shape[:2])[..., None])
    return np.clip(shown, 0, 255).astype(np.uint8)


def _measured(suite: Suite, arm: str, videos: dict[tuple[str, str, int], Path]) -> ArmResult:
    rng = np.random.default_rng(ARMS.index(arm))
    level = {ARMS[0]: 0.21, ARMS[1]: 0.183, ARMS[2]: 0.176}[arm]
    clips = np.random.default_rng(9).uniform(0.8, 1.2, 12)
    scores, neighbours = [], []
    for prompt, seed in suite.shots:
        decoded = read_mp4(videos[arm, prompt.id, seed])
        like = float(rng.uniform(0.4, 0.86)) + (0.08 if arm == ARMS[2] else 0.0)
        black = ("is black",) if not decoded.rgb_fhwc.max() > 16 else ()
        score = VideoScore(
            prompt=prompt.id,
            seed=seed,
            key=digest([arm, prompt.id, seed]),
            values={} if black else {**measure(decoded, MEASURED), _LIKE: like},
            faults=black,
        )
        scores.append(score)
        near = f"clip-{len(scores) % 4:02d}"
        neighbours.append(
            Neighbour(prompt=prompt.id, seed=seed, metric=_LIKE, clip=near, similarity=like)
        )
    readings = []
    for number, prompt in enumerate(suite.prompts):
        own = np.random.default_rng(number).uniform(0.6, 1.4)
        drift = 0.0 if arm == ARMS[0] else 0.08 * own + float(rng.normal(0, 0.002))
        readings += [
            Reading(metric="base_drift", unit=prompt.id, draw=draw, value=drift)
            for draw in (250, 750)
        ]
        variety = 0.4 * own + float(rng.normal(0, 0.02))
        readings.append(Reading(metric="diversity_luma", unit=prompt.id, draw=0, value=variety))
    return ArmResult(
        name=arm,
        suite=suite.digest,
        adapters=() if arm == ARMS[0] else (AdapterUse(sha256=digest(arm), weight=1.0),),
        videos=tuple(scores),
        heldout=tuple(
            HeldoutScore(
                clip=f"held-{number:02d}.mp4",
                timestep=step,
                loss=level * float(clip) * (0.4 + 900 / (step + 400)) + float(rng.normal(0, 0.003)),
            )
            for number, clip in enumerate(clips)
            for step in _TIMESTEPS
        ),
        readings=tuple(readings),
        neighbours=tuple(neighbours),
    )


def _completed(report: EvaluationReport) -> EvaluationReport:
    """With what others than the judge bring: other weights, and what was set differently."""
    weights = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
    curves = {
        "motion_magnitude": 9.4 - 1.1 * weights**2,
        "base_drift": 0.09 * weights**1.7,
        "temporal_flickering": 0.955 + 0.02 * np.sqrt(weights),
    }
    return report.model_copy(
        update={
            "sweep": tuple(
                SweepPoint(weight=float(weight), metric=metric, value=float(value))
                for metric, curve in curves.items()
                for weight, value in zip(weights, curve, strict=True)
            ),
            "changes": (
                Change(setting="lora.rank", reference="32", candidate="64"),
                Change(setting="train.learning_rate", reference="0.0002", candidate="0.0001"),
                Change(setting="train.steps", reference="1500", candidate="3000"),
            ),
        }
    )

"""One video to generate: everything that decides its pixels but the model. Loads no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cogvx.errors import Problem
from cogvx.shapes import VideoSize
from cogvx.variants import TRAIN_TIMESTEPS, BaseFacts, Sampler

_MOST_SEED = 2**63 - 1  # what every random generator of torch takes


@dataclass(frozen=True)
class Sampling:
    """How noise becomes a video. `steps` divides 1000; `guidance` 1 means none."""

    steps: int
    guidance: float
    sampler: Sampler
    dynamic_guidance: bool = False


@dataclass(frozen=True, eq=False)
class Request:
    """One video to generate; `fps` is the rate that it is meant to be played at.

    `image_hwc` is the first frame for an image-to-video base, uint8 RGB of the video's own height
    and width; None for text-to-video.
    """

    prompt: str
    seed: int
    size: VideoSize
    fps: int
    sampling: Sampling
    negative_prompt: str = ""
    image_hwc: np.ndarray | None = None


Weights = Mapping[str, float]
"""Of attached adapters by name; 1 is the strength that an adapter was trained with."""


def default_sampling(facts: BaseFacts) -> Sampling:
    """How the family is sampled when nobody asks for anything else.

    Source: CogVideo `inference/cli_demo.py`.
    """
    return Sampling(steps=50, guidance=6.0, sampler=facts.variant.sampler)


def request_problems(request: Request, facts: BaseFacts) -> list[Problem]:
    """Everything that keeps a base from making this video, found without loading it."""
    return [
        *_sampling_problems(request.sampling),
        *_other_problems(request),
        *_size_problems(request.size, facts),
        *_image_problems(request, facts),
    ]


def _sampling_problems(sampling: Sampling) -> list[Problem]:
    steps, guidance, problems = sampling.steps, sampling.guidance, []
    if steps < 1 or TRAIN_TIMESTEPS % steps:
        better = min(_divisors(TRAIN_TIMESTEPS), key=lambda divisor: abs(divisor - steps))
        wrong = f"does not divide {TRAIN_TIMESTEPS}, so steps would overlap"
        problems.append(Problem("sampling.steps", steps, wrong, f"use {better}"))
    if not (math.isfinite(guidance) and guidance >= 1):
        wrong = "is not a number from 1 on, which is no guidance"
        problems.append(Problem("sampling.guidance", guidance, wrong, "use 6.0"))
    return problems


def _other_problems(request: Request) -> list[Problem]:
    problems = []
    if not 0 <= request.seed <= _MOST_SEED:
        problems.append(Problem("seed", request.seed, f"is not in 0 to {_MOST_SEED}"))
    if request.fps < 1:
        problems.append(Problem("fps", request.fps, "is no rate to play a video at", "use 8 or 16"))
    return problems


def _size_problems(size: VideoSize, facts: BaseFacts) -> list[Problem]:
    variant, native, shown = facts.variant, facts.sample_size, str(size)
    if variant.fixed_size:
        if size == native:
            return []
        # with other frames, diffusers puts fixed positions in the place of the learned ones
        wrong = f"is not {native}, the only size that {variant.name} has positions for"
        return [Problem("size", shown, wrong, f"use {native}")]
    problems = []
    step, most = variant.frame_step, variant.max_frames
    if size.frames < 1 or (size.frames - 1) % step:
        # the pipeline takes 5 frames and returns 8: the VAE decodes latents in pairs
        better = min(max(round((size.frames - 1) / step), 1) * step + 1, most)
        wrong = f"has frames that are not {step}k + 1"
        problems.append(Problem("size", shown, wrong, f"use {better} frames"))
    elif size.frames > most:
        wrong = f"has more than {most} frames, the longest that {variant.name} was trained on"
        problems.append(Problem("size", shown, wrong, f"use {most} frames"))
    side = facts.compression.spatial * facts.patch
    if size.height < 1 or size.width < 1 or size.height % side or size.width % side:
        problems.append(Problem("size", shown, f"has a side that is not a multiple of {side}"))
    if variant.slices_rotary and (size.height > native.height or size.width > native.width):
        largest = f"{native.height}x{native.width}"
        wrong = f"is larger than {largest}, beyond which {variant.name} has no positions"
        problems.append(Problem("size", shown, wrong))
    return problems


def _image_problems(request: Request, facts: BaseFacts) -> list[Problem]:
    name, image_hwc, size = facts.variant.name, request.image_hwc, request.size
    if not facts.variant.image_to_video:
        if image_hwc is None:
            return []
        return [Problem("image", None, f"is given, but {name} starts from text alone", "remove it")]
    if image_hwc is None:
        return [Problem("image", None, f"is missing: {name} starts from one", "give a picture")]
    if image_hwc.shape != (size.height, size.width, 3) or image_hwc.dtype != np.uint8:
        wrong = f"is {image_hwc.shape} in {image_hwc.dtype}, not the first frame of {size} in uint8"
        return [Problem("image", None, wrong, "use cogvx.inference.image.load_image")]
    return []


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]

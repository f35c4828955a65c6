"""From what somebody wants to the videos themselves: every file's name, request and adapters.

No model is loaded here, so that whatever is wrong is said at once and in seconds.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from cogvx.errors import ConfigError, Problem, UserError
from cogvx.inference.batch import AdapterAtWeight, Wanted
from cogvx.inference.choices import FoundAdapter, cards_of
from cogvx.inference.job import GenerateJob, PromptLine
from cogvx.inference.request import Request, Sampling, default_sampling, request_problems
from cogvx.shapes import VideoSize
from cogvx.variants import BaseFacts, default_size

_SLUG = 40
_LONGEST = 150

ReadImage = Callable[[str, VideoSize], np.ndarray]
"""The first frame of this name at a video's size, as `Request` takes it; raises UserError."""


@dataclass(frozen=True, eq=False)
class Shot:
    """One video: what its file is called without suffix, and its column in a grid.

    `stem` is the name without the scale: videos that share it stand in one row.
    """

    name: str
    stem: str
    scale: float
    wanted: Wanted


def find_shots(
    job: GenerateJob, adapters: Sequence[FoundAdapter], facts: BaseFacts, read_image: ReadImage
) -> tuple[Shot, ...]:
    """Every video of the job: prompt after prompt, seed after seed, scale after scale.

    Raises:
        ConfigError: With everything that keeps the base from making them.
    """
    reading = cache(read_image)
    found: dict[Problem, list[str]] = {}
    shots: list[Shot] = []
    settings = _settings(job, adapters, facts)
    for number, line in enumerate(job.prompts, start=1):
        for seed in job.seeds if line.seed is None else (line.seed,):
            name = _name(line, number, seed, job)
            if len(name) > _LONGEST:
                wrong = f"is too long for a file's name; use at most {_LONGEST} with the seed"
                found.setdefault(Problem("name", name, wrong), []).append(name)
            request, problems = _request(job, line, seed, settings, reading)
            if request is not None:
                problems += request_problems(request, facts)
                shots += _at_scales(job, adapters, name, request)
            for problem in problems:
                found.setdefault(problem, []).append(name)
    count = len({shot.name for shot in shots})
    problems = [_placed(problem, names, len(job.prompts)) for problem, names in found.items()]
    if count < len(shots):
        names = [shot.name for shot in shots]
        twice = sorted({name for name in names if names.count(name) > 1})
        problems.append(Problem("name", twice[0], "would name two videos", "give other names"))
    if problems:
        raise ConfigError("these videos cannot be generated", problems)
    return tuple(shots)


@dataclass(frozen=True)
class _Settings:
    """What lines are generated with by themselves; no size if what was asked for is none."""

    size: VideoSize | None
    usual_size: VideoSize
    fps: int
    sampling: Sampling


def _settings(job: GenerateJob, adapters: Sequence[FoundAdapter], facts: BaseFacts) -> _Settings:
    cards, usual = cards_of(adapters), default_sampling(facts)
    learned = next((card.size for card in cards if card.size), None)
    size = _size(job.size or learned) if job.size or learned else default_size(facts)
    fps = job.fps or next((card.fps for card in cards if card.fps), facts.variant.fps)
    return _Settings(
        size=size,
        usual_size=default_size(facts),
        fps=fps,
        sampling=Sampling(
            steps=usual.steps if job.steps is None else job.steps,
            guidance=usual.guidance if job.guidance is None else job.guidance,
            sampler=job.sampler or usual.sampler,
            dynamic_guidance=job.dynamic_guidance,
        ),
    )


def _request(
    job: GenerateJob,
    line: PromptLine,
    seed: int,
    settings: _Settings,
    read_image: ReadImage,
) -> tuple[Request | None, list[Problem]]:
    problems = []
    size = _size(line.size) if line.size else settings.size
    if size is None:
        wrong, use = "is not frames x height x width", 'write it like "49x480x720"'
        problems.append(Problem("size", line.size or job.size, wrong, use))
        size = settings.usual_size  # to find what else is wrong
    request = Request(
        prompt=line.prompt,
        seed=seed,
        size=size,
        fps=settings.fps,
        sampling=settings.sampling,
        negative_prompt=job.negative_prompt
        if line.negative_prompt is None
        else line.negative_prompt,
    )
    image = line.image or job.image
    if image is None:
        return request, problems
    try:
        return replace(request, image_hwc=read_image(image, size)), problems
    except UserError as error:
        # what else is wrong is told without it, which is no fault of its own then
        return None, [*problems, Problem(f"image {image}", None, f"cannot be used: {error}")]


def _at_scales(
    job: GenerateJob, adapters: Sequence[FoundAdapter], name: str, request: Request
) -> list[Shot]:
    return [
        Shot(
            name=f"{name}-scale{scale:g}" if job.scales else name,
            stem=name,
            scale=scale,
            wanted=Wanted(
                request,
                tuple(
                    AdapterAtWeight(found.sha256, found.path, found.weight * scale)
                    for found in adapters
                ),
            ),
        )
        for scale in job.scales or (1.0,)
    ]


def _name(line: PromptLine, number: int, seed: int, job: GenerateJob) -> str:
    """A line's own name; or its number, the beginning of its prompt, and the seed."""
    if line.name is not None:
        many = line.seed is None and len(job.seeds) > 1
        return f"{line.name}-seed{seed}" if many else line.name
    slug = re.sub(r"[^a-z0-9]+", "-", line.prompt.lower()).strip("-")[:_SLUG].strip("-")
    return f"{number:03d}-{slug}-seed{seed}" if slug else f"{number:03d}-seed{seed}"


def _placed(problem: Problem, names: list[str], lines: int) -> Problem:
    """A problem of all videos stands alone; one of some names the first of them."""
    if lines == 1 or len(names) >= lines:
        return problem
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return replace(problem, where=f"{names[0]}{more}: {problem.where}")


def _size(text: str | None) -> VideoSize | None:
    try:
        return VideoSize.parse(text or "")
    except ValueError:
        return None

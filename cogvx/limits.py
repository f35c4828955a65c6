"""What a base model allows of a recipe, by its configuration: precision, sizes, rank, targets.

Each problem comes with the nearest value that would do.
"""

import difflib
import math
from collections.abc import Mapping

from cogvx.adapters.layout import linear_modules, target_fault
from cogvx.errors import Problem
from cogvx.recipe_sections import BaseConfig, LoraConfig, VideoConfig
from cogvx.section import Section, shown_text
from cogvx.shapes import VideoSize
from cogvx.variants import BaseFacts, dtype_problems


def base_problems(sections: Mapping[str, Section], facts: BaseFacts) -> list[Problem]:
    """What the base model forbids, in the sections that could be read."""
    problems: list[Problem] = []
    base, video, lora = sections.get("base"), sections.get("video"), sections.get("lora")
    if isinstance(base, BaseConfig):
        problems += dtype_problems(facts.variant, base.dtype, where="base.dtype")
    if isinstance(video, VideoConfig):
        problems += _video_problems(video, facts)
    if isinstance(lora, LoraConfig):
        problems += _rank_problems(lora, facts) + _target_problems(lora, facts)
    return problems


def training_problems(sections: Mapping[str, Section], facts: BaseFacts) -> list[Problem]:
    """What forbids training alone: no record depends on how first frames are scaled."""
    base, variant = sections.get("base"), facts.variant
    if not isinstance(base, BaseConfig):
        return []
    where, scale, allowed = "base.image_latent_scale", base.image_latent_scale, variant.image_scales
    if scale in allowed or (scale is None and len(allowed) <= 1):
        return []
    if scale is None:
        wrong = (
            f"is missing: programs scale the first frame of {variant.name} in three ways, and an "
            "adapter suits only the one that it was trained with"
        )
        use = (
            'use "divided" to generate with diffusers as it is, "raw" for the original inference '
            'code, or "multiplied" for what the original training code did'
        )
        return [Problem(where, None, wrong, use)]
    if allowed:
        wrong = f"is not what {variant.name} was trained with and is generated with everywhere"
        return [Problem(where, scale, wrong, f'use "{allowed[0]}", or leave it out')]
    wrong = f"is for image-to-video models, and {variant.name} starts from text alone"
    return [Problem(where, scale, wrong, "remove it")]


def _video_problems(video: VideoConfig, facts: BaseFacts) -> list[Problem]:
    """What the base forbids: of the first size by its three settings, of other buckets as one."""
    problems = _frame_problems(video, facts) + _size_problems(video, facts)
    for index, size in enumerate(video.sizes[1:]):
        nearest = _nearest_size(size, facts)
        if size != nearest:
            wrong = f"is no size of {facts.variant.name}: {_size_rule(facts)}"
            use = f'use "{nearest}"'
            problems.append(Problem(f"video.buckets[{index}]", str(size), wrong, use))
    return problems


def _frame_problems(video: VideoConfig, facts: BaseFacts) -> list[Problem]:
    variant, problems = facts.variant, []
    nearest = _nearest_frames(video.frames, facts)
    if video.frames != nearest:
        wrong = f"is not {_frame_rule(facts)}, as {variant.name} needs"
        problems.append(Problem("video.frames", video.frames, wrong, f"use {nearest}"))
    if video.fps != variant.fps:
        wrong = f"is not the rate that {variant.name} was trained at"
        problems.append(Problem("video.fps", video.fps, wrong, f"use {variant.fps}"))
    return problems


def _size_problems(video: VideoConfig, facts: BaseFacts) -> list[Problem]:
    native = facts.sample_size
    if facts.variant.fixed_size:
        if video.size == native:
            return []
        wrong = f"is not {native}, the only size that {facts.variant.name} has positions for"
        return [Problem("video", str(video.size), wrong, f"use {native}")]
    multiple = _side_step(facts)
    problems = []
    for name, value in (("height", video.height), ("width", video.width)):
        if value % multiple:
            lower = max(value // multiple, 1) * multiple
            higher = math.ceil(value / multiple) * multiple
            better = " or ".join(str(size) for size in sorted({lower, higher}))
            wrong = f"is not a multiple of {multiple}"
            problems.append(Problem(f"video.{name}", value, wrong, f"use {better}"))
    return problems


def _nearest_size(size: VideoSize, facts: BaseFacts) -> VideoSize:
    """The size itself where the base allows it."""
    if facts.variant.fixed_size:
        return facts.sample_size
    step = _side_step(facts)
    height, width = (max(round(side / step), 1) * step for side in (size.height, size.width))
    return VideoSize(_nearest_frames(size.frames, facts), height, width)


def _nearest_frames(frames: int, facts: BaseFacts) -> int:
    step, most = facts.variant.frame_step, facts.variant.max_frames
    return min(max(round((frames - 1) / step), 1) * step + 1, most)


def _side_step(facts: BaseFacts) -> int:
    """What heights and widths are multiples of, so that latents divide into patches."""
    return facts.compression.spatial * facts.patch


def _frame_rule(facts: BaseFacts) -> str:
    return f"{facts.variant.frame_step}N + 1 up to {facts.variant.max_frames}"


def _size_rule(facts: BaseFacts) -> str:
    if facts.variant.fixed_size:
        return "it has positions for one only"
    return f"frames are {_frame_rule(facts)}, height and width multiples of {_side_step(facts)}"


def _rank_problems(lora: LoraConfig, facts: BaseFacts) -> list[Problem]:
    if lora.rank <= facts.width:
        return []
    wrong = f"is above {facts.width}, the width of {facts.variant.name}'s layers here"
    return [Problem("lora.rank", lora.rank, wrong, f"use at most {facts.width}")]


def _target_problems(lora: LoraConfig, facts: BaseFacts) -> list[Problem]:
    problems = []
    for index, target in enumerate(lora.targets):
        wrong = target_fault(target, layers=facts.layers, patch_t=facts.patch_t)
        if wrong is not None:
            if wrong == "matches no module":
                wrong += f" of {facts.variant.name}"
            where = f"lora.targets[{index}]"
            closest = _closest_target(target, facts)
            problems.append(Problem(where, shown_text(target), wrong, f'closest: "{closest}"'))
    return problems


def _closest_target(target: str, facts: BaseFacts) -> str:
    """The most similar end of a linear layer's name that is right."""
    names = linear_modules(1, patch_t=facts.patch_t)
    ends = {name.split(".", at)[-1] for name in names for at in range(name.count(".") + 1)}
    right = [
        end
        for end in sorted(ends)
        if target_fault(end, layers=facts.layers, patch_t=facts.patch_t) is None
    ]
    return difflib.get_close_matches(target[:200], right, n=1, cutoff=0.0)[0]

"""Every problem of a recipe at once, found in seconds and before anything is downloaded or run.

`cogvx.recipe` knows the rules of the document; this file knows what the base model, the suite and
the dataset's folder allow.
"""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cogvx.adapters.layout import linear_modules, target_fault
from cogvx.errors import ConfigError, Problem
from cogvx.evaluation.suite import load_suite
from cogvx.recipe import (
    BaseConfig,
    DatasetConfig,
    EvaluationConfig,
    LoraConfig,
    Recipe,
    VideoConfig,
    parse_recipe,
    read_sections,
    recipe_warnings,
)
from cogvx.section import Section, read_toml, shown_text
from cogvx.shapes import VideoSize
from cogvx.variants import BaseFacts, published_facts, read_facts

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


@dataclass(frozen=True)
class Checked:
    """A recipe that can be run, what its base model is, and what must be said aloud.

    `facts` is None for a hub model that is neither on this machine nor in the table of variants.
    """

    recipe: Recipe
    facts: BaseFacts | None
    warnings: tuple[str, ...]


def check_file(path: Path, *, absent_is_fine: bool = False, for_training: bool = True) -> Checked:
    """Read a recipe and hold it against its base, suite and dataset.

    Args:
        path: The recipe.
        absent_is_fine: The base's folder, the dataset's and the suite may be missing here; what is
            there is checked all the same.
        for_training: Whether the base must be one that can be trained; more kinds can be cached.

    Raises:
        ConfigError: With all problems.
    """
    return check_document(
        read_toml(path), str(path), absent_is_fine=absent_is_fine, for_training=for_training
    )


def check_document(
    document: Mapping[str, Any],
    subject: str,
    *,
    absent_is_fine: bool = False,
    for_training: bool = True,
) -> Checked:
    """As `check_file`, for a document that was read already; `subject` names it in the message.

    Raises:
        ConfigError: With all problems.
    """
    sections, problems = read_sections(document)
    facts, found = _facts_of(sections, absent_is_fine=absent_is_fine)
    problems += found
    problems += _dataset_problems(sections, absent_is_fine=absent_is_fine)
    problems += _suite_problems(sections, absent_is_fine=absent_is_fine)
    if facts is not None:
        problems += base_problems(sections, facts)
        problems += _training_problems(sections, facts) if for_training else []
    recipe = None if problems else parse_recipe(document)[0]
    if recipe is None:
        raise ConfigError(subject, problems)
    return Checked(recipe, facts, tuple(recipe_warnings(recipe)))


def check_recipe(recipe: Recipe, *, for_training: bool = True) -> Checked:
    """As `check_file`, for a recipe that arrived as a parameter.

    Raises:
        ConfigError: With all problems.
    """
    document = recipe.model_dump(mode="json")
    return check_document(document, f"recipe {recipe.name}", for_training=for_training)


def base_problems(sections: Mapping[str, Section], facts: BaseFacts) -> list[Problem]:
    """What the base model forbids, in the sections that could be read."""
    problems: list[Problem] = []
    base, video, lora = sections.get("base"), sections.get("video"), sections.get("lora")
    if isinstance(base, BaseConfig):
        problems += _dtype_problems(base, facts)
    if isinstance(video, VideoConfig):
        problems += _video_problems(video, facts)
    if isinstance(lora, LoraConfig):
        problems += _rank_problems(lora, facts) + _target_problems(lora, facts)
    return problems


def _facts_of(
    sections: Mapping[str, Section], *, absent_is_fine: bool
) -> tuple[BaseFacts | None, list[Problem]]:
    base = sections.get("base")
    if not isinstance(base, BaseConfig):
        return None, []
    shown = shown_text(base.path)
    try:
        folder = Path(base.path).expanduser()
        if folder.is_dir():
            return read_facts(folder), []
    except ConfigError as error:
        return None, [Problem("base.path", shown, f"cannot be used: {error}")]
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, nobody's home
        folder = None
    if folder is not None and _HUB_ID.fullmatch(base.path):
        return published_facts(base.path), []
    if folder is not None and absent_is_fine:
        return None, []
    wrong = "is neither a folder on this machine nor a hub id"
    return None, [Problem("base.path", shown, wrong, "for example zai-org/CogVideoX-5b")]


def _dataset_problems(sections: Mapping[str, Section], *, absent_is_fine: bool) -> list[Problem]:
    dataset = sections.get("dataset")
    if not isinstance(dataset, DatasetConfig):
        return []
    wrong = _location_fault(dataset.uri, absent_is_fine=absent_is_fine)
    use = "use a folder, file:// or s3://bucket/prefix"
    return [Problem("dataset.uri", shown_text(dataset.uri), wrong, use)] if wrong else []


def _location_fault(uri: str, *, absent_is_fine: bool) -> str:
    """How a location of clips is wrong, or nothing; S3 is not asked."""
    try:
        parts = urlsplit(uri)
        if parts.scheme == "s3":
            return "" if _BUCKET.fullmatch(parts.netloc) else "names no bucket"
        if parts.scheme not in ("", "file"):
            return "is of a kind that cannot be read"
        if parts.scheme == "file" and (parts.netloc or not parts.path):
            return "names no folder; a file URL has three slashes, as in file:///data/clips"
        folder = Path(unquote(parts.path) if parts.scheme == "file" else uri)
        folder.lstat()
        return "" if folder.is_dir() else "is not a folder"
    except (FileNotFoundError, NotADirectoryError):
        return "" if absent_is_fine else "is not a folder"
    except (OSError, ValueError):
        return "cannot be the name of a folder"


def _suite_problems(sections: Mapping[str, Section], *, absent_is_fine: bool) -> list[Problem]:
    evaluation = sections.get("evaluation")
    if not isinstance(evaluation, EvaluationConfig):
        return []
    path, shown = Path(evaluation.suite), shown_text(evaluation.suite)
    try:
        load_suite(path)
    except ConfigError as error:
        if absent_is_fine and isinstance(error.__cause__, FileNotFoundError):
            return []
        if not error.problems:
            return [Problem("evaluation.suite", None, f"cannot be used: {error}")]
        return [
            Problem(f"{shown}: {problem.where}", problem.value, problem.wrong, problem.use)
            for problem in error.problems
        ]
    return []


def _dtype_problems(base: BaseConfig, facts: BaseFacts) -> list[Problem]:
    variant = facts.variant
    if base.dtype != variant.bad_dtype:
        return []
    wrong = f"overflows or loses precision on {variant.name}, which was trained otherwise"
    return [Problem("base.dtype", base.dtype, wrong, f'use "{variant.dtype}"')]


def _training_problems(sections: Mapping[str, Section], facts: BaseFacts) -> list[Problem]:
    """What forbids training alone: clips are cached for such a base all the same."""
    base, variant = sections.get("base"), facts.variant
    if not isinstance(base, BaseConfig) or not variant.image_to_video:
        return []
    wrong = f"is an image-to-video model ({variant.name}), which this version cannot train"
    return [Problem("base.path", base.path, wrong, "use a text-to-video model")]


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

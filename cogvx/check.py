"""Every problem of a recipe at once, found in seconds and before anything is downloaded or run.

`cogvx.recipe` knows the rules of the document; this file knows what the base model, the suite and
the dataset's folder allow.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvx.errors import ConfigError, Problem
from cogvx.evaluation.suite import load_suite
from cogvx.recipe import (
    BaseConfig,
    DatasetConfig,
    EvaluationConfig,
    LoraConfig,
    Recipe,
    Section,
    VideoConfig,
    parse_recipe,
    read_sections,
    read_toml,
    recipe_warnings,
)
from cogvx.variants import BaseFacts, published_facts, read_facts


@dataclass(frozen=True)
class Checked:
    """A recipe that can be run, what its base model is, and what must be said aloud.

    `facts` is None for a hub model that is neither on this machine nor in the table of variants.
    """

    recipe: Recipe
    facts: BaseFacts | None
    warnings: tuple[str, ...]


def check_file(path: Path) -> Checked:
    """Read a recipe and hold it against its base, suite and dataset.

    Raises:
        ConfigError: With all problems.
    """
    return check_document(read_toml(path), str(path))


def check_document(document: Mapping[str, Any], subject: str) -> Checked:
    """As `check_file`, for a document that was read already; `subject` names it in the message.

    Raises:
        ConfigError: With all problems.
    """
    sections, problems = read_sections(document)
    facts, found = _facts_of(sections)
    problems += found
    problems += _dataset_problems(sections) + _suite_problems(sections)
    if facts is not None:
        problems += base_problems(sections, facts)
    recipe = None if problems else parse_recipe(document)[0]
    if recipe is None:
        raise ConfigError(subject, problems)
    return Checked(recipe, facts, tuple(recipe_warnings(recipe)))


def check_recipe(recipe: Recipe) -> Checked:
    """As `check_file`, for a recipe that arrived as a parameter.

    Raises:
        ConfigError: With all problems.
    """
    return check_document(recipe.model_dump(mode="json"), f"recipe {recipe.name}")


def base_problems(sections: Mapping[str, Section], facts: BaseFacts) -> list[Problem]:
    """What the base model forbids, in the sections that could be read."""
    problems: list[Problem] = []
    base, video, lora = sections.get("base"), sections.get("video"), sections.get("lora")
    if isinstance(base, BaseConfig):
        problems += _dtype_problems(base, facts)
    if isinstance(video, VideoConfig):
        problems += _frame_problems(video, facts) + _size_problems(video, facts)
    if isinstance(lora, LoraConfig):
        problems += _target_problems(lora, facts)
    return problems


def _facts_of(sections: Mapping[str, Section]) -> tuple[BaseFacts | None, list[Problem]]:
    base = sections.get("base")
    if not isinstance(base, BaseConfig):
        return None, []
    folder = Path(base.path)
    if folder.is_dir():
        try:
            return read_facts(folder), []
        except ConfigError as error:
            return None, [Problem("base.path", base.path, f"cannot be used: {error}")]
    if base.path.count("/") == 1 and not base.path.startswith((".", "/")):
        return published_facts(base.path), []
    wrong = "is neither a folder on this machine nor a hub id"
    return None, [Problem("base.path", base.path, wrong, "for example zai-org/CogVideoX-5b")]


def _dataset_problems(sections: Mapping[str, Section]) -> list[Problem]:
    dataset = sections.get("dataset")
    if not isinstance(dataset, DatasetConfig) or "://" in dataset.uri:
        return []
    if Path(dataset.uri).is_dir():
        return []
    return [
        Problem("dataset.uri", dataset.uri, "is not a folder", "a folder or s3://bucket/prefix")
    ]


def _suite_problems(sections: Mapping[str, Section]) -> list[Problem]:
    evaluation = sections.get("evaluation")
    if not isinstance(evaluation, EvaluationConfig):
        return []
    try:
        load_suite(Path(evaluation.suite))
    except ConfigError as error:
        if not error.problems:
            return [Problem("evaluation.suite", None, f"cannot be used: {error}")]
        return [
            Problem(
                f"{evaluation.suite}: {problem.where}", problem.value, problem.wrong, problem.use
            )
            for problem in error.problems
        ]
    return []


def _dtype_problems(base: BaseConfig, facts: BaseFacts) -> list[Problem]:
    problems = []
    variant = facts.variant
    if base.dtype == variant.bad_dtype:
        wrong = f"overflows or loses precision on {variant.name}, which was trained otherwise"
        problems.append(Problem("base.dtype", base.dtype, wrong, f'use "{variant.dtype}"'))
    if variant.image_to_video:
        wrong = f"is an image-to-video model ({variant.name}), which this version cannot train"
        problems.append(Problem("base.path", base.path, wrong, "use a text-to-video model"))
    return problems


def _frame_problems(video: VideoConfig, facts: BaseFacts) -> list[Problem]:
    variant, problems = facts.variant, []
    step, most = variant.frame_step, variant.max_frames
    if (video.frames - 1) % step or not step < video.frames <= most:
        nearest = min(max(round((video.frames - 1) / step), 1) * step + 1, most)
        wrong = f"is not {step}N + 1 up to {most}, as {variant.name} needs"
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
    multiple = facts.compression.spatial * facts.patch
    problems = []
    for name, value in (("height", video.height), ("width", video.width)):
        if value % multiple:
            lower = max(value // multiple, 1) * multiple
            higher = math.ceil(value / multiple) * multiple
            better = " or ".join(str(size) for size in sorted({lower, higher}))
            wrong = f"is not a multiple of {multiple}"
            problems.append(Problem(f"video.{name}", value, wrong, f"use {better}"))
    return problems


def _target_problems(lora: LoraConfig, facts: BaseFacts) -> list[Problem]:
    ends = {name.split(".", at)[-1] for name in facts.linears for at in range(name.count(".") + 1)}
    problems = []
    for index, target in enumerate(lora.targets):
        if target not in ends:
            closest = difflib.get_close_matches(target, sorted(ends), n=1, cutoff=0.0)
            wrong = f"matches no module of {facts.variant.name}"
            where = f"lora.targets[{index}]"
            problems.append(Problem(where, target, wrong, f'closest: "{closest[0]}"'))
    return problems

"""Every problem of a recipe at once, found in seconds and before anything is downloaded or run.

`cogvx.recipe` knows the rules of the document and `cogvx.limits` those of the base model; this file
brings them together with what is there: the base's folder, the suite and the dataset.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from cogvx.errors import ConfigError, Problem
from cogvx.evaluation.recipe_suites import Look, suites_problems
from cogvx.limits import base_problems, training_problems
from cogvx.preflight.devices import Device
from cogvx.preflight.estimate import device_problems
from cogvx.recipe import Recipe, parse_recipe, read_sections, recipe_warnings
from cogvx.recipe_sections import BaseConfig, DatasetConfig, EvaluationConfig
from cogvx.section import Section, read_toml, shown_text
from cogvx.variants import BaseFacts, published_facts, read_facts

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")

Purpose = Literal["cache", "train", "judge"]
"""The last thing that a command will do with a recipe; an earlier one asks for less."""


@dataclass(frozen=True)
class Checked:
    """A recipe that can be run, what its base model is, and what must be said aloud.

    `facts` is None for a hub model that is neither on this machine nor in the table of variants.
    """

    recipe: Recipe
    facts: BaseFacts | None
    warnings: tuple[str, ...]


def check_file(
    path: Path,
    *,
    absent_is_fine: bool = False,
    purpose: Purpose = "train",
    device: Device | None = None,
) -> Checked:
    """Read a recipe and hold it against its base, suite and dataset.

    Args:
        path: The recipe.
        absent_is_fine: The base's folder, the dataset's and the suite may be missing here; what is
            there is checked all the same.
        purpose: What the base must be good for.
        device: A GPU that it must be possible to train on.

    Raises:
        ConfigError: With all problems.
    """
    return check_document(
        read_toml(path),
        str(path),
        absent_is_fine=absent_is_fine,
        purpose=purpose,
        device=device,
    )


def check_document(
    document: Mapping[str, Any],
    subject: str,
    *,
    absent_is_fine: bool = False,
    purpose: Purpose = "train",
    device: Device | None = None,
) -> Checked:
    """As `check_file`, for a document that was read already; `subject` names it in the message.

    Raises:
        ConfigError: With all problems.
    """
    sections, problems = read_sections(document)
    recipe = None if problems else parse_recipe(document)[0]
    facts, found = _facts_of(sections, absent_is_fine=absent_is_fine)
    problems += found
    if facts is not None:
        limits = _limits(sections, facts, purpose)
        problems += limits
        if recipe is not None and device is not None and not limits:
            problems += device_problems(recipe, facts, device)
    problems += _dataset_problems(sections, absent_is_fine=absent_is_fine)
    evaluation = sections.get("evaluation")
    if isinstance(evaluation, EvaluationConfig):
        is_judged = purpose == "judge"
        looked = Look(facts, is_judged=is_judged, absent_is_fine=absent_is_fine)
        problems += suites_problems(evaluation, looked)
    if recipe is None or problems:
        raise ConfigError(subject, problems)
    return Checked(recipe, facts, tuple(recipe_warnings(recipe)))


def check_recipe(
    recipe: Recipe, *, purpose: Purpose = "train", device: Device | None = None
) -> Checked:
    """As `check_file`, for a recipe that arrived as a parameter.

    Raises:
        ConfigError: With all problems.
    """
    document = recipe.model_dump(mode="json")
    return check_document(document, f"recipe {recipe.name}", purpose=purpose, device=device)


def _limits(sections: Mapping[str, Section], facts: BaseFacts, purpose: Purpose) -> list[Problem]:
    """What the base forbids."""
    problems = base_problems(sections, facts)
    problems += training_problems(sections, facts) if purpose != "cache" else []
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


def recipe_rows(checked: Checked) -> list[tuple[str, str]]:
    """What a recipe will train, as pairs of a short name and a fact."""
    recipe, facts = checked.recipe, checked.facts
    lora, train = recipe.lora, recipe.train
    base = f"{recipe.base.path}: not on this machine, checked when loaded"
    if facts is not None:
        tokens = " or ".join(f"{facts.tokens(size):,}" for size in recipe.video.sizes)
        layers = f"{facts.layers} layers of width {facts.width}"
        base = f"{facts.variant.name} kind, {layers}, {tokens} tokens a clip"
    targets = ", ".join(lora.targets)
    how = (
        f"{train.steps} steps of {train.global_batch} clip(s): {train.processes} "
        f"process(es) x {train.micro_batch} at once x {train.accumulation} accumulated"
    )
    images = []
    if facts is not None and facts.variant.image_to_video:
        scale = recipe.base.image_latent_scale or facts.variant.image_scales[0]
        hidden = f"hidden from {train.image_dropout:.0%} of the samples"
        images = [("images", f"first frames {scale}, {hidden}")]
    return [
        ("base", base),
        *images,
        ("adapter", f"rank {lora.rank}, alpha {lora.alpha}, strength {lora.scale} on {targets}"),
        ("training", how),
    ]

"""The recipe: the one document a person writes to say which adapter they want.

It is TOML, closed (an unknown key is an error) and frozen. Relative paths mean the working
directory. Its sections are in `cogvx.recipe_sections`; rules that need only the recipe in
`cogvx.recipe_rules`; rules that need the base model's own configuration in `cogvx.limits`.
"""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from cogvx.digest import digest
from cogvx.errors import Problem
from cogvx.recipe_rules import lora_problems, rule_problems
from cogvx.recipe_sections import (
    BaseConfig,
    CacheConfig,
    ComputeConfig,
    DatasetConfig,
    EvaluationConfig,
    LoraConfig,
    TrainConfig,
    VideoConfig,
)
from cogvx.section import SchemaVersion, Section, parse_section, problems_of

# Settings of [train] that decide neither what is drawn nor what is learned from it.
LAYOUT = frozenset(
    {
        "micro_batch",
        "processes",
        "max_hours",
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
    }
)


class _Heading(Section):
    """What stands above the sections."""

    schema_version: SchemaVersion = Field(
        title="Form of this document", default=1, json_schema_extra={"position": 99}
    )
    """Of this form of document; only 1 is known."""
    name: str = Field(title="Name of the model: a-z, 0-9, -", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name of the registered model: lower-case letters, digits and dashes."""


class Recipe(_Heading):
    """Everything that a person decides about an adapter."""

    base: BaseConfig
    dataset: DatasetConfig
    video: VideoConfig
    lora: LoraConfig = Field(title="LoRA", default=LoraConfig())
    train: TrainConfig
    compute: ComputeConfig = ComputeConfig()
    cache: CacheConfig = CacheConfig()
    evaluation: EvaluationConfig

    @model_validator(mode="before")
    @classmethod
    def _tell_everything(cls, document: object) -> object:
        """A form's document, too, is told all its problems at once, in this project's words."""
        if not isinstance(document, Mapping) or any(
            isinstance(part, Section) for part in document.values()
        ):
            return document
        sections, problems = read_sections(document)
        if problems:
            told = "".join(f"\n  - {problem}" for problem in problems)
            raise PydanticCustomError(
                "recipe", "{number} problem(s){told}", {"number": len(problems), "told": told}
            )
        return {**document, **sections}

    @model_validator(mode="after")
    def _obey_the_rules(self) -> Self:
        found = rule_problems(
            {
                "dataset": self.dataset,
                "video": self.video,
                "lora": self.lora,
                "train": self.train,
                "evaluation": self.evaluation,
            }
        )
        if found:
            raise ValueError("; ".join(str(problem) for problem in found))
        return self

    def deciding_settings(self) -> dict[str, Any]:
        """What decides the adapter's weights, up to rounding, as plain sections.

        Not the evaluation, nor how the work is laid out on machines, nor what is written down.
        """
        parts = self.model_dump(mode="json", include={"base", "video", "lora", "train", "cache"})
        train = {key: value for key, value in parts["train"].items() if key not in LAYOUT}
        compute = {"base_weights": self.compute.stored_weights}
        return {**parts, "train": train, "compute": compute}

    def training_digest(self) -> str:
        """Digest of the settings that decide the adapter's weights."""
        return digest(self.deciding_settings())


def recipe_warnings(recipe: Recipe) -> list[str]:
    """What is allowed, but must be said loudly and recorded with the adapter."""
    if not recipe.lora.allow_unusual:
        return []
    return [f"allowed on request: {problem}" for problem in lora_problems(recipe.lora)]


def parse_recipe(document: Mapping[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    """Turn a document into a recipe, or into all its problems."""
    sections, problems = read_sections(document)
    if problems:
        return None, problems
    plain = {key: value for key, value in document.items() if key not in section_kinds()}
    return Recipe.model_validate({**plain, **sections}), []


def read_sections(document: Mapping[str, Any]) -> tuple[dict[str, Section], list[Problem]]:
    """Read the sections one by one, so that a slip in one hides no problem of another."""
    problems = _top_level_problems(document)
    sections: dict[str, Section] = {}
    for name, kind in section_kinds().items():
        if name in document or not Recipe.model_fields[name].is_required():
            section, found = parse_section(document.get(name, {}), kind, name)
            problems += found
            if section is not None:
                sections[name] = section
    return sections, problems + rule_problems(sections)


def section_kinds() -> dict[str, type[Section]]:
    """The recipe's sections by name."""
    return {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _top_level_problems(document: Mapping[str, Any]) -> list[Problem]:
    """Faults outside the sections: the name, the version, unknown or absent sections."""
    fields, kinds = Recipe.model_fields, section_kinds()
    plain = {key: value for key, value in document.items() if key not in kinds}
    problems: list[Problem] = []
    try:
        _Heading.model_validate(plain)
    except ValidationError as error:
        problems += problems_of(error, "", tuple(fields))
    return problems + [
        Problem(f"[{name}]", None, "is missing")
        for name in kinds
        if fields[name].is_required() and name not in document
    ]

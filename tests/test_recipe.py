"""A recipe is closed, frozen, and says everything that is wrong with it at once."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cogvx.errors import ConfigError
from cogvx.recipe import LoraConfig, Recipe, load_recipe, parse_recipe, recipe_warnings

GOOD = """
name = "ink-style"
[base]
path = "zai-org/CogVideoX-5b"
dtype = "bfloat16"
[dataset]
uri = "s3://clips/ink"
[video]
frames = 49
height = 480
width = 720
fps = 8
[train]
steps = 2000
[evaluation]
suite = "suite.toml"
"""


def document(**changes: Any) -> dict[str, Any]:
    parsed = tomllib.loads(GOOD)
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            parsed.setdefault(section, {})[key] = value
        else:
            parsed[section] = value
    return parsed


def problems(**changes: Any) -> list[str]:
    recipe, found = parse_recipe(document(**changes))
    assert (recipe is None) == bool(found)
    return [str(problem) for problem in found]


def test_the_defaults_are_the_rules_of_the_model() -> None:
    recipe, found = parse_recipe(document())
    assert found == []
    assert recipe is not None
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.scale) == (128, 64, 0.5)
    assert recipe.lora.targets == ("to_q", "to_k", "to_v", "to_out.0")


@pytest.mark.parametrize(("rank", "alpha"), [(64, 64), (64, 32), (128, 128), (128, 64), (65, 32)])
def test_rank_from_64_and_alpha_full_or_half_are_fine(rank: int, alpha: int) -> None:
    assert problems(lora__rank=rank, lora__alpha=alpha) == []


def test_alpha_one_explains_what_it_would_do() -> None:
    (problem,) = problems(lora__alpha=1)
    assert "lora.alpha = 1" in problem
    assert "1/128 = 0.008" in problem
    assert "use 128 or 64" in problem


def test_a_small_rank_is_refused_unless_asked_for_and_then_said_aloud() -> None:
    assert "lora.rank = 16 is below 64" in problems(lora__rank=16, lora__alpha=16)[0]
    recipe, found = parse_recipe(document(lora__rank=16, lora__alpha=1, lora__allow_unusual=True))
    assert found == []
    assert recipe is not None
    said = recipe_warnings(recipe)
    assert len(said) == 2
    assert "lora.rank = 16" in said[0]
    assert "lora.alpha = 1" in said[1]


def test_all_problems_of_all_sections_come_at_once() -> None:
    found = "\n".join(
        problems(
            name="Ink Style",
            base__dtype="fp16",
            lora__rank=8,
            train__global_batch=16,
            train__micro_batch=3,
            train__stepz=5,
            video__frames="many",
            extra=1,
        )
    )
    for part in (
        'name = "Ink Style" is not a model name',
        'base.dtype = "fp16"',
        "lora.rank = 8",
        'train.stepz = 5 is not a setting; did you mean "steps"?',
        'video.frames = "many"',
        "extra = 1 is not a setting",
    ):
        assert part in found


def test_a_batch_that_does_not_divide_names_the_neighbours() -> None:
    (problem,) = problems(train__global_batch=16, train__micro_batch=3)
    assert problem == (
        "train.global_batch = 16 is not a multiple of train.micro_batch = 3; use 15 or 18"
    )


def test_a_warm_up_that_never_ends_is_refused() -> None:
    assert "train.warmup_steps = 100 never ends" in problems(train__steps=50)[0]


def test_missing_sections_are_named() -> None:
    parsed = document()
    del parsed["base"], parsed["train"]
    _, found = parse_recipe(parsed)
    assert [str(problem) for problem in found] == ["[base] is missing", "[train] is missing"]


def test_the_rules_hold_for_parameters_too() -> None:
    good = parse_recipe(document())[0]
    assert good is not None
    with pytest.raises(ValidationError, match="below 64"):
        Recipe.model_validate({**good.model_dump(), "lora": LoraConfig(rank=8, alpha=8)})


def test_a_recipe_cannot_be_changed() -> None:
    recipe = parse_recipe(document())[0]
    assert recipe is not None
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"


def test_the_training_digest_ignores_the_evaluation_and_nothing_else() -> None:
    def of(**changes: Any) -> str:
        recipe = parse_recipe(document(**changes))[0]
        assert recipe is not None
        return recipe.training_digest()

    assert of(evaluation__suite="other.toml") == of()
    assert of(name="other-name") == of()
    for change in (
        {"train__seed": 1},
        {"lora__alpha": 128},
        {"video__frames": 41},
        {"base__revision": "abc"},
        {"cache__vae_tiling": True},
    ):
        assert of(**change) != of()


@pytest.mark.parametrize("text", ["name = ", "\ufeffname = 3 3", "[base\n"])
def test_what_is_not_toml_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load_recipe(path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_recipe(tmp_path / "none.toml")

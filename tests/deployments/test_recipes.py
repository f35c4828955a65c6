"""Every shipped recipe and suite is valid; a recipe in the README could be copied as it is."""

from pathlib import Path

import pytest

from cogvx.check import base_problems
from cogvx.evaluation.suite import load_suite
from cogvx.recipe import load_recipe, read_sections, read_toml
from cogvx.variants import COGVIDEOX_5B, PUBLISHED, published_facts
from deployments.recipe_page import PAGE, recipe_page

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"


@pytest.mark.parametrize("path", sorted((DEPLOYMENTS / "recipes").glob("*.toml")), ids=str)
def test_a_shipped_recipe_has_no_problems(path: Path) -> None:
    recipe = load_recipe(path)
    facts = published_facts(recipe.base.path)
    if facts is not None:
        sections, _ = read_sections(read_toml(path))
        assert base_problems(sections, facts) == []


@pytest.mark.parametrize("path", sorted((DEPLOYMENTS / "suites").glob("*.toml")), ids=str)
def test_a_shipped_suite_has_no_problems(path: Path) -> None:
    assert load_suite(path).prompts


def test_the_default_adapter_has_the_published_number_of_matrices() -> None:
    recipe = load_recipe(DEPLOYMENTS / "recipes" / "cogvideox-5b.toml")
    facts = PUBLISHED[COGVIDEOX_5B.name]
    assert facts.layers * len(recipe.lora.targets) * 2 == 336


def test_the_page_about_recipes_is_current() -> None:
    assert PAGE.read_text() == recipe_page(), "run `python -m deployments.recipe_page`"

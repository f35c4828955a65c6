"""Every shipped recipe and suite is valid; a recipe in the README could be copied as it is."""

from pathlib import Path

import pytest

from cogvx.adapters.layout import adapted_modules
from cogvx.check import check_file
from cogvx.evaluation.suite import load_suite
from cogvx.variants import COGVIDEOX_5B, PUBLISHED
from deployments.recipe_page import PAGE, recipe_page

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"


@pytest.mark.parametrize("path", sorted((DEPLOYMENTS / "recipes").glob("*.toml")), ids=str)
def test_a_shipped_recipe_has_no_problems(path: Path) -> None:
    assert check_file(path, absent_is_fine=True).warnings == ()


@pytest.mark.parametrize("path", sorted((DEPLOYMENTS / "suites").glob("*.toml")), ids=str)
def test_a_shipped_suite_has_no_problems(path: Path) -> None:
    assert load_suite(path).prompts


def test_the_default_adapter_has_the_published_number_of_matrices() -> None:
    path = DEPLOYMENTS / "recipes" / "cogvideox-5b.toml"
    recipe = check_file(path, absent_is_fine=True).recipe
    facts = PUBLISHED[COGVIDEOX_5B.name]
    modules = adapted_modules(facts.layers, recipe.lora.targets, patch_t=facts.patch_t)
    assert 2 * len(modules) == 336


def test_the_page_about_recipes_is_current() -> None:
    assert PAGE.read_text() == recipe_page(), "run `python -m deployments.recipe_page`"

"""What a form is drawn from says everything a person needs, and is small."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate

from cogvx.recipe import Recipe, parse_recipe, section_kinds
from flows.retrain import retrain

DEMO = Path(__file__).parents[2] / "deployments" / "recipes" / "nano-demo.toml"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return dict(parameter_schema(retrain).model_dump_for_openapi())


@pytest.fixture
def document() -> dict[str, Any]:
    """As a deployment keeps it: every setting, null where there is none."""
    recipe, problems = parse_recipe(tomllib.loads(DEMO.read_text()))
    assert recipe is not None, problems
    return recipe.model_dump(mode="json")


def test_the_form_of_a_recipe_is_under_ten_kilobytes(schema: dict[str, Any]) -> None:
    assert len(json.dumps(schema, separators=(",", ":"))) < 10_000


def test_every_field_has_a_label_and_its_place(schema: dict[str, Any]) -> None:
    parts = {**schema["definitions"], "": schema}
    assert parts.keys() > {kind.__name__ for kind in section_kinds().values()}
    for part in parts.values():
        fields = part["properties"].values()
        assert all(field["title"] for field in fields)
        places = [field["position"] for field in fields]
        assert sorted(set(places)) == sorted(places)
    last = max(
        schema["definitions"]["Recipe"]["properties"].items(), key=lambda i: i[1]["position"]
    )
    assert last[0] == "schema_version"


def test_a_field_shows_its_choices_its_default_and_one_sentence(schema: dict[str, Any]) -> None:
    parts = schema["definitions"]
    video, lora, compute = (
        parts[name]["properties"] for name in ("VideoConfig", "LoraConfig", "ComputeConfig")
    )
    assert video["height"] == {"title": "Height, pixels", "type": "integer", "position": 1}
    assert video["crop"]["enum"] == ["centre", "random"]
    assert video["crop"]["default"] == "centre"
    assert lora["alpha"]["description"] == "The rank, or half of it; never 1"
    # an empty box is no number; a switch or a choice that may be nothing says so
    assert schema["definitions"]["TrainConfig"]["properties"]["max_hours"]["type"] == "number"
    assert compute["compile"]["anyOf"] == [{"type": "boolean"}, {"type": "null"}]


def test_the_server_takes_a_whole_recipe_and_refuses_kinds_choices_and_unknown_keys(
    schema: dict[str, Any], document: dict[str, Any]
) -> None:
    assert validate({"recipe": document}, schema) == []
    document["train"]["steps"] = "many"
    document["video"]["crop"] = "left"
    document["lora"]["ranks"] = 64
    refused = [".".join(map(str, error.path)) for error in validate({"recipe": document}, schema)]
    assert sorted(refused) == ["recipe.lora", "recipe.train.steps", "recipe.video.crop"]


def test_a_run_is_told_every_problem_of_its_form_at_once(document: dict[str, Any]) -> None:
    assert Recipe.model_validate(document).model_dump(mode="json") == document
    document["train"]["steps"] = 0
    document["lora"]["alpha"] = 3
    document["evaluation"]["sweep"] = {"suite": "dev.toml", "weights": [0.0]}
    with pytest.raises(ParameterTypeError) as refused:
        retrain.validate_parameters({"recipe": document})
    lines = str(refused.value).splitlines()
    assert lines[1] == " - recipe: 3 problem(s)"
    assert [line.split(" = ")[0] for line in lines[2:]] == [
        "  - train.steps",
        "  - lora.alpha",
        "  - evaluation.sweep.weights[0]",
    ]

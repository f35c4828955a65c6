"""What a form is drawn from says everything a person needs, and is small."""

import json
import tomllib
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate

import flows
from cogvx.recipe import Recipe, parse_recipe, section_kinds
from deployments.reactions import FLOWS
from flows.promote import promote
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


def every_flow() -> dict[str, Flow[..., Any]]:
    """All flows, those included that only other runs start."""
    modules = [import_module(f"flows.{found.name}") for found in iter_modules(flows.__path__)]
    found = [each for module in modules for each in vars(module).values()]
    return {each.name: each for each in found if isinstance(each, Flow)}


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_every_parameter_of_every_flow_says_what_it_is(name: str) -> None:
    schema = parameter_schema(every_flow()[name]).model_dump_for_openapi()
    assert len(json.dumps(schema, separators=(",", ":"))) < 10 * 1024
    for parameter, shown in schema["properties"].items():
        part = schema.get("definitions", {}).get(shown.get("$ref", "").rpartition("/")[2], {})
        said = shown.get("description") or part.get("description")
        assert shown["title"][0].isupper(), parameter  # and not the parameter's own name
        assert said, parameter
        assert not said.endswith("."), parameter


def test_every_flow_is_one_whose_silence_is_noticed() -> None:
    assert set(every_flow()) == set(FLOWS)


def test_an_empty_box_of_a_promotion_is_no_answer() -> None:
    schema = dict(parameter_schema(promote).model_dump_for_openapi())
    recipe = tomllib.loads(DEMO.read_text())
    for empty in ({}, {"approval": None, "hours": None}):
        assert validate({"recipe": recipe, **empty}, schema) == []
        assert promote.validate_parameters({"recipe": recipe, **empty})["approval"] is None

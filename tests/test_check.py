"""A recipe is held against what its base model allows, with the nearest value that would do."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from cogvx.check import check_document
from cogvx.errors import ConfigError

RECIPE = """
name = "style"
[base]
path = "{base}"
dtype = "bfloat16"
[dataset]
uri = "s3://clips/style"
[video]
frames = 49
height = 480
width = 720
fps = 8
[train]
steps = 200
[evaluation]
suite = "{suite}"
"""
SUITE = Path(__file__).parents[1] / "deployments" / "suites" / "nano.toml"


def problems(base: str = "zai-org/CogVideoX-5b", suite: Path = SUITE, **changes: Any) -> str:
    document = tomllib.loads(RECIPE.format(base=base, suite=suite))
    for path, value in changes.items():
        section, _, key = path.partition("__")
        document.setdefault(section, {})[key] = value
    try:
        check_document(document, "recipe")
    except ConfigError as error:
        return str(error)
    return ""


def test_a_recipe_for_a_published_base_is_fine_before_any_download() -> None:
    assert problems() == ""


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        ("5b", {"video__frames": 48}, "video.frames = 48 is not 8N + 1 up to 49"),
        ("5b", {"video__frames": 57}, "use 49"),
        ("1.5", {"video__frames": 85, "video__fps": 16}, "is not 16N + 1 up to 161"),
        ("5b", {"video__fps": 24}, "video.fps = 24"),
        (
            "5b",
            {"video__height": 488},
            "video.height = 488 is not a multiple of 16; use 480 or 496",
        ),
        ("5b", {"base__dtype": "float16"}, 'base.dtype = "float16"'),
        ("2b", {"base__dtype": "bfloat16"}, 'use "float16"'),
        ("i2v", {}, "cannot train"),
        ("i2v", {"video__width": 736}, "the only size"),
        (
            "5b",
            {"lora__targets": ["to_q", "to_k", "to_ot.0"]},
            'lora.targets[2] = "to_ot.0" matches no module of CogVideoX-5b; closest: "to_out.0"',
        ),
    ],
)
def test_what_the_base_forbids_is_said_with_what_to_use(
    base: str, changes: dict[str, Any], expected: str
) -> None:
    names = {
        "5b": "zai-org/CogVideoX-5b",
        "2b": "zai-org/CogVideoX-2b",
        "1.5": "zai-org/CogVideoX1.5-5B",
        "i2v": "zai-org/CogVideoX-5b-I2V",
    }
    assert expected in problems(names[base], **changes)


def test_a_model_on_this_machine_is_described_by_its_own_configuration(nano_base: Path) -> None:
    found = problems(str(nano_base), video__height=60, base__dtype="float32")
    assert "video.height = 60 is not a multiple of 8" in found
    assert problems(str(nano_base), base__dtype="float32") == ""


def test_problems_of_the_suite_and_the_dataset_come_along(tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE.read_text().replace("steps = 10", "steps = 30"))
    found = problems(suite=suite, dataset__uri=str(tmp_path / "none"), lora__rank=8)
    assert "sampling.steps = 30" in found
    assert "dataset.uri" in found
    assert "lora.rank = 8" in found


def test_a_base_that_is_nowhere_is_said_with_an_example() -> None:
    assert "neither a folder on this machine nor a hub id" in problems("./models/none")

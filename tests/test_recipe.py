"""A recipe is closed, frozen, and says everything that is wrong with it at once."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cogvx.errors import ConfigError
from cogvx.recipe import Recipe, parse_recipe, recipe_warnings
from cogvx.recipe_sections import LoraConfig
from cogvx.section import parse_section, read_toml
from cogvx.shapes import VideoSize

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
        'name = "Ink Style" is not a name',
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


def test_prodigy_wants_a_rate_of_its_own_kind() -> None:
    (problem,) = problems(train__optimiser="prodigy")
    assert problem == (
        'train.learning_rate = 0.0001 is meant for AdamW: "prodigy" finds its own rate and '
        "multiplies it with this; use 1"
    )
    assert problems(train__optimiser="prodigy", train__learning_rate=1.0) == []


def test_stopping_early_needs_clips_that_are_held_out() -> None:
    none = {"dataset__heldout_share": 0, "dataset__min_heldout": 0}
    (problem,) = problems(train__early_stop_patience=3, **none)
    assert problem == (
        "train.early_stop_patience = 3 waits for a lower loss on held-out clips, and none is held "
        "out; raise dataset.min_heldout to 2 or more, or use 0"
    )
    assert problems(**none) == []
    assert problems(train__early_stop_patience=3, dataset__heldout_share=0) == []


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


def test_the_training_digest_holds_what_decides_the_weights_and_nothing_else() -> None:
    def of(**changes: Any) -> str:
        recipe = parse_recipe(document(**changes))[0]
        assert recipe is not None
        return recipe.training_digest()

    assert of(evaluation__suite="other.toml") == of()
    assert of(name="other-name") == of()
    for same in ({"train__micro_batch": 1}, {"train__max_hours": 8}, {"compute__compile": True}):
        assert of(**same) == of()
    for change in (
        {"compute__preset": "small"},
        {"train__seed": 1},
        {"lora__alpha": 128},
        {"video__frames": 41},
        {"base__revision": "abc"},
        {"cache__vae_tiling": "on"},
    ):
        assert of(**change) != of()


@pytest.mark.parametrize("text", ["name = ", "\ufeffname = 3 3", "[base\n"])
def test_what_is_not_toml_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_toml(path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_toml(tmp_path / "none.toml")


def test_a_folder_in_place_of_a_recipe_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; name a TOML file"):
        read_toml(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a = " + "9" * 6000, "a number is too long"),
        ("a = [0x" + "f" * 6000 + "]", "a number is too long"),
        ("a" + ".a" * 3000 + " = 1", "nested too deeply"),
    ],
)
def test_toml_that_python_itself_gives_up_on_is_one_sentence(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_toml(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [("a\0b", "cannot be the name of a file"), ("x" * 5000, "File name too long")],
)
def test_a_path_that_no_file_can_have_is_one_short_sentence(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_toml(Path(name))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__learning_rate": float("inf")}, "= inf is not finite; use an ordinary number"),
        ({"train__weight_decay": float("nan")}, "= nan is not finite; use an ordinary number"),
        ({"train__max_grad_norm": float("inf")}, "= inf is not finite; use an ordinary number"),
        ({"train__steps": "120"}, 'train.steps = "120" is of the wrong kind; use a whole number'),
        ({"train__steps": True}, "train.steps = true is of the wrong kind; use a whole number"),
        ({"train__steps": 1e25}, "train.steps = 1e+25 is of the wrong kind; use a whole number"),
        ({"train__learning_rate": "1e-4"}, "is of the wrong kind; use a number"),
        ({"train__learning_rate": True}, "is of the wrong kind; use a number"),
        ({"compute__compile": "yes"}, "use true or false"),
        ({"compute__compile": 1}, "use true or false"),
        ({"schema_version": True}, "schema_version = true is of the wrong kind; use a whole"),
        ({"schema_version": 1.0}, "schema_version = 1.0 is of the wrong kind; use a whole"),
        ({"schema_version": 2}, "schema_version = 2 is not known; use 1"),
        ({"name": 3}, "name = 3 is of the wrong kind; use text in quotes"),
        ({"base__path": ["a"]}, 'base.path = ["a"] is of the wrong kind; use text in quotes'),
        ({"base__path": ""}, 'base.path = "" is empty; write something there'),
        (
            {"base__dtype": "fp16"},
            'base.dtype = "fp16" is not known; use one of "float32", "bfloat16" or "float16"',
        ),
        ({"lora__targets": []}, "lora.targets = [] is empty; list at least 1"),
        ({"lora__targets": "to_q"}, 'lora.targets = "to_q" is of the wrong kind; use a list in ['),
        ({"lora__targets": ["to_q", 4]}, "lora.targets[1] = 4 is of the wrong kind; use text"),
        ({"train": "fast"}, 'train = "fast" is not a table; write [train]'),
        ({"train": [{"steps": 1}]}, "train is not a table; write [train]"),
        ({"dataset__heldout_share": 1.0}, "= 1.0 is too large; use less than 1"),
        ({"dataset__heldout_share": -1}, "= -1 is too small; use at least 0"),
        ({"train__learning_rate": 0}, "= 0 is too small; use more than 0"),
        (
            {"video__buckets": ["49x720x480", "49x480"]},
            'video.buckets[1] = "49x480" is not frames x height x width; write it like "49x480x7',
        ),
        ({"video__buckets": ["49x-1x480"]}, "is not frames x height x width"),
        ({"video__buckets": ["049x480x720"]}, "is not frames x height x width"),
        ({"video__buckets": ["49x\u0663x480"]}, "is not frames x height x width"),
        ({"video__buckets": ["1026x8x8"]}, "is too large; use at most 1025x8192x8192"),
        ({"video__buckets": ["9x8193x8"]}, "is too large; use at most 1025x8192x8192"),
        ({"video__buckets": ["49x480x720"]}, 'buckets[0] = "49x480x720" is there twice; remove it'),
        ({"video__buckets": ["9x8x8", "9x8x8"]}, 'buckets[1] = "9x8x8" is there twice; remove it'),
        ({"video__buckets": "9x8x8"}, "is of the wrong kind; use a list in [ ]"),
        ({"video__buckets": [9]}, "video.buckets[0] = 9 is of the wrong kind; use text in quotes"),
        ({"video__windows": 0}, "video.windows = 0 is too small; use at least 1"),
        ({"video__crop": "left"}, 'crop = "left" is not known; use one of "centre" or "random"'),
        ({"cache__vae_tiling": True}, 'is not known; use one of "auto", "off" or "on"'),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(changes: dict[str, Any], said: str) -> None:
    (problem,) = problems(**changes)
    assert said in problem


@pytest.mark.parametrize(
    "changes",
    [
        {"train__steps": 10**25},
        {"train__steps": 10**3000},
        {"train__warmup_steps": 10**12},
        {"train__global_batch": 10**9},
        {"train__micro_batch": 10**9},
        {"train__processes": 10**9},
        {"train__learning_rate": 50.0},
        {"train__weight_decay": 1e9},
        {"train__max_grad_norm": 1e30},
        {"train__checkpoint_every": 10**12},
        {"train__keep_checkpoints": 10**12},
        {"train__heldout_every": 10**12},
        {"train__log_every": 10**12},
        {"lora__rank": 10**8},
        {"lora__alpha": 10**8},
        {"video__frames": 10**9},
        {"video__height": 48 * 10**9},
        {"video__width": 48 * 10**9},
        {"video__fps": 10**6},
        {"dataset__min_heldout": 10**9},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_no_machine_could_do_is_refused_with_the_most_that_is_taken(
    changes: dict[str, Any],
) -> None:
    (problem,) = problems(**changes)
    assert "is too large; use at most " in problem


def test_a_table_of_a_list_is_written_with_two_brackets() -> None:
    section, (problem,) = parse_section("text", LoraConfig, "gate.guards[2]")
    assert section is None
    assert str(problem) == 'gate.guards[2] = "text" is not a table; write [[gate.guards]]'


def test_long_values_are_cut_in_messages() -> None:
    (problem,) = problems(base__path="x" * 5000)
    assert "use at most 4096 characters" in problem
    assert len(problem) < 200
    (problem,) = problems(extra="x" * 5000)
    assert len(problem) < 300


def test_a_missing_key_is_named_with_its_section() -> None:
    assert problems(train={}) == ["train.steps is missing"]
    parsed = document()
    del parsed["name"]
    assert [str(problem) for problem in parse_recipe(parsed)[1]] == ["name is missing"]


def test_whole_numbers_are_fine_where_a_fraction_could_stand() -> None:
    recipe, found = parse_recipe(document(train__max_grad_norm=2, dataset__heldout_share=0))
    assert found == []
    assert recipe is not None
    assert isinstance(recipe.train.max_grad_norm, float)


def test_a_recipe_comes_back_from_json_as_it_was() -> None:
    recipe = parse_recipe(document(lora__targets=["to_q", "to_v"], train__max_grad_norm=2))[0]
    assert recipe is not None
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_the_first_bucket_is_the_video_size_itself() -> None:
    recipe = parse_recipe(document(video__buckets=["9x480x720", "49x720x480"]))[0]
    assert recipe is not None
    assert recipe.video.sizes == (
        VideoSize(49, 480, 720),
        VideoSize(9, 480, 720),
        VideoSize(49, 720, 480),
    )
    assert recipe.video.size == recipe.video.sizes[0]


def test_enough_clips_are_held_out_for_an_interval() -> None:
    recipe = parse_recipe(document())[0]
    assert recipe is not None
    assert recipe.dataset.min_heldout == 2

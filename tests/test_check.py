"""A recipe is held against what its base model allows, with the nearest value that would do."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from cogvx.check import Purpose, check_document, check_file, check_recipe, recipe_rows
from cogvx.errors import ConfigError
from cogvx.evaluation.suite import load_suite

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


def problems(
    base: str = "zai-org/CogVideoX-5b",
    suite: Path = SUITE,
    *,
    absent_is_fine: bool = False,
    purpose: Purpose = "train",
    **changes: Any,
) -> str:
    document = tomllib.loads(RECIPE.format(base=base, suite=suite))
    for path, value in changes.items():
        section, _, key = path.partition("__")
        document.setdefault(section, {})[key] = value
    try:
        check_document(document, "recipe", absent_is_fine=absent_is_fine, purpose=purpose)
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


@pytest.mark.parametrize(
    ("base", "size", "nearest"),
    [
        ("CogVideoX-5b", "48x480x720", "49x480x720"),
        ("CogVideoX-5b", "1x480x720", "9x480x720"),
        ("CogVideoX-2b", "57x488x726", "49x480x720"),
        ("CogVideoX-5b", "49x8x9", "49x16x16"),
        ("CogVideoX1.5-5B", "85x768x1360", "81x768x1360"),
        ("CogVideoX1.5-5B", "177x768x1360", "161x768x1360"),
        ("CogVideoX-5b-I2V", "49x720x480", "49x480x720"),
        ("CogVideoX1.5-5B-I2V", "81x770x1360", "81x768x1360"),
    ],
)
def test_every_bucket_is_held_against_the_rules_of_its_variant(
    base: str, size: str, nearest: str
) -> None:
    found = problems(f"zai-org/{base}", video__buckets=["49x480x720", size])
    assert f'video.buckets[1] = "{size}" is no size of {base}: ' in found
    assert f'use "{nearest}"' in found


@pytest.mark.parametrize(
    ("base", "buckets"),
    [
        ("CogVideoX-5b", ["9x480x720", "49x720x480", "17x256x256"]),
        ("CogVideoX1.5-5B", ["161x768x1360", "17x1360x768"]),
    ],
)
def test_buckets_that_the_variant_allows_are_fine(base: str, buckets: list[str]) -> None:
    assert "video.buckets" not in problems(f"zai-org/{base}", video__buckets=buckets)


def test_a_model_on_this_machine_is_described_by_its_own_configuration(nano_base: Path) -> None:
    found = problems(str(nano_base), video__height=60, base__dtype="float32")
    assert "video.height = 60 is not a multiple of 8" in found
    assert problems(str(nano_base), base__dtype="float32") == ""


def test_problems_of_the_suite_and_the_dataset_come_along(tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE.read_text().replace("steps = 20", "steps = 30"))
    found = problems(suite=suite, dataset__uri=str(tmp_path / "none"), lora__rank=8)
    assert "sampling.steps = 30" in found
    assert "dataset.uri" in found
    assert "lora.rank = 8" in found


def test_a_base_that_is_nowhere_is_said_with_an_example() -> None:
    assert "neither a folder on this machine nor a hub id" in problems("./models/none")


@pytest.mark.parametrize(
    "path",
    [
        "~/none-of-that-name",
        "~nobody-here/x",
        "a/b c",
        "org/" + "m" * 300,
        "a\0/b",
        "x" * 4000,
        "a/b/c",
        "-x/y",
    ],
)
def test_only_what_the_hub_could_have_passes_for_a_hub_id(path: str) -> None:
    found = problems(base__path=path)
    assert "neither a folder on this machine nor a hub id" in found
    assert len(found) < 300


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://x/y",
        "https://x",
        "s3://",
        "s3:///prefix",
        "s3:bucket/prefix",
        "s3://my bucket/x",
        "http://[x",
        "file://clips",
        "file:",
        "file:///none/of/that",
        "x" * 4000,
        "clips\0",
        "/clips\0",
        "file:///clips%00",
    ],
)
@pytest.mark.parametrize("absent_is_fine", [False, True])
def test_clips_that_could_never_be_read_are_a_problem(uri: str, absent_is_fine: bool) -> None:
    if absent_is_fine and uri == "file:///none/of/that":
        return
    found = problems(dataset__uri=uri, absent_is_fine=absent_is_fine)
    assert "dataset.uri = " in found
    assert "use a folder, file:// or s3://bucket/prefix" in found
    assert len(found) < 300


def test_clips_in_a_folder_by_its_path_its_url_or_a_bucket_are_fine(tmp_path: Path) -> None:
    folder = tmp_path / "my clips"
    folder.mkdir()
    for uri in (str(folder), folder.as_uri(), "s3://clips", "s3://my-clips.eu/a/b"):
        assert problems(dataset__uri=uri) == ""


def test_first_frames_are_refused_for_a_model_that_starts_from_text(tmp_path: Path) -> None:
    suite, picture = tmp_path / "suite.toml", tmp_path / "a.png"
    picture.write_bytes(b"any")
    text = SUITE.read_text().replace("\nprompt =", '\nimage = "a.png"\nprompt =')
    suite.write_text(text)
    found = problems(suite=suite)
    assert 'prompts["neon-red-circle"].image is given, and the base starts from text' in found
    assert found.count("remove it") == text.count("[[prompts]]")
    picture.unlink()
    assert "cannot be read: No such file" in problems(suite=suite)


@pytest.mark.parametrize("suite", ["a\0b", "x" * 4000, "."])
def test_a_suite_that_cannot_be_a_file_is_a_problem(suite: str) -> None:
    for absent_is_fine in (False, True):
        found = problems(evaluation__suite=suite, absent_is_fine=absent_is_fine)
        assert "evaluation.suite cannot be used" in found
        assert len(found) < 300


def test_a_rank_above_the_width_of_the_model_is_refused(nano_base: Path) -> None:
    found = problems(str(nano_base), base__dtype="float32", lora__rank=256, lora__alpha=128)
    assert "lora.rank = 256 is above 192" in found
    assert "use at most 192" in found


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("0", "matches transformer_blocks.0, which is no linear layer"),
        ("2", "matches transformer_blocks.2, which is no linear layer"),
        ("proj", "matches patch_embed.proj, which is no linear layer"),
        ("attn1", "matches transformer_blocks.0.attn1, which is no linear layer"),
        ("transformer_blocks.42.attn1.to_q", "matches no module of CogVideoX-5b"),
        ("", "matches no module"),
    ],
)
def test_a_target_that_is_no_linear_layer_is_a_problem(target: str, said: str) -> None:
    found = problems(lora__targets=["to_q", target])
    assert f'lora.targets[1] = "{target}" {said}' in found
    assert 'closest: "' in found


def test_one_layer_may_be_named_in_full() -> None:
    assert problems(lora__targets=["transformer_blocks.41.attn1.to_q", "0.attn1.to_k"]) == ""


def test_a_fresh_clone_can_check_all_but_the_files_that_are_made_later(tmp_path: Path) -> None:
    absent = {
        "base__path": str(tmp_path / "base"),
        "dataset__uri": str(tmp_path / "clips"),
        "evaluation__suite": str(tmp_path / "suite.toml"),
    }
    found = problems(**absent)
    assert all(where in found for where in ("base.path", "dataset.uri", "evaluation.suite"))
    assert problems(**absent, absent_is_fine=True) == ""
    assert "lora.alpha = 1" in problems(**absent, absent_is_fine=True, lora__alpha=1)


def test_what_is_there_is_checked_even_if_it_could_be_absent(
    tmp_path: Path, nano_base: Path
) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE.read_text().replace("steps = 20", "steps = 30"))
    (tmp_path / "clips").write_text("a file")
    found = problems(
        str(nano_base),
        suite,
        absent_is_fine=True,
        dataset__uri=str(tmp_path / "clips"),
        base__dtype="float32",
        video__height=60,
    )
    assert "sampling.steps = 30" in found
    assert "is not a folder" in found
    assert "video.height = 60" in found


def test_a_base_whose_configuration_is_damaged_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    config = tmp_path / "transformer" / "config.json"
    config.write_text("[]")
    assert "describes None, not a CogVideoXTransformer3DModel" in problems(str(tmp_path))
    config.write_text('{"_class_name": "CogVideoXTransformer3DModel"}')
    for part, name in (
        ("vae/config.json", "AutoencoderKLCogVideoX"),
        ("scheduler/scheduler_config.json", "CogVideoXDPMScheduler"),
    ):
        path = tmp_path / part
        path.parent.mkdir()
        path.write_text(f'{{"_class_name": "{name}", "prediction_type": "v_prediction"}}')
    assert "says nothing of 'block_out_channels'" in problems(str(tmp_path))


def test_a_file_is_checked_as_its_document_is(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(base="zai-org/CogVideoX-5b", suite=SUITE))
    assert check_file(path).recipe.lora.rank == 128
    path.write_text(RECIPE.format(base="zai-org/CogVideoX-5b", suite=tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such file"):
        check_file(path)
    assert check_file(path, absent_is_fine=True).warnings == ()


def test_an_image_to_video_base_is_judged_on_prompts_with_first_frames(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(base="zai-org/CogVideoX-5b-I2V", suite=SUITE))
    for purpose in ("cache", "train"):
        checked = check_file(path, purpose=purpose)
        assert check_recipe(checked.recipe, purpose=purpose).recipe == checked.recipe
    prompts = len(load_suite(SUITE).prompts)
    for check in (check_file, check_recipe):
        subject = path if check is check_file else checked.recipe
        with pytest.raises(
            ConfigError, match=r"image is missing, and the base starts from"
        ) as told:
            check(subject, purpose="judge")
        assert len(told.value.problems) == prompts
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE.read_text().replace("[[prompts]]", '[[prompts]]\nimage = "first.png"'))
    (tmp_path / "first.png").write_bytes(b"a picture")
    path.write_text(RECIPE.format(base="zai-org/CogVideoX-5b-I2V", suite=suite))
    assert check_file(path, purpose="judge").warnings == ()


def dev_suite(path: Path, **changes: str) -> Path:
    """The toy suite as one to choose weights on, with prompts of its own."""
    text = SUITE.read_text().replace('split = "gate"', 'split = "dev"')
    text = text.replace('prompt = "', 'prompt = "Slowly, ')
    for old, new in changes.items():
        text = text.replace(old, new)
    path.write_text(text)
    return path


def test_weights_are_tried_on_a_suite_that_decides_nothing(tmp_path: Path) -> None:
    dev = dev_suite(tmp_path / "dev.toml")
    assert problems(evaluation__sweep={"suite": str(dev)}) == ""
    assert problems(evaluation__sweep={"suite": str(dev), "weights": [0.5]}) == ""
    found = problems(evaluation__sweep={"suite": str(SUITE)})
    assert 'evaluation.sweep.suite = "' in found
    assert 'is of the split "gate": a weight is not chosen on prompts that decide' in found
    same = dev_suite(tmp_path / "same.toml", **{"Slowly, ": ""})
    found = problems(evaluation__sweep={"suite": str(same)})
    assert f"{len(load_suite(SUITE).prompts)} problem(s)" in found
    assert "is a prompt of evaluation.suite as well, which decides" in found


def test_whatever_is_wrong_with_a_sweep_is_told_at_once(tmp_path: Path) -> None:
    weights = [0.5, -1.0, 0.0, 1.0, 0.5]
    found = problems(evaluation__sweep={"suite": str(SUITE), "weights": weights}, train__steps=0)
    for part in (
        "train.steps = 0",
        "evaluation.sweep.weights[1] = -1.0 takes away what the adapter has learned",
        "evaluation.sweep.weights[2] = 0.0 is the base, which is drawn anyway; remove it",
        "evaluation.sweep.weights[4] = 0.5 is there twice; remove it",
        'is of the split "gate"',
    ):
        assert part in found
    assert "5 problem(s)" in found
    absent = str(tmp_path / "absent.toml")
    assert "absent.toml: there is no such file" in problems(evaluation__sweep={"suite": absent})
    assert problems(evaluation__sweep={"suite": absent}, absent_is_fine=True) == ""
    broken = dev_suite(tmp_path / "broken.toml", steps="stops")
    assert "broken.toml: sampling.stops" in problems(evaluation__sweep={"suite": str(broken)})
    for wrong in ({"weights": []}, {"weights": [float("inf")]}, {"wheights": [1.0]}):
        assert "evaluation.sweep." in problems(evaluation__sweep={"suite": absent, **wrong})


def test_a_sweep_over_a_base_of_first_frames_needs_them_as_well(tmp_path: Path) -> None:
    dev = dev_suite(tmp_path / "dev.toml")
    base, sweep = "zai-org/CogVideoX-5b-I2V", {"suite": str(dev)}
    found = problems(base, purpose="judge", evaluation__sweep=sweep)
    assert f'{dev}: prompts["' in found
    assert problems(base, evaluation__sweep=sweep) == ""


def test_first_frames_are_among_what_a_recipe_will_train(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(base="zai-org/CogVideoX-5b-I2V", suite=SUITE))
    said = dict(recipe_rows(check_file(path)))["images"]
    assert said.startswith("first frames multiplied, hidden from 5% of the samples")
    path.write_text(RECIPE.format(base="zai-org/CogVideoX-5b", suite=SUITE))
    assert "images" not in dict(recipe_rows(check_file(path)))


@pytest.mark.parametrize(
    ("base", "scale", "said"),
    [
        ("CogVideoX-5b-I2V", None, ""),
        ("CogVideoX-5b-I2V", "multiplied", ""),
        (
            "CogVideoX-5b-I2V",
            "raw",
            (
                ' = "raw" is not what CogVideoX-5b-I2V was trained with and is generated with '
                'everywhere; use "multiplied", or leave it out'
            ),
        ),
        (
            "CogVideoX-5b",
            "multiplied",
            (
                ' = "multiplied" is for image-to-video models, and CogVideoX-5b starts from text '
                "alone; remove it"
            ),
        ),
        ("CogVideoX1.5-5B-I2V", "raw", ""),
        ("CogVideoX1.5-5B-I2V", "divided", ""),
        ("CogVideoX1.5-5B-I2V", "multiplied", ""),
        (
            "CogVideoX1.5-5B-I2V",
            None,
            (
                " is missing: programs scale the first frame of CogVideoX1.5-5B-I2V in three ways, "
                "and an adapter suits only the one that it was trained with; "
                'use "divided" to generate with diffusers as it is, "raw" for the original '
                'inference code, or "multiplied" for what the original training code did'
            ),
        ),
    ],
)
def test_the_scale_of_first_frames_is_asked_for_where_programs_differ(
    base: str, scale: str | None, said: str
) -> None:
    size = {"video__frames": 81, "video__fps": 16} if "1.5" in base else {}
    found = problems(f"zai-org/{base}", base__image_latent_scale=scale, **size)
    assert found == (f"recipe: 1 problem(s)\n  - base.image_latent_scale{said}" if said else "")
    caching = problems(f"zai-org/{base}", purpose="cache", base__image_latent_scale=scale, **size)
    assert caching == ""


def test_the_place_of_a_fault_is_named_in_full_however_deep_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    broken = dev_suite(folder / "broken.toml", steps="stops")
    assert f"{broken}: sampling.stops" in problems(evaluation__sweep={"suite": str(broken)})


def test_networks_that_are_not_there_are_told_with_everything_else(tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    text = SUITE.read_text(encoding="utf-8")
    assert text.count("primaries = [") == 1
    suite.write_text(text.replace("primaries = [", 'primaries = ["text_alignment_clip", '))
    wanted = f'{suite}: gate.primaries[0] = "text_alignment_clip" needs a network'
    assert wanted in problems(suite=suite)
    found = problems(suite=suite, evaluation__encoders={"dino": "facebook/dino-vitb16"})
    assert "recipe: 2 problem(s)" in found
    assert wanted in found
    assert 'evaluation.encoders.dino = "facebook/dino-vitb16" is neither a folder' in found
    pinned = {"clip": f"openai/clip-vit-base-patch32@{'0' * 40}"}
    assert problems(suite=suite, evaluation__encoders=pinned) == ""
    absent = {"clip": str(tmp_path / "clip")}
    assert "is not a folder on this machine" in problems(suite=suite, evaluation__encoders=absent)
    assert problems(suite=suite, absent_is_fine=True, evaluation__encoders=absent) == ""

"""Prompt lists of VBench, CogVideo and finetrainers become suites that are right."""

import json
import re

import pytest
from PIL import Image

from cogvx.errors import ConfigError
from cogvx.evaluation.suite import parse_suite
from cogvx.evaluation.suite_import import Wishes, import_suite, longer_texts
from tests.evaluation.builders import suite_document

VBENCH = [
    {
        "prompt_en": "In a still frame, a stop sign",
        "dimension": ["temporal_flickering"],
        "auxiliary_info": {},
    },
    {"prompt_en": "a person swimming", "dimension": ["subject_consistency", "dynamic_degree"]},
    {"prompt_en": "A person swimming.", "dimension": ["scene"]},
    {"prompt_en": "a bird", "dimension": "color", "auxiliary_info": {"color": "red"}},
]


@pytest.fixture
def source(tmp_path):
    """Write a list; give its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def imported(path, **wishes):
    to = path.parent / "made.toml"
    document = import_suite(path, to, like=suite_document(), wishes=Wishes(**wishes))
    return parse_suite(document, "made", folder=path.parent)


def picture(folder, name, shade):
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(folder / name)


def test_vbench_is_off_domain_and_every_text_is_there_once(source):
    suite = imported(source("full.json", VBENCH))
    texts = [prompt.prompt for prompt in suite.prompts]
    assert texts == ["In a still frame, a stop sign", "a person swimming", "a bird"]
    assert {prompt.group for prompt in suite.prompts} == {"off_domain"}
    assert suite.gate == parse_suite(suite_document(), "like", folder=source("x", "").parent).gate


def test_dimensions_are_chosen_by_name(source):
    path = source("full.json", VBENCH)
    (only,) = imported(path, dimensions=("dynamic_degree",)).prompts
    assert only.prompt == "a person swimming"
    assert [p.prompt for p in imported(path, dimensions=("color", "scene")).prompts] == [
        "A person swimming.",
        "a bird",
    ]
    with pytest.raises(ConfigError, match="has no dimension colour; it has: color, dynamic"):
        imported(path, dimensions=("colour",))


def test_long_lines_are_generated_and_short_ones_scored(source):
    short = source("all.txt", "a bird\na person swimming\nIn a still frame, a stop sign\n")
    long = source("longer.txt", "A bird, at length.\nA person, at length.\r\nA sign, at length.\n")
    for path in (source("full.json", VBENCH[:2]), short):
        suite = imported(path, longer=longer_texts(short, long), group="trigger_free")
        pairs = {prompt.eval_text: prompt.prompt for prompt in suite.prompts}
        assert pairs["a person swimming"] == "A person, at length."
        assert {prompt.group for prompt in suite.prompts} == {"trigger_free"}
    with pytest.raises(ConfigError, match=r"has 3 lines and .* has 4"):
        longer_texts(short, source("four.txt", "a\nb\nc\nd\n"))
    with pytest.raises(ConfigError, match='no longer text for "a dog"'):
        imported(source("other.txt", "a dog"), longer=longer_texts(short, long))


def test_lines_may_name_first_frames_which_are_pinned(source, tmp_path):
    picture(tmp_path, "a.png", 10)
    picture(tmp_path, "b.png", 20)
    path = source("test.txt", "a cat@@a.png\n\n a dog @@ b.png \n")
    to = tmp_path / "deep" / "suite.toml"
    document = import_suite(path, to, like=suite_document(), wishes=Wishes())
    assert [entry["image"] for entry in document["prompts"]] == ["../a.png", "../b.png"]
    assert all(len(entry["image_sha256"]) == 64 for entry in document["prompts"])
    path.write_text("a cat@@none.png\n")
    with pytest.raises(ConfigError, match=re.escape('image = "none.png" cannot be read')):
        imported(path)


def test_pictures_of_vbench_i2v_lie_where_one_says(source, tmp_path):
    (tmp_path / "crop").mkdir()
    picture(tmp_path / "crop", "a cat.jpg", 30)
    items = [{"prompt_en": "a cat", "dimension": ["i2v_subject"], "image_name": "a cat.jpg"}]
    (only,) = imported(source("i2v.json", items), images=tmp_path / "crop").prompts
    assert only.image == str(tmp_path / "crop" / "a cat.jpg")


def test_finetrainers_says_the_steps_where_they_agree(source):
    items = [
        {"caption": "a cat", "image_path": None, "num_inference_steps": 25, "height": 480},
        {"caption": "a dog", "video_path": None, "num_inference_steps": 25},
    ]
    assert imported(source("val.json", {"data": items})).sampling.steps == 25
    items[1]["num_inference_steps"] = 50
    assert imported(source("val.json", {"data": items})).sampling.steps == 10  # as in the other


def test_ids_stay_when_a_list_grows_and_draws_mostly(source):
    lines = [f"a red ring number {n} turns slowly" for n in range(40)]
    few = imported(source("few.txt", "\n".join(lines[:20])))
    all_of_them = imported(source("all.txt", "\n".join(["first", *lines])))
    assert {prompt.id for prompt in few.prompts} < {prompt.id for prompt in all_of_them.prompts}
    drawn = imported(source("all.txt", "\n".join(lines)), most=7)
    assert drawn == imported(source("turned.txt", "\n".join(lines)), most=7)
    assert len(drawn.prompts) == 7
    names = [prompt.prompt for prompt in drawn.prompts]
    assert names == sorted(names, key=lines.index)


@pytest.mark.parametrize("text", ["日本の海", "🐎🐎", "x" * 300, "A" * 60 + " b", "-- 3"])
def test_any_text_gets_an_id_that_names_a_file(source, text):
    (only,) = imported(source("a.txt", text)).prompts
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", only.id)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", {"prompts": []}, "neither a list of prompts as VBench's nor finetrainers'"),
        ("a.json", "3", "neither a list"),
        ("a.json", [{"prompt": "a"}], "[0] has no text called prompt_en"),
        ("a.json", ["a"], "[0] has no text called prompt_en"),
        ("a.json", [{"prompt_en": "a", "dimension": [1]}], "[0].dimension is no list of names"),
        ("a.json", {"data": [{"caption": 3}]}, "data[0] has no text called caption"),
        ("a.json", [], "holds no prompt"),
        ("a.txt", "\n\n", "holds no prompt"),
        ("a.txt", "x" * 9000, "has 9000 characters"),
        ("a.json", {"data": [{"caption": "a", "num_inference_steps": 30}]}, "does not divide 1000"),
        ("none.txt", None, "there is no such file"),
    ],
)
def test_what_makes_no_suite_is_refused_with_a_sentence(source, tmp_path, name, content, said):
    path = tmp_path / name if content is None else source(name, content)
    with pytest.raises(ConfigError, match=re.escape(said)):
        imported(path)

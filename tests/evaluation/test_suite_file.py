"""One suite has one digest in TOML, YAML and JSON, and what is written is read as it was."""

import json
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvx.errors import ConfigError
from cogvx.evaluation.suite import load_suite
from cogvx.evaluation.suite_file import read_suite_file, write_suite_file
from tests.evaluation.builders import suite_document, suite_of

FORMS = ("toml", "yaml", "yml", "json")
RULE = {
    "primaries": ["heldout_loss"],
    "guards": [{"metric": "motion_magnitude", "margin": 2.5}, {"metric": "saturation"}],
    "ceilings": [{"metric": "contrast", "limit": 90.0}],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_digest_of_the_same_suite(tmp_path, form):
    document = suite_document(gate=RULE)
    path = tmp_path / f"suite.{form}"
    write_suite_file(path, document)
    assert load_suite(path).digest == suite_of(gate=RULE).digest


def test_files_of_other_writers_have_the_same_digest(tmp_path):
    document = suite_document(gate=RULE)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(document, sort_keys=True))
    (tmp_path / "a.json").write_text(json.dumps(document, indent=4))
    (tmp_path / "b.json").write_text("\ufeff" + json.dumps(document), encoding="utf-8")
    digests = {load_suite(path).digest for path in tmp_path.iterdir()}
    assert digests == {suite_of(gate=RULE).digest}


def test_a_whole_number_is_the_same_guidance_in_every_form(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "{name: toy, split: gate, seeds: [1, 2], gate: {primaries: [heldout_loss]},\n"
        " sampling: {steps: 10, guidance: 2, sampler: dpm},\n"
        " prompts: [{id: one, prompt: a red ring}]}"
    )
    prompts = [{"id": "one", "prompt": "a red ring"}]
    assert load_suite(tmp_path / "a.yaml").digest == suite_of(prompts=prompts).digest


@settings(max_examples=60)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    form=st.sampled_from(FORMS),
)
def test_any_text_is_read_as_it_was_written(tmp_path_factory, text, form):
    path = tmp_path_factory.mktemp("texts") / f"suite.{form}"
    document = {"name": text, "prompts": [{"id": "a", "prompt": text}], "seeds": [1]}
    write_suite_file(path, document)
    assert read_suite_file(path) == document


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "name: a\nname: b", '"name" stands there twice'),
        ("a.json", '{"name": "a", "name": "b"}', '"name" stands there twice'),
        ("a.yaml", "a: &x [1]\nb: *x", "a reference (*name) is not allowed"),
        ("a.yaml", "a: !!python/object/apply:os.system [ls]", "cannot be read as YAML"),
        ("a.yaml", "a: [", "cannot be read as YAML"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.yaml", "- a\n- b", "holds no suite but a list"),
        ("a.yaml", "", "holds no suite but a NoneType"),
        ("a.yaml", "? [a, b]\n: c", "cannot be read as YAML"),
        ("a.yaml", "1: one", "cannot be read as YAML"),
    ],
)
def test_what_is_no_plain_document_is_refused_with_a_sentence(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_suite_file(tmp_path / name)


def test_files_that_are_not_there_or_no_text_are_named(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    (tmp_path / "folder.json").mkdir()
    for name, said in (
        ("none.yaml", "there is no such file"),
        ("latin.yaml", "is not UTF-8"),
        ("folder.json", "is a folder"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_suite(tmp_path / name)
    with pytest.raises(ConfigError, match=r"\.toml, \.yaml, \.yml, \.json"):
        write_suite_file(tmp_path / "suite.txt", {})


def test_what_yaml_takes_for_other_values_is_a_problem_and_no_surprise(tmp_path):
    path = tmp_path / "suite.yaml"
    write_suite_file(path, suite_document())
    text = (
        path.read_text()
        .replace("name: toy", "name: no")
        .replace("split: gate", "split: 2026-01-01")
    )
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_suite(path)
    assert "name = false is of the wrong kind; use text in quotes" in str(caught.value)
    assert "split = 2026-01-01 is not known" in str(caught.value)

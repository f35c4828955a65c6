"""What differs between what a run was begun as and what it is asked to be: told, and told right."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cogvx.files import read_document, write_bytes, write_document
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.runs.origin import Origin, changes, changes_of, in_words, keep_beginning, refusal

NewRun = Callable[..., Path]


def spec_of(root: Path) -> RunSpec:
    return RunFolder(root).read_spec()


@pytest.fixture(scope="module")
def was(new_run: NewRun) -> RunSpec:
    return spec_of(new_run())


def test_a_run_differs_from_itself_in_nothing(was: RunSpec) -> None:
    assert changes_of(was, was) == []


def test_every_changed_setting_is_named_with_both_values(was: RunSpec, new_run: NewRun) -> None:
    now = spec_of(new_run(learning_rate=2e-3, fork_of="a" * 64, buckets=("9x32x64",)))
    found = changes(Origin.of(was), Origin.of(now))
    assert found == [
        f'train.fork_of was unset and is "{"a" * 64}"',
        "train.learning_rate was 0.001 and is 0.002",
        'video.buckets was [] and is ["9x32x64"]',
    ]


def test_layout_is_no_difference(was: RunSpec, new_run: NewRun) -> None:
    same = {"checkpoint_every": 5, "processes": 2, "max_hours": 3, "compute": {"compile": True}}
    assert changes_of(was, spec_of(new_run(**same))) == []


def test_how_the_base_is_stored_is_one(was: RunSpec, new_run: NewRun) -> None:
    now = spec_of(new_run(compute={"preset": "small"}))
    assert changes_of(was, now) == ['compute.base_weights was "as_is" and is "float8"']


def test_clips_that_came_went_or_changed_are_counted(was: RunSpec) -> None:
    first, second, *rest = was.train
    new = first.model_copy(update={"clip": "new.mp4"})
    newer = first.model_copy(update={"clip": "newer.mp4"})
    other = second.model_copy(update={"caption": "of something else"})
    now = was.model_copy(update={"train": (new, newer, other, *rest), "manifest": "another"})
    (change,) = changes_of(was, now)
    assert change == (
        "the clips were 4 windows and 2 held out and are 5 windows and 2 held out: "
        "2 added, 1 removed, 1 changed"
    )


def test_another_base_and_other_code_are_named(was: RunSpec) -> None:
    now = was.model_copy(update={"base_fingerprint": "other", "code_version": "1"})
    assert changes_of(was, now) == [
        f"the base model's weights was {was.base_fingerprint[:12]} and is other",
        "cogvx was 0 and is 1",
    ]


def test_many_changes_are_cut_short() -> None:
    words = in_words([f"change {number}" for number in range(11)])
    assert words.startswith("change 0; change 1; ")
    assert words.endswith("change 7; and 3 more")


def test_without_its_beginning_a_refusal_counts_the_clips_from_the_checkpoint(
    was: RunSpec, new_run: NewRun
) -> None:
    folder = RunFolder(new_run(clips=7))
    sentence = str(refusal(folder, Origin.of(was), run=was.run))
    assert (
        "the clips were 4 windows and 2 held out and are 7 windows and 2 held out. Put" in sentence
    )
    write_bytes(folder.begun, b"of another version")
    assert str(refusal(folder, Origin.of(was), run=was.run)) == sentence


def test_the_beginning_is_kept_until_another_run_begins_there(
    was: RunSpec, new_run: NewRun
) -> None:
    folder = RunFolder(new_run())
    keep_beginning(folder, was)
    keep_beginning(folder, was.model_copy(update={"warnings": ("later",)}))
    assert read_document(folder.begun, RunSpec) == was
    keep_beginning(folder, was.model_copy(update={"run": "another"}))
    assert read_document(folder.begun, RunSpec).run == "another"
    edited = was.model_copy(update={"run": "another", "train": was.train[1:]})
    keep_beginning(folder, edited)  # while no checkpoint was there
    assert read_document(folder.begun, RunSpec) == edited
    write_document(folder.begun, {"schema_version": 99})
    keep_beginning(folder, was)
    assert read_document(folder.begun, RunSpec) == was

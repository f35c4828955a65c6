"""What cannot work ends with one clear sentence and a non-zero exit, before anything expensive."""

import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import Place, make_place, write_recipe
from tests.fixtures.forks import Forks, Job


@pytest.fixture
def fresh(tmp_path: Path, nano_base: Path, world_clips: Path, prefect_url: str) -> Place:
    clips = tmp_path / "clips"
    shutil.copytree(world_clips, clips)
    recipe = write_recipe(tmp_path / "recipe.toml", clips=str(clips), base=nano_base)
    return make_place(tmp_path, recipe, PREFECT_API_URL=prefect_url)


def start(forks: Forks, place: Place, command: str) -> Job:
    words = ("tests.fixtures.forks:call_cli", command, str(place.recipe))
    return forks.start(*words, environment=place.environment, cwd=place.root)


def refused(forks: Forks, place: Place, command: str) -> str:
    job = start(forks, place, command)
    status, printed = job.wait(), job.output.read_text()
    assert status == 2, printed[-3000:]
    assert "Traceback" not in printed
    error = printed[printed.index("error:") :]
    assert not (place.home / "runs").exists()
    return " ".join(error.split())


def test_a_bad_recipe_lists_all_its_problems(fresh: Place, forks: Forks) -> None:
    text = fresh.recipe.read_text()
    text = text.replace("rank = 64", "rank = 8").replace(
        "alpha = 32", 'alpha = 1\ntargets = ["to_kk"]'
    )
    text = text.replace("frames = 9", "frames = 10").replace("warmup_steps = 2", "warmup = 2")
    fresh.recipe.write_text(text)
    for command in ("check", "retrain"):
        error = refused(forks, fresh, command)
        assert "5 problem(s)" in error
        assert "lora.rank = 8" in error
        assert "1/8 = 0.125" in error
        assert 'lora.targets[0] = "to_kk" matches no module' in error
        assert 'closest: "to_k"' in error
        assert "video.frames = 10" in error
        assert 'train.warmup = 2 is not a setting; did you mean "warmup_steps"?' in error


def test_an_empty_folder_is_named(fresh: Place, forks: Forks) -> None:
    shutil.rmtree(fresh.root / "clips")
    (fresh.root / "clips").mkdir()
    error = refused(forks, fresh, "retrain")
    assert str(fresh.root / "clips") in error
    assert "metadata.jsonl" in error


def test_a_folder_that_is_not_there_is_named(fresh: Place, forks: Forks) -> None:
    shutil.rmtree(fresh.root / "clips")
    assert "dataset.uri" in refused(forks, fresh, "retrain")


def test_an_unwritable_store_is_named(fresh: Place, forks: Forks) -> None:
    (fresh.root / "file").write_text("not a folder")
    fresh.environment["COGVX_STORE_URL"] = str(fresh.root / "file" / "store")
    error = refused(forks, fresh, "retrain")
    assert "cannot be written" in error
    assert str(fresh.root / "file" / "store") in error


def test_a_stage_without_its_predecessor_says_which_command_comes_first(
    fresh: Place, forks: Forks
) -> None:
    assert "cogvx cache" in refused(forks, fresh, "train")
    assert "cogvx cache" in refused(forks, fresh, "evaluate")


def test_bad_clips_are_quarantined_and_counted(fresh: Place, forks: Forks) -> None:
    clips = fresh.root / "clips"
    (clips / "notes.mp4").write_text("these are my notes\n")
    first = min(clips.glob("*.mp4"))
    shutil.copy(first, clips / "uncaptioned.mp4")
    with (clips / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "notes.mp4", "text": "a text file"}\n')
        file.write('{"file_name": "uncaptioned.mp4", "text": ""}\n')
    printed = start(forks, fresh, "cache").succeed()
    assert "2 rejected (1 caption, 1 unreadable)" in printed
    assert "notes.mp4" in printed

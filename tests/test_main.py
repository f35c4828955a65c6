"""The command line ends with a sentence and an exit code, never with a traceback."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvx.__main__ import app, guarded

RECIPE = Path("deployments/recipes/nano-demo.toml").read_text()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that must end with exit code 2 says."""
    with pytest.raises(SystemExit) as caught:
        guarded(lambda: app(list(arguments)))
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    return error


def test_check_says_what_a_recipe_will_train(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace(".cogvx/demo", str(tmp_path)))
    result = CliRunner().invoke(app, ["check", str(path), "--no-files"])
    assert result.exit_code == 0
    assert f"{path}: no problems" in result.output
    assert "rank 64, alpha 32, strength 0.5" in result.output


def test_check_misses_the_files_unless_told_not_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.toml"
    absent = str(tmp_path / "none")
    recipe = RECIPE.replace(".cogvx/demo", absent).replace("cogvx/model/nano/weights", absent)
    path.write_text(recipe)
    error = refused(capsys, "check", str(path))
    assert "base.path" in error
    assert "dataset.uri" in error
    assert "--no-files" in CliRunner().invoke(app, ["check", "--help"]).output


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 3000, "a = " + "9" * 6000, 'name = "x"\n[evaluation]\nsuite = "a\\u0000b"'],
    ids=["deep", "long", "nul"],
)
def test_check_of_a_hostile_recipe_is_a_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    refused(capsys, "check", str(path))


def test_check_of_a_folder_says_that_it_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is a folder; name a TOML file" in refused(capsys, "check", str(tmp_path))


def test_nano_leaves_alone_what_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("kept")
    error = refused(capsys, "nano", str(tmp_path))
    assert error == f"error: {tmp_path} exists already and was left alone; name another folder\n"
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("command", [["nano"], ["world", "--clips", "1"]])
def test_a_folder_that_cannot_be_made_is_a_sentence(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("/proc/x", str(tmp_path / "file" / "x"), str(tmp_path / ("x" * 300))):
        error = refused(capsys, *command, folder)
        assert error.startswith(f"error: {folder} cannot be written: ")


def test_world_does_not_take_a_file_for_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hostname"
    path.write_text("kept")
    assert "is no folder and was left alone" in refused(capsys, "world", str(path))
    assert path.read_text() == "kept"


def test_the_first_look_at_a_recipe_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'peft', 'av'}"
    code = f"import sys; import cogvx.__main__; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


FIVE = Path("deployments/recipes/cogvideox-5b.toml")


def test_check_says_which_preset_fits_which_gpu() -> None:
    result = CliRunner().invoke(app, ["check", str(FIVE), "--no-files"])
    assert result.exit_code == 0
    lines = {line.split("  ")[1].strip(): line for line in result.output.splitlines()[5:]}
    assert "does not fit" in lines["T4"]
    assert "does not fit" not in lines["L4"]
    assert len(result.output.splitlines()) < 24
    assert max(map(len, result.output.splitlines())) <= 80


def test_check_on_a_gpu_says_what_training_takes() -> None:
    command = ["check", str(FIVE), "--no-files", "--gpu", "h100", "--price", "2", "--clips", "80"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert "on H100, 79.6 GiB" in result.output
    assert "132.12 M trained" in result.output
    assert "17,776 tokens a clip" in result.output
    assert "50 epochs, " in result.output
    assert "costs " in result.output
    assert "7 points over 2 windows, 9 at the start and the end" in result.output


def test_check_on_a_gpu_that_is_too_small_ends_with_all_that_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = refused(capsys, "check", str(FIVE), "--gpu", "T4")
    assert "base.dtype" in error
    assert "compute.preset" in error
    assert "dataset.uri" in error  # not there on a fresh clone


def test_check_refuses_options_that_cannot_be_all_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--gpu", "H10000", "--price", "-1", "--clips", "0")
    error = refused(capsys, "check", str(FIVE), *options)
    assert '--gpu = "H10000" is no GPU that the table knows; use ' in error
    assert "--price = -1.0 is no price" in error
    assert "--clips = 0 is no number of clips" in error


def test_check_refuses_the_price_of_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "check", str(FIVE), "--price", "2")
    assert "--price = 2.0 is of a GPU that is not named; name it, as --gpu H100" in error


def test_check_says_the_epochs_of_so_many_clips_without_a_gpu() -> None:
    result = CliRunner().invoke(app, ["check", str(FIVE), "--no-files", "--clips", "80"])
    assert result.exit_code == 0
    assert "  epochs   50 of 80 clips\n" in result.output


def test_check_takes_a_moment() -> None:
    began = time.process_time()
    CliRunner().invoke(app, ["check", str(FIVE), "--no-files"])
    assert time.process_time() - began < 1.0

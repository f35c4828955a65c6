"""`cogvx cache` is a group of commands, and with a recipe still the stage itself."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvx.__main__ import guarded
from flows.cli import app


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        guarded(lambda: app(["cache", *words]))
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["run"], ["stats"], ["verify"]])
def test_a_recipe_is_checked_by_the_stage_and_by_the_commands(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"')
    error = refused(capsys, *command, str(recipe))
    assert error.startswith(f"error: {recipe}: ")
    assert "[base] is missing" in error


def test_what_is_neither_a_command_nor_a_recipe_is_a_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "error: statz" in refused(capsys, "statz")


def test_help_lists_the_commands() -> None:
    printed = CliRunner().invoke(app, ["cache", "--help"]).output
    for command in ("run", "stats", "inspect", "verify", "prune"):
        assert command in printed


@pytest.mark.parametrize("words", [["inspect"], ["prune", "--older-than", "-1"], ["run", "a", "b"]])
def test_wrong_words_change_nothing(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["cache", *words]).exit_code == 2

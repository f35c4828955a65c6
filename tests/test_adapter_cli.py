"""`cogvx adapter ...`: what the commands print and write, and the sentences they end with."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from diffusers import CogVideoXPipeline
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cogvx.__main__ import app, guarded
from cogvx.adapter_cli import app as adapter_app
from cogvx.adapter_cli import parse_shares, parse_size
from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.adapters.export import export_adapter
from cogvx.errors import ConfigError
from cogvx.model.identity import BASE_PARTS, fingerprint
from tests.adapters.toys import toy_card, trained


@pytest.fixture(scope="module")
def adapters(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two adapters of the toy base, in folders called a and b."""
    root = tmp_path_factory.mktemp("adapters")
    card = toy_card(base_fingerprint=fingerprint(nano_base, BASE_PARTS), size="9x48x48", fps=8)
    for seed, name in enumerate("ab", start=1):
        export_adapter(trained(nano_base, seed=seed), root / name, card=card)
    return root


def said(*arguments: object) -> str:
    """What a command prints that goes well."""
    result = CliRunner().invoke(app, ["adapter", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """What a command says that must end with an exit code."""
    with pytest.raises(SystemExit) as caught:
        guarded(lambda: app(["adapter", *map(str, arguments)]))
    assert caught.value.code == code
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(("error: ", "  - "))
    return error


def test_inspect_says_form_strength_lineage_and_draws_the_layers(
    nano_base: Path, adapters: Path
) -> None:
    lines = said("inspect", adapters / "a", "--base", nano_base).splitlines()
    assert lines[0] == f"file      {adapters / 'a' / ADAPTER_FILE}"
    assert lines[1] == "form      diffusers: 24 pairs in 6 layers, to_q to_k to_v to_out.0"
    assert lines[2] == (
        "strength  rank 8, alpha 8 by lora_adapter_metadata; diffusers loads it at 1"
    )
    assert "trained   toy: rank 8, alpha 4, 7 steps, on 9x48x48 at 8 a second" in lines
    assert f"made of   recipe {'c' * 16}, clips {'d' * 16}, run run-1" in lines
    bars = [line for line in lines if line.endswith("#")]
    assert [line.split()[0] for line in bars] == [
        *["layer"] * 6,
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
    ]
    assert max(map(len, lines[1:])) <= 100
    assert not any("PROBLEM" in line for line in lines)


def test_inspect_as_json_is_one_document(adapters: Path) -> None:
    document = json.loads(said("inspect", adapters / "a" / ADAPTER_FILE, "--json"))
    assert (document["rank"], document["loaded_alpha"], document["card"]["alpha"]) == (8, 8, 4)


def test_inspect_lists_problems(adapters: Path, tmp_path: Path) -> None:
    save_file(load_file(adapters / "a" / ADAPTER_FILE), tmp_path / ADAPTER_FILE)
    output = said("inspect", tmp_path)
    assert "no alpha is recorded; diffusers loads it at 1\n" in output
    assert "PROBLEM: alpha is not recorded: it loads at 1.0, whatever it was trained at" in output


def test_convert_asks_for_the_alpha_and_then_writes_our_form(
    nano_base: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    save_file(load_file(adapters / "a" / ADAPTER_FILE), old / ADAPTER_FILE)
    command = ("convert", old, "-o", tmp_path / "new", "--base", nano_base)
    assert "--alpha is missing" in refused(capsys, 2, *command)
    output = said(*command, "--alpha", "4")
    assert f"read      {old / ADAPTER_FILE}: diffusers, alpha 4 (as said)\n" in output
    assert "holds     48 tensors in 6 layers, rank 8\n" in output
    assert "strength  1.000000 of what was read, at weight 1\n" in output
    card = read_card(tmp_path / "new" / ADAPTER_FILE)
    assert card is not None
    assert (card.origin, card.rank, card.alpha) == ("converted", 8, 4)
    kohya = said(
        "convert", tmp_path / "new", "-o", tmp_path / "k", "--base", nano_base, "--to", "kohya"
    )
    assert "lora_kohya.safetensors: kohya\n" in kohya
    unknown = refused(capsys, 2, *command, "--to", "sat", "--alpha", "4")
    assert '--to = "sat" is not known; use one of diffusers, kohya' in unknown


def test_merge_says_what_it_is_made_of_and_what_a_lower_rank_loses(
    adapters: Path, tmp_path: Path
) -> None:
    a, b = adapters / "a", adapters / "b" / ADAPTER_FILE
    exact = said("merge", f"{a}:0.8", f"{b}:-0.5", "-o", tmp_path / "c").splitlines()
    assert exact[0].startswith(f"part      0.8 x a/{ADAPTER_FILE} (")
    assert exact[1].startswith(f"part      -0.5 x b/{ADAPTER_FILE} (")
    assert exact[2] == "rank      16 of 16: nothing is lost"
    assert exact[3] == f"written   {tmp_path / 'c' / ADAPTER_FILE}: 24 linear layers"
    less = said("merge", f"{a}:0.8", f"{b}:-0.5", "-o", tmp_path / "d", "--rank", "4")
    assert "rank      4 of 16: lost " in less
    assert "% of what it adds; most in transformer_blocks." in less
    card = read_card(tmp_path / "d" / ADAPTER_FILE)
    assert card is not None
    assert [parent.weight for parent in card.parents] == [0.8, -0.5]


def test_bake_writes_a_folder_that_diffusers_loads(
    nano_base: Path, adapters: Path, tmp_path: Path
) -> None:
    out = tmp_path / "baked"
    output = said(
        "bake",
        nano_base,
        f"{adapters / 'a'}:0.7",
        adapters / "b",
        "-o",
        out,
        "--max-shard-size",
        "2MB",
    )
    assert f"added     0.7 x a/{ADAPTER_FILE} (" in output
    assert f"written   {out}: 24 weights changed\n" in output
    assert "GB of weights in 9 file(s)\n" in output
    CogVideoXPipeline.from_pretrained(out)
    alone = tmp_path / "alone"
    said("bake", nano_base, adapters / "a", "-o", alone, "--transformer-only")
    assert not (alone / "vae").exists()


def test_the_commands_run_in_a_process_of_their_own_and_print_nothing_else(
    adapters: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "cogvx", "adapter", "merge", f"{adapters / 'a'}:0.5"]
    found = subprocess.run(
        [*command, "-o", str(tmp_path / "c")], capture_output=True, text=True, check=True
    )
    assert len(found.stdout.splitlines()) == 3
    assert found.stderr == ""


def test_the_registry_is_not_asked_and_every_reference_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, 2, "merge", "models:/a@champion:0.5", "models:/b/3", "-o", tmp_path)
    assert "2 problem(s)" in error
    assert "models:/a@champion:0.5 is in the registry, which this command does not ask" in error


def test_what_cannot_be_done_is_a_sentence(
    nano_base: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = adapters / "a"
    assert "is no file; name an adapter file" in refused(
        capsys, 2, "merge", tmp_path / "none", "-o", tmp_path / "x"
    )
    assert "exists already" in refused(capsys, 2, "merge", a, "-o", a)
    assert "no size of a file" in refused(
        capsys, 2, "bake", nano_base, a, "-o", tmp_path / "x", "--max-shard-size", "5"
    )
    assert "is not a folder on this machine" in refused(
        capsys, 2, "bake", tmp_path / "none", a, "-o", tmp_path / "x"
    )
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "x"
    assert f"{below} cannot be written: a part of it is a file" in refused(
        capsys, 2, "merge", a, "-o", below
    )
    assert "is not there" in refused(capsys, 2, "inspect", tmp_path / "none")
    (tmp_path / "torn.safetensors").write_bytes(b"1234")
    assert "not a safetensors file" in refused(capsys, 3, "inspect", tmp_path / "torn.safetensors")


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("a.safetensors:1e-1", "a.safetensors", 0.1),
        ("C:\\styles\\a.safetensors", "C:\\styles\\a.safetensors", 1.0),
        ("C:\\styles\\a.safetensors:0.5", "C:\\styles\\a.safetensors", 0.5),
        ("take:two/a", "take:two/a", 1.0),
        ("take:two/a:2", "take:two/a", 2.0),
        ("a:", "a:", 1.0),
        ("a:half", "a:half", 1.0),
    ],
)
def test_a_weight_is_a_number_after_the_last_colon(text: str, path: str, weight: float) -> None:
    assert parse_shares([text]) == [(Path(path), weight)]


def test_a_file_that_is_there_under_the_whole_text_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take:2").write_text("")
    assert parse_shares(["take:2", "take:2:0.5"]) == [(Path("take:2"), 1.0), (Path("take:2"), 0.5)]


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 gb", 15 * 10**8), ("2GiB", 2 << 30), ("1000KB", 10**6)],
)
def test_sizes_of_files_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "5", "GB", "-1GB", "999KB", "1e3GB", "9" * 400 + "GB", "5GBs"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size of a file"):
        parse_size(text)


PAGE = Path("docs/adapters.md").read_text()
COMMANDS = re.findall(r"^cogvx adapter (.+)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_page_are_commands(line: str) -> None:
    name, *arguments = shlex.split(line, comments=True)
    group = typer.main.get_command(adapter_app)
    assert isinstance(group, typer.core.TyperGroup)
    group.commands[name].make_context(name, arguments)


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'peft', 'av'}"
    code = (
        "import sys; import cogvx.adapter_cli as cli; cli.parse_shares(['a:0.5']);"
        f"print({heavy} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert found.stdout.strip() == "set()"


def test_a_base_is_not_baked_into_itself(
    nano_base: Path, adapters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for inside in ("new", "transformer/new"):
        told = refused(capsys, 2, "bake", nano_base, adapters / "a", "-o", nano_base / inside)
        assert "lies inside the base" in told
        assert not (nano_base / inside).exists()


def test_what_names_in_files_hold_moves_no_cursor(adapters: Path, tmp_path: Path) -> None:
    said("merge", adapters / "a", "-o", tmp_path / "out", "--name", "\x1b[2J\x07red")
    lines = said("inspect", tmp_path / "out")
    assert "merged    ?[2J?red: rank 8" in lines


@pytest.mark.parametrize("command", ["inspect", "merge", "convert"])
def test_a_name_that_no_file_can_have_is_refused_in_a_sentence(
    nano_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    options = {
        "inspect": (),
        "merge": ("-o", tmp_path / "out"),
        "convert": ("-o", tmp_path / "out", "--base", nano_base),
    }
    told = refused(capsys, 2, command, "x" * 5000, *options[command])
    assert "File name too long" in told
    assert len(told) < 400

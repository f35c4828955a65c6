"""`cogvx suite ...`: what it prints, what it writes, and the sentences it ends with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvx.__main__ import app
from cogvx.errors import ConfigError
from cogvx.evaluation.suite import load_suite
from cogvx.evaluation.suite_file import read_suite_file

SHIPPED = sorted((Path(__file__).parents[1] / "deployments" / "suites").glob("*.toml"))


def said(*arguments: object) -> str:
    """What a command prints that goes well, warnings included."""
    result = CliRunner().invoke(app, ["suite", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_suites_are_right_and_say_what_they_cost(path: Path) -> None:
    suite, output = load_suite(path), said("check", path)
    assert f"{path}: no problems" in output
    assert suite.digest in output
    assert f"{suite.videos} an arm" in output
    assert "WARNING" not in output


def test_a_rule_that_needs_networks_is_right_and_says_so(tmp_path: Path) -> None:
    text = SHIPPED[0].read_text(encoding="utf-8")
    assert text.count("primaries = [") == 1
    path = tmp_path / "suite.toml"
    path.write_text(text.replace("primaries = [", 'primaries = ["text_alignment_siglip2", '))
    output = said("check", path)
    assert "no problems" in output
    assert (
        'WARNING: gate.primaries[0] = "text_alignment_siglip2" needs a network, which '
        "evaluation.encoders.siglip2 must name; recipes with this suite need one"
    ) in output


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_show_has_every_prompt_and_the_rule(path: Path) -> None:
    suite, output = load_suite(path), said("show", path)
    for prompt in suite.prompts:
        assert prompt.id in output
        assert prompt.prompt in output
    for guard in suite.gate.guards:
        assert guard.metric in output


def test_show_tells_groups_limits_looks_and_what_can_be_found(tmp_path: Path) -> None:
    document = read_suite_file(SHIPPED[-1])
    document["prompts"] = [
        {"id": f"{group[:3]}-{number}", "prompt": f"a ship {number} {group}", "group": group}
        for group, count in (("domain", 20), ("off_domain", 2))
        for number in range(count)
    ]
    document["gate"] = {
        "primaries": ["temporal_flickering"],
        "guards": [{"metric": "motion_magnitude", "groups": ["off_domain"]}],
        "ceilings": [{"metric": "memorisation_luma"}],
    }
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(document))
    output = said("show", path)
    assert "motion_magnitude (margin 1 SD on off_domain) at 0.95" in output
    assert "memorisation_luma <= what held-out clips reach" in output
    assert "after a HOLD 2 more seeds, judged at 0.9875" in output
    assert "stops before any video" in output
    assert "an effect of 0.66 seed SDs in 80% of evaluations" in output
    document["gate"] |= {"screen": False, "second_look": False}
    path.write_text(json.dumps(document))
    assert "screen    none" in said("show", path)
    assert "again     never" in said("show", path)


def test_imported_prompts_are_a_suite_with_the_rule_of_another(tmp_path: Path) -> None:
    source, like = tmp_path / "full.json", SHIPPED[0]
    items = [{"prompt_en": f"a ring number {n}", "dimension": ["scene"]} for n in range(5)]
    source.write_text(json.dumps(items))
    digests = set()
    for form in ("toml", "yaml", "json"):
        to = tmp_path / form / f"made.{form}"
        output = said("import", source, "--to", to, "--like", like, "--most", 3)
        made = load_suite(to)
        assert made.gate == load_suite(like).gate
        assert made.digest in output
        digests.add(made.digest)
    assert len(digests) == 1
    with pytest.raises(ConfigError, match="exists already and was left alone"):
        said("import", source, "--to", to)


def test_nothing_is_written_of_a_list_that_makes_no_suite(tmp_path: Path) -> None:
    source, to = tmp_path / "test.txt", tmp_path / "made.toml"
    source.write_text("a cat@@none.png\na dog@@none.png\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        said("import", source, "--to", to)
    with pytest.raises(ConfigError, match='--group = "mine" is not known; use one of domain'):
        said("import", source, "--to", to, "--group", "mine")
    assert not to.exists()


def test_captions_can_be_held_against_a_suite_before_anything_runs(tmp_path: Path) -> None:
    captions, suite = tmp_path / "prompts.txt", SHIPPED[0]
    captions.write_text("something else\n")
    said("check", suite, "--captions", captions)
    captions.write_text(load_suite(suite).prompts[0].prompt.upper() + ".\n")
    with pytest.raises(ConfigError, match="is a training caption"):
        said("check", suite, "--captions", captions)


def test_the_commands_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from cogvx import suite_cli;"
        f"suite_cli.check({str(SHIPPED[0])!r} and __import__('pathlib').Path({str(SHIPPED[0])!r}),"
        " captions=None); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

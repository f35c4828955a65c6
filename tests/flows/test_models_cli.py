"""`cogvx models`: what a person and a program are told, and what moves."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.adapters.weights import read_pairs
from cogvx.digest import sha256_file
from cogvx.errors import CogvxError, ConfigError, UserError
from cogvx.inference.model_ref import parse_reference
from cogvx.shapes import VideoSize
from flows.cli import app
from tasks.clients.journal import whoami
from tasks.clients.registry import CHAMPION, Registry, Serving
from tasks.clients.versions import HELDOUT_TAG, VERDICT_TAG
from tasks.registry.models import CARD_FILE, RECIPE_FILE, open_models
from tasks.settings import settings
from tests.adapters.toys import toy_adapter

SERVING = Serving("base", None, "float32", VideoSize(9, 48, 48), 8, "dpm", 2, 6.0)
RECIPE = 'name = "style"  # as it was\n'


@dataclass
class Shown:
    """A registry with one model of three versions: a champion, a challenger, and a rejected one."""

    registry: Registry
    files: list[Path]


@pytest.fixture(scope="module")
def shown(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(root / "home"))
        settings.cache_clear()
        registry, files = open_models(), []
        for number, verdict in enumerate(("PROMOTE", "HOLD", "REJECT")):
            file = toy_adapter(nano_base, root / str(number), run=f"run-{number}", seed=number)
            run_id = registry.start_run("style", "training", tags={})
            registry.log_params(run_id, {"train": {"steps": number}, "name": "style"})
            tags = {VERDICT_TAG: verdict, HELDOUT_TAG: "0.25"}
            pages = {"recipe.toml": RECIPE} if number == 1 else {}
            serving = replace(SERVING, pages=pages)
            registry.register("style", file, run_id=run_id, serving=serving, tags=tags)
            files.append(file)
        registry.promote("style", 1, expected_champion=None)
        yield Shown(registry, files)
    settings.cache_clear()


def said(*words: str) -> str:
    done = CliRunner().invoke(app, ["models", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(kind: type[CogvxError], match: str, *words: str) -> None:
    with pytest.raises(kind, match=match):
        CliRunner().invoke(app, ["models", *words], catch_exceptions=False)


def test_what_is_listed_and_shown_is_whole_when_piped(shown: Shown) -> None:
    listed = said("list")
    assert "champion" in listed
    assert len(json.loads(said("list", "style", "--json"))) == 3
    page = said("show", "style@champion")
    assert sha256_file(shown.files[0]) in page
    assert "promoted" in page
    told = json.loads(said("show", "models:/style/1", "--json"))
    assert told["line"]["heldout"] == 0.25
    assert told["decisions"]


def test_a_champion_is_promoted_with_a_reason_and_rolled_back(shown: Shown) -> None:
    refused(UserError, "REJECT.*--override-verdict", "promote", "style", "3", "--why", "I like it")
    refused(UserError, "a reason is needed", "promote", "style", "2", "--why", " ")
    said("promote", "style", "2", "--why", "calmer hands")
    assert "version 1, instead of version 2" in said("rollback", "style", "--why", "it flickers")
    said("promote", "style", "3", "--why", "for the demo", "--override-verdict")
    last = shown.registry.history("style")[-1]
    assert (last.overruled, last.verdict, last.why) == (True, "REJECT", "for the demo")
    said("rollback", "style", "--why", "the demo is over")
    assert shown.registry.aliases("style")[CHAMPION] == 1


def test_a_promotion_by_hand_leaves_who_and_why_with_the_version(shown: Shown) -> None:
    tags = shown.registry.version("style", 3).tags
    assert tags["cogvx.approval"] == "for the demo"
    assert tags["cogvx.override"] == "REJECT"
    assert tags["cogvx.review_by"] == whoami()
    page = said("show", "style/3")
    assert page.index("made of") < page.index("cogvx.recipe") < page.index("what became of it")
    assert page.index("what became of it") < page.index("cogvx.override")


def test_the_history_is_a_page_and_a_document(shown: Shown, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert str(page) in said("history", "style", "--out", str(page))
    assert 'id="v3"' in page.read_text()
    told = json.loads(said("history", "style", "--json"))
    assert [item["version"] for item in told["versions"]] == [1, 2, 3]
    assert [item["judgement"]["verdict"] for item in told["versions"]] == [
        "PROMOTE",
        "HOLD",
        "REJECT",
    ]
    acts = [move["act"] for move in told["moves"]]
    assert acts == ["promoted", "promoted", "rolled back", "promoted", "rolled back"]
    assert [move["overruled"] for move in told["moves"]] == [False, True, False, True, False]
    refused(ConfigError, 'did you mean "style"', "history", "stile")


def test_a_version_is_pulled_once_and_nothing_is_overwritten(shown: Shown, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    said("pull", "style/2", "-o", str(folder))
    assert (folder / ADAPTER_FILE).read_bytes() == shown.files[1].read_bytes()
    assert json.loads((folder / CARD_FILE).read_text())["run"] == "run-1"
    assert (folder / RECIPE_FILE).read_text() == RECIPE
    bare = tmp_path / "bare"
    said("pull", "style/1", "-o", str(bare))
    assert {path.name for path in bare.iterdir()} == {ADAPTER_FILE, CARD_FILE}
    (bare / RECIPE_FILE).write_text("mine")
    (bare / ADAPTER_FILE).unlink()
    (bare / CARD_FILE).unlink()
    refused(ConfigError, "recipe.toml is of something else", "pull", "style/2", "-o", str(bare))
    assert (bare / RECIPE_FILE).read_text() == "mine"
    stamp = (folder / ADAPTER_FILE).stat().st_mtime_ns
    assert "was there already" in said("pull", "style/2", "-o", str(folder))
    assert (folder / ADAPTER_FILE).stat().st_mtime_ns == stamp
    refused(ConfigError, "another adapter", "pull", "style/1", "-o", str(folder))


def test_what_differs_is_told(shown: Shown) -> None:
    told = json.loads(said("diff", "style/1", "style/2", "--json"))
    assert told["settings"] == [{"name": "train.steps", "a": "0", "b": "1"}]
    assert "cogvx.run" in {item["name"] for item in told["made_of"]}
    a, b = (read_pairs(file) for file in shown.files[:2])
    first, second = ({key: pair.b_or @ pair.a_ri for key, pair in its.items()} for its in (a, b))
    apart = sum(float((first[key] - second[key]).norm() ** 2) for key in a) ** 0.5
    whole = sum(float(first[key].norm() ** 2) for key in a) ** 0.5
    assert told["weights"]["norm_a"] == pytest.approx(whole, rel=1e-4)
    assert told["weights"]["relative_distance"] == pytest.approx(apart / whole, rel=1e-4)
    page = said("diff", "style/1", "style/2")
    assert "train.steps" in page
    assert f"{apart / whole:.4f} of a's norm" in page
    assert "style/1 and" in said("diff", "style/1", "style/1")


def test_weights_that_cannot_be_had_are_left_out_with_a_reason(shown: Shown) -> None:
    client = MlflowClient(shown.registry.tracking_uri)
    tags = {"cogvx.run": "elsewhere"}
    client.create_registered_model("lost")
    client.create_model_version("lost", "/nowhere/at/all", tags=tags)
    told = json.loads(said("diff", "style/1", "lost/1", "--json"))
    assert told["weights"] is None
    assert "lost/1" in told["weights_missing"]
    assert "weights" in said("diff", "style/1", "lost/1")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["show", "stile"], 'did you mean "style"'),
        (["show", "style@champ"], 'did you mean "champion"'),
        (["show", "style/9"], "it has 3, 2, 1"),
        (["show", "a/b/c"], "names no version"),
        (["rollback", "stile", "--why", "x"], 'did you mean "style"'),
    ],
)
def test_what_is_not_there_is_a_sentence(shown: Shown, words: list[str], match: str) -> None:
    refused(ConfigError, match, *words)


def test_references_are_understood() -> None:
    assert parse_reference("style").version is None
    assert parse_reference("models:/style@champion").alias == CHAMPION
    assert parse_reference("style/3").version == parse_reference("models:/style/3").version == 3

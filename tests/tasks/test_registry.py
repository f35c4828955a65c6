"""The registry: one version a run, aliases moved by compare-and-set, bytes that come back."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from cogvx.adapters.card import ADAPTER_FILE, read_card
from cogvx.errors import ConfigError, IntegrityError, TransientError, UserError
from cogvx.shapes import VideoSize
from cogvx.store import MemoryStore
from tasks.clients.registry import (
    ADAPTER_TAG,
    CHALLENGER,
    CHAMPION,
    PREVIOUS_CHAMPION,
    Point,
    Registry,
    Serving,
    Version,
)
from tests.adapters.toys import toy_adapter

SERVING = Serving(
    base="zai-org/CogVideoX-5b",
    revision="abc",
    dtype="bfloat16",
    size=VideoSize(9, 48, 48),
    fps=8,
    sampler="dpm",
    steps=2,
    guidance=6.0,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def registry(root: Path) -> Registry:
    return Registry(f"sqlite:///{root / 'home' / 'mlflow.db'}", root / "artifacts")


@pytest.fixture(scope="module")
def adapters(nano_base: Path, root: Path) -> list[Path]:
    """Exported adapters of the runs run-0, run-1, run-2."""
    return [
        toy_adapter(nano_base, root / f"adapter-{number}", run=f"run-{number}", seed=number)
        for number in range(3)
    ]


def register(registry: Registry, name: str, file: Path) -> Version:
    run_id = registry.start_run("toys", "training", tags={})
    return registry.register(name, file, run_id=run_id, serving=SERVING)


def test_a_version_carries_its_lineage_and_is_the_challenger(
    registry: Registry, adapters: list[Path]
) -> None:
    version = register(registry, "lineage", adapters[0])
    card = read_card(adapters[0])
    assert card is not None
    assert version.version == 1
    assert version.aliases == (CHALLENGER,)
    assert version.tags["cogvx.run"] == card.run == "run-0"
    assert version.tags["cogvx.recipe"] == card.recipe
    assert version.tags["cogvx.manifest"] == card.manifest
    assert version.tags["cogvx.base_fingerprint"] == card.base_fingerprint
    assert registry.get_alias("lineage", CHALLENGER) == version
    assert registry.find_version("lineage", "run-0") == version
    assert registry.find_version("lineage", "run-9") is None
    assert registry.get_alias("lineage", CHAMPION) is None
    assert registry.get_alias("unknown", CHAMPION) is None


def test_registering_a_run_twice_is_one_version(registry: Registry, adapters: list[Path]) -> None:
    first = register(registry, "twice", adapters[0])
    assert register(registry, "twice", adapters[0]) == first
    assert [item.version for item in registry.versions("twice")] == [1]


def test_registering_an_old_run_again_leaves_the_newer_challenger(
    registry: Registry, adapters: list[Path]
) -> None:
    register(registry, "older", adapters[0])
    newer = register(registry, "older", adapters[1])
    again = register(registry, "older", adapters[0])
    assert again.aliases == ()
    assert registry.get_alias("older", CHALLENGER) == newer


class UnreachableStore(MemoryStore):
    """A store that did not answer when something was to be decided, or just afterwards."""

    def __init__(self, *, answers_once: bool) -> None:
        super().__init__()
        self.answers_once = answers_once
        self.is_back = False

    def create(self, key: str, data: bytes) -> bool:
        if not self.is_back and not self.answers_once:
            raise TransientError("the store does not answer")
        return super().create(key, data)

    def write(self, key: str, data: bytes) -> None:
        """What every process does before it carries a decision out."""
        if not self.is_back:
            raise IntegrityError("cut off")
        super().write(key, data)


@pytest.mark.parametrize("decided", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_a_registration_cut_off_before_its_alias_is_finished_by_the_next(
    root: Path, registry: Registry, adapters: list[Path], *, decided: bool, before: bool
) -> None:
    name, store = f"cut-off-{decided}-{before}", UnreachableStore(answers_once=decided)
    cut = Registry(registry.tracking_uri, root / "artifacts", store)
    if before:
        store.is_back = True
        register(cut, name, adapters[1])
        store.is_back = False
    with pytest.raises((TransientError, IntegrityError)):
        register(cut, name, adapters[0])
    (made, *_) = cut.versions(name)
    assert made.aliases == ()
    store.is_back = True
    assert register(cut, name, adapters[0]).aliases == (CHALLENGER,)
    assert len(cut.history(name)) == 1 + before


def test_a_challenger_that_a_person_took_away_stays_away(
    registry: Registry, adapters: list[Path]
) -> None:
    register(registry, "withdrawn", adapters[0])
    MlflowClient(registry.tracking_uri).delete_registered_model_alias("withdrawn", CHALLENGER)
    assert register(registry, "withdrawn", adapters[0]).aliases == ()
    assert registry.get_alias("withdrawn", CHALLENGER) is None
    assert registry.history("withdrawn")[-1].act == "moved outside"
    newer = register(registry, "withdrawn", adapters[1])
    assert newer.aliases == (CHALLENGER,)


def test_what_mlflow_gives_page_by_page_is_put_together(
    registry: Registry, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.clients.registry._VERSIONS_AT_ONCE", 2)
    client = MlflowClient(registry.tracking_uri)
    run_id = register(registry, "pages", adapters[0]).run_id
    for number in range(2, 6):
        tags = {"cogvx.run": f"page-{number}"}
        client.create_model_version("pages", f"s3://nowhere/{number}", run_id, tags=tags)
    assert [item.version for item in registry.versions("pages")] == [5, 4, 3, 2, 1]
    found = registry.find_version("pages", "page-4")
    assert found is not None
    assert found.version == 4
    several = {"pages", *(f"page-{letter}" for letter in "abcd")}
    for name in sorted(several - {"pages"}):
        client.create_registered_model(name)
    assert several <= set(registry.model_names())
    assert registry.model_names() == sorted(set(registry.model_names()))
    all_of_them = [item.version for item in registry.all_versions() if item.name == "pages"]
    assert sorted(all_of_them) == [1, 2, 3, 4, 5]


def test_threads_that_register_different_runs_make_different_versions(
    registry: Registry, adapters: list[Path]
) -> None:
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda file: register(registry, "threads", file), adapters))
    assert sorted(item.version for item in made) == [1, 2, 3]
    assert {item.tags["cogvx.run"] for item in made} == {"run-0", "run-1", "run-2"}
    assert len(registry.versions("threads")) == 3


def test_threads_that_register_the_same_run_leave_one_version(
    registry: Registry, adapters: list[Path]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: register(registry, "race", adapters[0]), range(2)))
    assert len(registry.versions("race")) == 1
    assert {item.version for item in made} == {registry.versions("race")[0].version}


def test_promotion_moves_both_aliases_and_rolls_back(
    registry: Registry, adapters: list[Path]
) -> None:
    first, second = (register(registry, "promoted", file) for file in adapters[:2])
    made = registry.promote(
        "promoted", first.version, expected_champion=None, tags={"cogvx.verdict": "PROMOTE"}
    )
    assert CHAMPION in made.aliases
    assert made.tags["cogvx.verdict"] == "PROMOTE"
    assert registry.get_alias("promoted", PREVIOUS_CHAMPION) is None
    registry.promote("promoted", second.version, expected_champion=first.version)
    champion, previous = (
        registry.get_alias("promoted", alias) for alias in (CHAMPION, PREVIOUS_CHAMPION)
    )
    assert champion is not None
    assert previous is not None
    assert (champion.version, previous.version) == (second.version, first.version)
    registry.promote("promoted", previous.version, expected_champion=champion.version)
    champion, previous = (
        registry.get_alias("promoted", alias) for alias in (CHAMPION, PREVIOUS_CHAMPION)
    )
    assert champion is not None
    assert previous is not None
    assert (champion.version, previous.version) == (first.version, second.version)


def test_promoting_the_champion_changes_no_alias(registry: Registry, adapters: list[Path]) -> None:
    version = register(registry, "again", adapters[0])
    registry.promote("again", version.version, expected_champion=None)
    registry.promote("again", version.version, expected_champion=None)
    assert registry.get_alias("again", PREVIOUS_CHAMPION) is None


def test_promotion_against_a_champion_that_moved_is_refused(
    registry: Registry, adapters: list[Path]
) -> None:
    first, second, third = (register(registry, "moved", file) for file in adapters)
    registry.promote("moved", first.version, expected_champion=None)
    registry.promote("moved", second.version, expected_champion=first.version)
    with pytest.raises(UserError, match="judged against champion 1, but the champion is now 2"):
        registry.promote(
            "moved", third.version, expected_champion=first.version, tags={"cogvx.verdict": "x"}
        )
    champion = registry.get_alias("moved", CHAMPION)
    assert champion is not None
    assert champion.version == second.version
    assert "cogvx.verdict" not in registry.version("moved", third.version).tags


def test_of_racing_promotions_one_wins(registry: Registry, adapters: list[Path]) -> None:
    versions = [register(registry, "contest", file).version for file in adapters]
    registry.promote("contest", versions[0], expected_champion=None)

    def promote(version: int) -> bool:
        try:
            registry.promote("contest", version, expected_champion=versions[0])
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(promote, versions[1:])) == [False, True]


def test_download_gives_the_registered_bytes(
    registry: Registry, adapters: list[Path], tmp_path: Path
) -> None:
    version = register(registry, "bytes", adapters[2])
    by_number = registry.download("bytes", version.version, tmp_path / "number")
    by_alias = registry.download("bytes", CHALLENGER, tmp_path / "alias")
    assert by_number.read_bytes() == by_alias.read_bytes() == adapters[2].read_bytes()
    assert [path.name for path in (tmp_path / "alias").iterdir()] == [ADAPTER_FILE]
    stamp = by_alias.stat().st_mtime_ns
    assert registry.download("bytes", CHALLENGER, tmp_path / "alias").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="no version with the alias champion"):
        registry.download("bytes", CHAMPION, tmp_path)
    with pytest.raises(ConfigError, match="version 7 of bytes"):
        registry.download("bytes", 7, tmp_path)


def test_download_of_altered_bytes_is_refused(
    registry: Registry, adapters: list[Path], tmp_path: Path
) -> None:
    version = register(registry, "altered", adapters[0])
    registry.tag_version("altered", version.version, {ADAPTER_TAG: "0" * 64})
    with pytest.raises(IntegrityError, match="not the one registered"):
        registry.download("altered", version.version, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_card_is_not_registered(
    registry: Registry, adapters: list[Path], tmp_path: Path
) -> None:
    bare = tmp_path / ADAPTER_FILE
    save_file(load_file(adapters[0]), bare)
    with pytest.raises(IntegrityError, match="was not trained here"):
        register(registry, "bare", bare)


def test_runs_keep_settings_metrics_and_files_without_an_active_run(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("<p>fine</p>")
    run_id = registry.start_run("runs", "training", tags={"cogvx.run": "r1"})
    assert registry.find_run("runs", "r1") == run_id
    assert registry.find_run("runs", "r2") is None
    params = {"lora": {"rank": 8, "targets": ("to_q",)}, "steps": 3}
    registry.log_params(run_id, params)
    registry.log_params(run_id, params)
    registry.log_metrics(
        run_id, [Point("loss", 1 / (step + 1), step, 1000.0 + step) for step in range(1500)]
    )
    registry.log_artifact(run_id, tmp_path / "report.html", folder="evaluation")
    registry.end_run(run_id, "FINISHED")
    assert mlflow.active_run() is None
    client = MlflowClient(registry.tracking_uri)
    run = client.get_run(run_id)
    assert run.data.params == {"lora.rank": "8", "lora.targets": "('to_q',)", "steps": "3"}
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run_id, "loss")
    assert len(history) == 1500
    assert history[1].timestamp - history[0].timestamp == 1000
    assert [item.path for item in client.list_artifacts(run_id, "evaluation")] == [
        "evaluation/report.html"
    ]


def test_nothing_is_written_outside_the_folders_that_were_given(
    adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    version = register(registry, "tidy", adapters[0])
    registry.download("tidy", version.version, tmp_path / "out")
    assert not list(elsewhere.iterdir())
    assert list((tmp_path / "artifacts").rglob(ADAPTER_FILE))


def test_a_database_that_cannot_be_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unsupported URI"):
        Registry("ftp://example.org/mlflow")
    (tmp_path / "mlflow.db").write_text("this is no database" * 100)
    with pytest.raises(ConfigError, match="could not connect: file is not a database"):
        Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(ConfigError, match="File exists"):
        Registry(f"sqlite:///{tmp_path / 'mlflow.db' / 'mlflow.db'}")


def test_registering_loads_no_gpu_stack(adapters: list[Path], tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from cogvx.shapes import VideoSize
from tasks.clients.registry import Registry, Serving

file, root = Path(sys.argv[1]), Path(sys.argv[2])
registry = Registry(f"sqlite:///{root / 'mlflow.db'}", root / "artifacts")
serving = Serving("base", None, "float32", VideoSize(9, 48, 48), 8, "dpm", 2, 6.0)
run_id = registry.start_run("light", "training", tags={})
registry.register("light", file, run_id=run_id, serving=serving)
print([name for name in ("torch", "diffusers", "transformers", "av") if name in sys.modules])
"""
    told = subprocess.run(
        [sys.executable, "-c", code, adapters[0], tmp_path], check=True, stdout=subprocess.PIPE
    ).stdout
    assert told.strip() == b"[]"

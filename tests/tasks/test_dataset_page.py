"""The page is made once, compares with the champion's clips, and goes with MLflow's run."""

import dataclasses
import json
from pathlib import Path

import mlflow.data
import pytest
from mlflow import MlflowClient

from cogvx.cache.plan import Identities
from cogvx.model.nano.carried import carried_nano
from cogvx.recipe import Recipe
from cogvx.store import LocalStore, MemoryStore
from cogvx.variants import read_facts
from tasks.caching.dataset_page import log_dataset, show_dataset
from tasks.caching.ingest import survey_clips
from tasks.clients.registry import CHAMPION, MANIFEST_TAG, Registry
from tasks.documents import CacheReport
from tasks.retraining.summary import cache_rows
from tasks.settings import Settings
from tasks.workbench import Workbench
from tests.data.clips import write_clip
from tests.fixtures.servers import free_port


@pytest.fixture(scope="module")
def mlflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with MLflow's tables in it; each test uses models of its own."""
    home = tmp_path_factory.mktemp("home")
    registry_of(home)
    return home


def registry_of(home: Path) -> Registry:
    settings = Settings(home=home)
    return Registry(settings.mlflow_uri, settings.mlflow_artifacts)


def bench_of(root: Path, name: str, settings: Settings) -> Workbench:
    """Four clips below `root`, which the recipe `name` learns from."""
    clips = root / "clips"
    for number in range(4):
        path = write_clip(clips / f"{number}.mp4", seed=number)
        path.with_suffix(".txt").write_text(f"a circle and {number} squares")
    base = carried_nano()
    recipe = Recipe.model_validate(
        {
            "name": name,
            "base": {"path": str(base), "dtype": "float32"},
            "dataset": {"uri": str(clips), "min_heldout": 1},
            "video": {"frames": 9, "height": 48, "width": 48, "fps": 8},
            "train": {"steps": 1000},
            "evaluation": {"suite": "suite.toml"},
        }
    )
    return Workbench(
        recipe=recipe,
        settings=settings,
        store=MemoryStore(),
        dataset=LocalStore(clips),
        base=base,
        base_fingerprint="0" * 64,
        facts=read_facts(base),
        ids=Identities(vae="0" * 64, text="1" * 64),
        warnings=(),
    )


def make_champion(home: Path, name: str, tags: dict[str, str]) -> None:
    client = MlflowClient(Settings(home=home).mlflow_uri)
    client.create_registered_model(name)
    version = client.create_model_version(name, source="file:///nowhere", tags=tags)
    client.set_registered_model_alias(name, CHAMPION, version.version)


def test_a_page_is_made_once_and_fetched_elsewhere(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "once", Settings(home=tmp_path / "home"))
    manifest = survey_clips.fn(bench)
    page = Path(show_dataset.fn(bench, manifest))
    assert page.is_relative_to(tmp_path / "home" / "datasets")
    made = page.read_bytes()
    assert b"There is none yet, so there is nothing to compare with." in made
    assert made.count(b'class="strip"') == 4
    elsewhere = dataclasses.replace(bench, settings=Settings(home=tmp_path / "other"))
    assert Path(show_dataset.fn(elsewhere, manifest)).read_bytes() == made
    stamp = page.stat().st_mtime_ns
    assert show_dataset.fn(bench, manifest) == str(page)
    assert page.stat().st_mtime_ns == stamp
    assert not (tmp_path / "home" / "mlflow.db").exists()


def test_the_page_compares_with_the_champion_under_its_own_settings_and_with_the_last(
    tmp_path: Path, mlflow_home: Path
) -> None:
    bench = bench_of(tmp_path, "compared", Settings(home=mlflow_home))
    small = bench.recipe.video.model_copy(update={"height": 32, "width": 32})
    before = dataclasses.replace(bench, recipe=bench.recipe.model_copy(update={"video": small}))
    (tmp_path / "clips" / "3.txt").unlink()
    champion = survey_clips.fn(before)
    make_champion(mlflow_home, "compared", {MANIFEST_TAG: champion.content_digest()})
    survey_clips.fn(bench)
    (tmp_path / "clips" / "3.txt").write_text("<i>a ring</i>")
    (tmp_path / "clips" / "0.txt").write_text("夕暮れ & a ring")
    page = Path(show_dataset.fn(bench, survey_clips.fn(bench))).read_text()
    since_champion, since_last = page.split("<h3>Since the ")[1:3]
    assert since_champion.startswith("champion v1</h3>")
    assert since_last.startswith("last manifest</h3>")
    for part in (since_champion, since_last):
        assert '<span class="count">1</span> added' in part
        assert "became &#34;夕暮れ &amp; a ring&#34;" in part
    assert "&lt;i&gt;a ring&lt;/i&gt;" in page
    assert "<i>a ring" not in page


def test_the_page_of_unchanged_clips_moves_on_with_the_champion_and_the_last_manifest(
    tmp_path: Path, mlflow_home: Path
) -> None:
    bench = bench_of(tmp_path, "moving", Settings(home=mlflow_home))
    caption = tmp_path / "clips" / "3.txt"
    first = survey_clips.fn(bench)
    alone = Path(show_dataset.fn(bench, first))
    make_champion(mlflow_home, "moving", {MANIFEST_TAG: first.content_digest()})
    of_champion = Path(show_dataset.fn(bench, first))
    assert "Since the champion v1" not in alone.read_text()
    assert "Since the champion v1" in of_champion.read_text()

    told = caption.read_text()
    caption.write_text("a ring")
    survey_clips.fn(bench)
    caption.write_text(told)
    back = survey_clips.fn(bench)
    assert back == first
    since_last = Path(show_dataset.fn(bench, back)).read_text()
    assert "This is the first one under these settings." not in since_last
    assert len(list(bench.store.entries("pages/"))) == 3


def test_a_run_keeps_the_newest_page_where_the_champion_moved_since_the_survey(
    tmp_path: Path, mlflow_home: Path
) -> None:
    bench = bench_of(tmp_path, "overtaken", Settings(home=mlflow_home))
    manifest = survey_clips.fn(bench)
    page = Path(show_dataset.fn(bench, manifest))
    make_champion(mlflow_home, "overtaken", {MANIFEST_TAG: "f" * 64})
    registry = registry_of(mlflow_home)
    run_id = registry.start_run("overtaken", "training", tags={})
    log_dataset(bench, registry, run_id, manifest=manifest)
    client = MlflowClient(bench.settings.mlflow_uri)
    kept = client.download_artifacts(run_id, "dataset/index.html", str(tmp_path))
    assert Path(kept).read_bytes() == page.read_bytes()


@pytest.mark.parametrize(
    ("name", "tags", "sentence"),
    [
        ("silent", {}, "models:/silent/1 does not say what it was trained on."),
        (
            "pruned",
            {MANIFEST_TAG: "f" * 64},
            f"Its manifest {'f' * 64} is not in this store any more.",
        ),
        ("older", {MANIFEST_TAG: "d" * 64}, "Its manifest cannot be read: "),
    ],
)
def test_a_champion_of_unknown_clips_is_named(
    name: str, tags: dict[str, str], sentence: str, tmp_path: Path, mlflow_home: Path
) -> None:
    bench = bench_of(tmp_path, name, Settings(home=mlflow_home))
    bench.store.write(f"manifests/{'0' * 32}/{'d' * 64}.json", b'{"of": "an older form"}')
    make_champion(mlflow_home, name, tags)
    page = Path(show_dataset.fn(bench, survey_clips.fn(bench))).read_text()
    assert "Since the champion v1" in page
    assert sentence in page


def test_while_mlflow_is_away_there_is_no_page_and_then_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Settings(home=tmp_path / "home", tracking_uri=f"http://127.0.0.1:{free_port()}")
    bench = bench_of(tmp_path, "away", away)
    manifest = survey_clips.fn(bench)
    assert show_dataset.fn(bench, manifest) == ""
    assert "no page of the dataset this time: MLflow at http://127.0.0.1" in caplog.text
    back = dataclasses.replace(bench, settings=Settings(home=tmp_path / "home"))
    assert Path(show_dataset.fn(back, manifest)).is_file()


def test_mlflow_knows_which_clips_a_run_learned_from(tmp_path: Path, mlflow_home: Path) -> None:
    bench = bench_of(tmp_path, "logged", Settings(home=mlflow_home))
    manifest = survey_clips.fn(bench)
    page = Path(show_dataset.fn(bench, manifest))
    registry = registry_of(mlflow_home)
    run_id = registry.start_run("logged", "training", tags={})
    for _ in range(2):
        log_dataset(bench, registry, run_id, manifest=manifest)
    client = MlflowClient(bench.settings.mlflow_uri)
    (found,) = client.get_run(run_id).inputs.dataset_inputs
    assert found.dataset.name == "clips"
    assert found.dataset.digest == manifest.content_digest()[:36]
    assert {tag.key: tag.value for tag in found.tags} == {"mlflow.data.context": "training"}
    assert mlflow.data.get_source(found).uri == bench.dataset.url
    profile = json.loads(found.dataset.profile)
    assert (profile["num_rows"], profile["clips"], profile["rejected"]) == (4, 4, {})
    assert profile["manifest"] == manifest.content_digest()
    kept = client.download_artifacts(run_id, "dataset/index.html", str(tmp_path))
    assert Path(kept).read_bytes() == page.read_bytes()


def test_the_summary_names_the_page() -> None:
    values = {
        "dataset": "file:///clips",
        "manifest": "m",
        "index": "i",
        "accepted": 1,
        "heldout": 0,
        "rejected": {},
        "records_encoded": 0,
        "records_reused": 0,
    }
    assert ("dataset", "/a/index.html") in cache_rows(CacheReport(**values, page="/a/index.html"))
    assert "dataset" not in dict(cache_rows(CacheReport(**values)))

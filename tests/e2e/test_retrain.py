"""The main job: clips in, a registered, evaluated and promoted adapter out; then nothing to do.

The first two runs are commands as anyone starts them, without a server of any kind; what follows
on them are forks, on a server that runs already.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from mlflow import MlflowClient

from cogvx.cache.index import CacheIndex
from cogvx.cache.keys import record_path
from cogvx.digest import sha256_file
from cogvx.evaluation.suite import load_suite
from cogvx.files import read_document
from cogvx.inference.prompts import CachedPrompts
from cogvx.model.encode import encode_prompts
from cogvx.model.identity import TEXT_PARTS, fingerprint
from cogvx.model.load import load_text
from cogvx.mp4 import read_mp4
from cogvx.runs.events import history
from cogvx.runs.folder import RunSpec
from cogvx.store import LocalStore
from cogvx.variants import read_facts
from tasks.workbench import read_stored
from tests.e2e.conftest import Place, make_place, write_recipe
from tests.fixtures.forks import Forks, Job


@pytest.fixture(scope="module")
def first(place: Place) -> str:
    """What the first retraining printed."""
    return place.succeed("retrain", str(place.recipe))


@pytest.fixture(scope="module")
def start(forks: Forks, prefect_url: str) -> Callable[..., Job]:
    """Start `cogvx WORDS` at a place."""

    def call(place: Place, *words: str) -> Job:
        return forks.start(
            "tests.fixtures.forks:call_cli",
            *words,
            environment={**place.environment, "PREFECT_API_URL": prefect_url},
            cwd=place.root,
        )

    return call


def adapters(place: Place) -> list[Path]:
    return sorted((place.home / "store" / "adapters").rglob("*.safetensors"))


def test_the_summary_tells_the_story_in_order(place: Place, first: str) -> None:
    told = [
        "12 accepted",
        "0 rejected",
        "encoded",
        "8 steps",
        "held-out loss",
        "pytorch_lora_weights.safetensors",
        "tiny version 1",
        "challenger",
        "report.html",
    ]
    positions = [first.find(part) for part in told]
    assert -1 not in positions, f"{told[positions.index(-1)]} is missing in\n{first}"
    assert positions == sorted(positions)
    verdict = next(word for word in ("PROMOTE", "HOLD", "REJECT") if f" {word} against" in first)
    assert ("is now the champion" in first) == (verdict == "PROMOTE")


def test_the_run_keeps_its_curves_and_its_first_batch(place: Place, first: str) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{place.home}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    run = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])[0]
    names = run.data.metrics.keys()
    assert {"train/loss", "train/grad_norm", "train/update_norm", "heldout/loss"} <= names
    assert {"system/samples_per_second", "system/data_wait_share", "system/memory_gib"} <= names
    (shown,) = place.home.glob("runs/*/first_batch")
    kept = {item.path for item in client.list_artifacts(run.info.run_id, "first_batch")}
    assert kept == {f"first_batch/{path.name}" for path in shown.iterdir()}
    assert {"index.html", "first_batch.png", "clip-0.mp4"} <= {
        path.name for path in shown.iterdir()
    }
    page = (shown / "index.html").read_text()
    assert " dB" in page
    assert "not compared with its source" not in page


def test_the_second_run_does_nothing_and_loads_no_torch(place: Place, first: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place.home / "store").rglob("*")}
    loaded = place.root / "loaded"
    program = (
        "import atexit, sys, pathlib\n"
        f"atexit.register(lambda: pathlib.Path({str(loaded)!r}).write_text("
        "'\\n'.join(sorted(sys.modules))))\n"
        f"sys.argv = ['cogvx', 'retrain', {str(place.recipe)!r}]\n"
        "from flows.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place.root,
        env=place.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "unchanged" in done.stdout
    assert "tiny version 1" in done.stdout
    modules = loaded.read_text().split("\n")
    assert "prefect" in modules
    assert not {"torch", "diffusers", "transformers"} & set(modules)
    after = {path: path.stat().st_mtime_ns for path in (place.home / "store").rglob("*")}
    changed = {path.name for path in after if path.is_file() and after[path] != before.get(path)}
    assert all("records" not in str(path) for path in after if path not in before)
    assert changed <= {"latest"} | {path.name for path in (place.home / "store/probes").rglob("*")}


def test_each_stage_runs_alone_and_finds_nothing_to_do(
    place: Place, first: str, start: Callable[..., Job]
) -> None:
    recipe = str(place.recipe)
    assert "0 encoded" in start(place, "cache", recipe).succeed()
    assert "done before" in start(place, "train", recipe).succeed()
    assert "registered before" in start(place, "register", recipe).succeed()
    assert "0 rendered" in start(place, "evaluate", recipe).succeed()


def test_what_an_evaluation_asks_for_is_encoded_for_good(
    place: Place, first: str, nano_base: Path
) -> None:
    prompts = CachedPrompts(
        store=LocalStore(place.home / "store"),
        encoder_fingerprint=fingerprint(nano_base, TEXT_PARTS),
        max_length=read_facts(nano_base).text_tokens,
        dtype="float32",
    )
    text = load_text(nano_base, dtype="float32")
    for line in load_suite(place.recipe.with_name("suite.toml")).prompts:
        known_sd = prompts(line.prompt, lambda: pytest.fail("it is not in the store"))
        assert torch.equal(known_sd, encode_prompts(text, [line.prompt], prompts.max_length)[0])


def test_a_record_that_is_damaged_before_an_evaluation_is_encoded_again(
    place: Place, first: str, start: Callable[..., Job]
) -> None:
    store = LocalStore(place.home / "store")
    (entry,) = store.entries("indexes/")
    index = read_stored(store, entry.key, CacheIndex)
    key = record_path("latents", index.heldout[0].latents)
    whole = store.read(key)
    store.write(key, whole[:-1] + bytes([whole[-1] ^ 1]))
    for kept in list(store.entries("heldout/")):
        store.delete(kept.key)
    shutil.rmtree(place.home / "work" / "records")
    assert "0 rendered" in start(place, "evaluate", str(place.recipe)).succeed()
    assert store.read(key) == whole
    assert list(store.entries("heldout/"))


def test_a_lost_mlflow_is_filled_again_without_training(
    place: Place, first: str, start: Callable[..., Job]
) -> None:
    elsewhere = Place(
        place.root,
        place.recipe,
        {**place.environment, "COGVX_TRACKING_URI": f"sqlite:///{place.root}/other/mlflow.db"},
    )
    printed = start(elsewhere, "retrain", str(place.recipe)).succeed()
    assert "done before" in printed
    assert "tiny version 1" in printed
    assert "0 rendered" in printed
    known = MlflowClient(f"sqlite:///{place.home}/mlflow.db")
    again = MlflowClient(f"sqlite:///{place.root}/other/mlflow.db")
    assert curve_of(again, "train/grad_norm") == curve_of(known, "train/grad_norm")


def curve_of(client: MlflowClient, name: str) -> list[tuple[int, float, int]]:
    """Of the first run of the recipe: steps, values and times."""
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    run = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])[0]
    points = client.get_metric_history(run.info.run_id, name)
    assert points
    return sorted((point.step, point.value, point.timestamp) for point in points)


def test_a_new_clip_is_encoded_alone_and_gives_a_new_version(
    place: Place, first: str, nano_base: Path, world_clips: Path, start: Callable[..., Job]
) -> None:
    clips = place.root / "more-clips"
    shutil.copytree(world_clips, clips)
    lines = (clips / "metadata.jsonl").read_text().splitlines()
    extra = json.loads(lines[0])
    from cogvx.model.nano.world import render_world

    render_world(place.root / "extra", clips=1, seed=99)
    (added,) = (place.root / "extra").glob("*.mp4")
    shutil.copy(added, clips / "added.mp4")
    extra |= {"file_name": "added.mp4", "text": "an added clip of a red circle"}
    (clips / "metadata.jsonl").write_text("\n".join([*lines, json.dumps(extra)]) + "\n")
    recipe = write_recipe(place.root / "more.toml", clips=str(clips), base=nano_base)

    printed = start(place, "retrain", str(recipe)).succeed()
    assert "13 accepted" in printed
    assert "2 encoded" in printed  # the clip and its caption
    assert "tiny version 2" in printed


def test_an_interrupted_retraining_ends_with_the_same_adapter(
    place: Place, first: str, nano_base: Path, world_clips: Path, start: Callable[..., Job]
) -> None:
    root = place.root / "killed"
    root.mkdir()
    recipe = write_recipe(root / "recipe.toml", clips=str(world_clips), base=nano_base)
    other = make_place(root, recipe)
    job = start(other, "retrain", str(recipe))
    until = time.monotonic() + 400  # on a machine that does much else; alone it takes a dozen
    while not list((other.home / "runs").glob("*/checkpoints/latest.json")):
        assert time.monotonic() < until, job.output.read_text()
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    until = time.monotonic() + 120
    while _trainers(other.home):
        assert time.monotonic() < until, "the trainer outlived the flow"
        time.sleep(0.2)

    printed = start(other, "retrain", str(recipe)).succeed()
    assert "resumed from step" in printed
    mine = {sha256_file(path) for path in adapters(other)}
    assert mine <= {sha256_file(path) for path in adapters(place)}
    assert mine


def _trainers(home: Path) -> list[int]:
    """Processes that work on a run folder below `home`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(home / "runs").encode() in words and b"cogvx.training" in words:
                found.append(int(entry.name))
    return found


def test_the_version_has_a_page_with_frames_and_the_verdict(place: Place, first: str) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{place.home}/mlflow.db")
    version = client.get_model_version("tiny", "1")
    told = next(word for word in ("PROMOTE", "HOLD", "REJECT") if f" {word} against" in first)
    assert f"**{told}** against base" in version.description
    assert "9 trained on, 3 held out" in version.description
    assert f"card%2Fframes.png&run_uuid={version.run_id}" in version.description
    kept = {item.path for item in client.list_artifacts(version.run_id, "card")}
    assert kept == {"card/README.md", "card/frames.png", "card/recipe.toml"}
    page = next(Path(urlsplit(version.source).path).rglob("README.md"))
    assert "**Not judged yet.**" in page.read_text()
    assert {path.name for path in page.parent.iterdir()} >= {"card.json", "recipe.toml"}


def test_the_champion_generates_through_mlflow(place: Place, first: str) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{place.home}/mlflow.db")
    if "champion" not in client.get_registered_model("tiny").aliases:
        client.set_registered_model_alias("tiny", "champion", "1")
    program = (
        "import mlflow, sys\n"
        f"mlflow.set_tracking_uri('sqlite:///{place.home}/mlflow.db')\n"
        "model = mlflow.pyfunc.load_model('models:/tiny@champion')\n"
        "rows = model.predict([{'prompt': 'a red circle', 'seed': 3.0}],"
        " params={'output_dir': 'served'})\n"
        "assert not {'cogvx', 'tasks', 'flows'} & set(sys.modules), 'this project was imported'\n"
        "rows = rows.to_dict('records') if hasattr(rows, 'to_dict') else rows\n"
        "print(rows[0]['path'])\n"
    )
    environment = {k: v for k, v in place.environment.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place.root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    video = read_mp4(place.root / done.stdout.strip().split("\n")[-1])
    assert video.rgb_fhwc.shape == (9, 48, 48, 3)
    assert video.fps == 8


def test_a_new_run_begins_with_the_weights_of_a_finished_one(
    place: Place, first: str, start: Callable[..., Job]
) -> None:
    ended = (place.home / "store" / "runs").glob("*/outcome.json")
    old = min(ended, key=lambda path: path.stat().st_mtime).parent.name
    recipe = place.root / "forked.toml"
    text = place.recipe.read_text().replace("steps = 8", "steps = 3", 1)
    recipe.write_text(text.replace("steps = 3", f'steps = 3\nfork_of = "{old}"'))
    start(place, "train", str(recipe)).succeed()
    (folder,) = (path.parent for path in (place.home / "runs").glob("*/fork.safetensors"))
    told = [event for event in history(folder / "events.jsonl") if event["kind"] == "forked"]
    assert [(event["run"], event["step"]) for event in told] == [(old, 8)]
    spec = read_document(folder / "run.json", RunSpec)
    assert spec.fork is not None
    assert (spec.fork.run, spec.fork.sha256) == (old, sha256_file(folder / "fork.safetensors"))

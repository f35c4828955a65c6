"""Evaluations as people run them: nothing is rendered twice, whatever is killed, fails or changes.

The tests tell one story, in order: a first challenger, the same again, another one, a champion,
a prompt that cannot be rendered, and evaluations that are killed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from safetensors import safe_open
from safetensors.torch import save_file

from cogvx.cache.keys import PromptKey
from cogvx.cache.records import pack_prompt
from cogvx.check import check_file
from cogvx.digest import sha256_file
from cogvx.evaluation.documents import EvaluationReport
from cogvx.evaluation.render import Arm
from cogvx.evaluation.suite import load_suite
from cogvx.inference.batch import AdapterAtWeight
from cogvx.inference.session import Session
from cogvx.model.identity import TEXT_PARTS, fingerprint
from cogvx.mp4 import read_mp4
from cogvx.runs.folder import RunFolder, TrainOutcome
from cogvx.store import LocalStore
from flows.evaluate import evaluate
from flows.generate import generate_shard
from flows.measure import measure_shard
from tasks.clients.registry import Reason, Version
from tasks.documents import EvaluateReport
from tasks.evaluation.contest import hold_contest
from tasks.evaluation.evaluate import judge_evaluation
from tasks.evaluation.evaluate_plan import enter_evaluation, plan_evaluation
from tasks.evaluation.stills import stills_of
from tasks.settings import settings
from tasks.training.finished import finished_run, keep_run
from tasks.training.register import open_registry, register_adapter
from tasks.workbench import Workbench, open_workbench
from tests.adapters.toys import toy_adapter
from tests.e2e.conftest import RECIPE, Place, make_place
from tests.fixtures.deployed import EVALUATE_POOL, deploy_beside
from tests.fixtures.forks import Forks, Job
from tests.fixtures.servers import running

SUITE = """
schema_version = 1
name = "toy"
split = "gate"
seeds = [1]

[sampling]
steps = 2
guidance = 1.0
sampler = "dpm"

[[prompts]]
id = "circle"
prompt = "a red circle over a black background"

[[prompts]]
id = "square"
prompt = "a blue square over a white background"

[gate]
primaries = ["{primary}"]
screen = {screen}
second_look = {second_look}
"""
REASON = Reason("a test")
PROMPTS, SEEDS = 2, 3
ARM = PROMPTS * SEEDS
"""Videos of an arm after both looks: HOLD is certain, as two prompts prove next to nothing."""


@dataclass
class Studio:
    """A home with cached clips, in which adapters are registered that nobody trained."""

    place: Place
    base: Path
    clips: Path
    forks: Forks

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.place.home / "store")

    def recipe(self, number: int = 1, **rule: str) -> Path:
        """Of one challenger: another learning rate is another run, and another version."""
        name = "-".join([str(number), *rule.values()])
        suite = self.place.root / f"suite-{'-'.join(['of', *rule.values()])}.toml"
        usual = {"primary": "temporal_flickering", "screen": "false", "second_look": "true"}
        suite.write_text(SUITE.format(**usual | rule))
        text = RECIPE.format(
            name="toy", base=self.base, clips=self.clips, steps=8, suite=suite
        ).replace("learning_rate = 2e-3", f"learning_rate = {number}e-3")
        path = self.place.root / f"recipe-{name}.toml"
        path.write_text(text)
        return path

    def bench(self, recipe: Path) -> Workbench:
        return open_workbench(check_file(recipe).recipe, purpose="judge")

    def register(self, recipe: Path, number: int, *, idle: bool = False) -> Version:
        """As if it had been trained; a number gives one adapter, always. `idle` acts nowhere."""
        bench = self.bench(recipe)
        run = bench.run_identity(bench.latest_manifest())
        if finished_run(bench, run) is None:
            folder = RunFolder(bench.settings.run_folder(run))
            file = toy_adapter(bench.base, folder.adapter, run=run, seed=number)
            if idle:
                silence(file)
            outcome = TrainOutcome(
                status="completed", step=8, steps=8, adapter_sha256=sha256_file(file)
            )
            keep_run(bench, folder, run, outcome)
        register_adapter.fn(bench)
        found = open_registry(bench).find_version("toy", run)
        assert found is not None
        return found

    def start(self, *words: object, **settings: str) -> Job:
        return self.forks.start(
            "tests.fixtures.forks:call_cli",
            *map(str, words),
            environment={**self.place.environment, **settings},
            cwd=self.place.root,
        )

    def evaluate(self, recipe: Path) -> tuple[EvaluateReport, EvaluationReport]:
        """The flow, in this process: what it says and what it wrote."""
        url = self.place.environment["PREFECT_API_URL"]
        with temporary_settings({PREFECT_API_URL: url}):
            told = evaluate(check_file(recipe).recipe)
        return told, EvaluationReport.model_validate_json(self.pages(recipe)["report.json"])

    def pages(self, recipe: Path) -> dict[str, bytes]:
        """What a person reads of the newest evaluation."""
        bench = self.bench(recipe)
        folder = bench.settings.report_folder(bench.run_identity(bench.latest_manifest()))
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def videos(self) -> dict[str, int]:
        return {
            info.key: (self.store.root / info.key).stat().st_mtime_ns
            for info in self.store.entries("videos/")
        }


def silence(file: Path) -> None:
    """Set B to zero, and leave everything else as it is."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    silent = {
        name: torch.zeros_like(tensor) if ".lora_B." in name else tensor
        for name, tensor in tensors.items()
    }
    save_file(silent, file, metadata)


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory,
    nano_base: Path,
    world_clips: Path,
    prefect_url: str,
    forks: Forks,
) -> Iterator[Studio]:
    root = tmp_path_factory.mktemp("studio")
    place = make_place(root, root / "none", PREFECT_API_URL=prefect_url, COGVX_DEVICE="cpu")
    studio = Studio(place, nano_base, world_clips, forks)
    studio.start("cache", studio.recipe()).succeed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(place.home))
        patch.setenv("COGVX_DEVICE", "cpu")
        settings.cache_clear()
        yield studio
    settings.cache_clear()


@pytest.fixture(scope="module")
def first(studio: Studio) -> EvaluationReport:
    """The first challenger, against the bare base, from the command line."""
    studio.register(studio.recipe(1), 1)
    printed = studio.start("evaluate", studio.recipe(1)).succeed()
    assert f"{2 * ARM} rendered, 0 reused" in printed
    return EvaluationReport.model_validate_json(studio.pages(studio.recipe(1))["report.json"])


def test_hold_buys_two_more_seeds_once(studio: Studio, first: EvaluationReport) -> None:
    assert (first.verdict.outcome, first.verdict.look) == ("HOLD", 2)
    assert len(first.seeds) == SEEDS
    assert len(first.videos) == len(studio.videos()) == 2 * ARM
    assert first.changes == ()


def test_a_second_evaluation_renders_nothing_and_gives_the_same_report(
    studio: Studio, first: EvaluationReport
) -> None:
    before, pages = studio.videos(), studio.pages(studio.recipe(1))
    told, _ = studio.evaluate(studio.recipe(1))
    assert (told.videos_rendered, told.videos_reused) == (0, 2 * ARM)
    assert studio.videos() == before
    again = studio.pages(studio.recipe(1))
    assert json.loads(again["report.json"]) == json.loads(pages["report.json"])
    assert again == pages


def test_a_new_challenger_renders_exactly_its_own_arm(
    studio: Studio, first: EvaluationReport
) -> None:
    before = studio.videos()
    studio.register(studio.recipe(2), 2)
    told, report = studio.evaluate(studio.recipe(2))
    assert (told.videos_rendered, told.videos_reused) == (ARM, ARM)
    new = studio.videos().keys() - before.keys()
    its_own = {video.key for video in report.videos if video.arm == "challenger v2"}
    assert {Path(key).stem for key in new} == its_own
    assert len(its_own) == ARM
    assert before.items() <= studio.videos().items(), "nothing was rendered again"


def test_against_a_champion_nothing_is_rendered_and_the_page_says_what_changed(
    studio: Studio, first: EvaluationReport
) -> None:
    bench = studio.bench(studio.recipe(1))
    open_registry(bench).crown("toy", 1, expected_champion=None, reason=REASON)
    told, report = studio.evaluate(studio.recipe(2))
    assert (told.videos_rendered, told.videos_reused) == (0, 3 * ARM)
    assert [arm.name for arm in report.arms] == ["base", "champion v1", "challenger v2"]
    (change,) = report.changes
    assert (change.setting, change.reference, change.candidate) == (
        "train.learning_rate",
        "0.001",
        "0.002",
    )


def test_a_champion_that_moved_makes_the_verdict_invalid(
    studio: Studio, first: EvaluationReport
) -> None:
    bench = studio.bench(studio.recipe(2))
    work = plan_evaluation.fn(bench, enter_evaluation.fn(bench), ())
    assert work.cuts == ()
    registry = open_registry(bench)
    registry.crown("toy", 2, expected_champion=1, reason=REASON)
    again = judge_evaluation.fn(bench, work, ())
    report = judge_evaluation.fn(bench, again, ())
    assert report.verdict == "INVALID"
    (said,) = report.reasons
    assert said == (
        "The champion changed while this was judged: it was version 1 at the start, and it was"
        " version 2 at the end."
    )
    registry.roll_back("toy", expected_champion=2, reason=REASON)


def test_a_screen_stops_before_any_video(studio: Studio, first: EvaluationReport) -> None:
    before = studio.videos()
    recipe = studio.recipe(3, screen="true")
    studio.register(recipe, 3, idle=True)
    told, report = studio.evaluate(recipe)
    assert (report.verdict.outcome, report.verdict.stage) == ("REJECT", "screen")
    assert (told.videos_rendered, told.videos_reused) == (0, 0)
    assert report.videos == ()
    assert studio.videos() == before


def test_a_video_that_cannot_be_rendered_is_named_and_the_others_are_kept(
    studio: Studio, first: EvaluationReport
) -> None:
    """The text encoder gave nonsense for one prompt, long ago."""
    studio.register(studio.recipe(4), 4)
    bench, store = studio.bench(studio.recipe(4)), studio.store
    key = PromptKey(
        text="a blue square over a white background",
        encoder_fingerprint=fingerprint(studio.base, TEXT_PARTS),
        max_length=bench.facts.text_tokens,
        dtype="float32",
        batch=1,
    )
    whole, before = store.read(key.path), studio.videos()
    nonsense_sd = torch.full((bench.facts.text_tokens, bench.facts.text_dim), torch.nan)
    store.write(key.path, pack_prompt(key, nonsense_sd))
    told, report = studio.evaluate(studio.recipe(4))
    assert told.verdict == "INVALID"
    (said,) = [reason for reason in told.reasons if "square, seed 1" in reason]
    assert said.startswith("challenger v4's video of prompt square, seed 1 could not be rendered:")
    assert "not finite" in said
    assert len(studio.videos().keys() - before.keys()) == 1, "the other prompt's"
    assert {video.prompt for video in report.videos if video.faults} == {"square"}
    store.write(key.path, whole)
    mended, report = studio.evaluate(studio.recipe(4))
    assert report.verdict.outcome == "HOLD"
    made = studio.videos().keys() - before.keys()
    assert len(made) == ARM
    assert (mended.videos_rendered, mended.videos_reused) == (ARM - 1, 2 * ARM + 1)


def test_an_adapter_without_effect_is_not_rendered(studio: Studio, first: EvaluationReport) -> None:
    recipe, before = studio.recipe(7), studio.videos()
    studio.register(recipe, 7, idle=True)
    told, report = studio.evaluate(recipe)
    assert told.verdict == "INVALID"
    assert "its adapter changes nothing" in report.verdict.headline
    assert studio.videos() == before


def test_videos_made_by_people_are_not_judged_before_their_adapter_is_proved(
    studio: Studio, first: EvaluationReport
) -> None:
    """As after `cogvx generate` with an evaluation's prompts: the videos are there, no proof is."""
    proofs = [info.key for info in studio.store.entries("proofs/")]
    for key in proofs:
        studio.store.delete(key)
    before = studio.videos()
    told, _ = studio.evaluate(studio.recipe(2))
    assert (told.videos_rendered, told.videos_reused) == (0, 3 * ARM)
    assert studio.videos() == before
    assert len([info.key for info in studio.store.entries("proofs/")]) == 2, "of both adapters"


def test_a_damaged_video_is_rendered_again(studio: Studio, first: EvaluationReport) -> None:
    key, before = video_of_the_base(studio), studio.videos()
    whole = studio.store.read(key)
    studio.store.write(key, whole[: len(whole) // 2])
    told, _ = studio.evaluate(studio.recipe(1))
    assert told.videos_rendered == 1
    assert studio.store.read(key) == whole
    assert studio.videos().keys() == before.keys()


def video_of_the_base(studio: Studio) -> str:
    """Where the store has one of the videos that every report needs."""
    report = json.loads(studio.pages(studio.recipe(1))["report.json"])
    stem = next(video["key"] for video in report["videos"] if video["arm"] == "base")
    return f"videos/{stem[:2]}/{stem}.mp4"


def test_a_killed_evaluation_gives_the_same_report(studio: Studio, first: EvaluationReport) -> None:
    studio.register(studio.recipe(5), 5)
    recipe, before = studio.recipe(5), studio.videos()

    def new(folder: str) -> int:
        return sum(1 for info in studio.store.entries(folder) if info.key not in before)

    scores = new("scores/")
    moments: list[Callable[[], bool]] = [
        lambda: new("videos/") >= 1,
        lambda: new("videos/") >= 4,
        lambda: new("videos/") >= ARM and new("scores/") > scores,
    ]
    for is_time in moments:
        job = studio.start("evaluate", recipe)
        while not is_time():
            time.sleep(0.01)
        os.kill(job.pid, signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
    told, _ = studio.evaluate(recipe)
    killed = studio.pages(recipe)
    assert (told.videos_rendered, told.videos_reused) == (0, 3 * ARM)
    for key in studio.videos().keys() - before.keys():
        studio.store.delete(key)
    told, _ = studio.evaluate(recipe)
    assert (told.videos_rendered, told.videos_reused) == (ARM, 2 * ARM)
    again = studio.pages(recipe)
    assert json.loads(again["report.json"]) == json.loads(killed["report.json"])
    assert again == killed


def test_the_report_shows_the_clips_that_videos_resemble(
    studio: Studio, first: EvaluationReport
) -> None:
    bench = studio.bench(studio.recipe(1))
    manifest = bench.latest_manifest()
    stills = stills_of(bench, first, manifest)
    near = {each.clip for each in first.neighbours if each.arm == "challenger v1"}
    assert stills.keys() == near <= {clip.key for clip in manifest.train}
    clip = next(iter(stills))
    source = bench.dataset.fetch(clip, bench.work)
    with Image.open(stills[clip]) as still:
        shown_hwc = np.asarray(still).astype(int)
    assert abs(shown_hwc - read_mp4(source).rgb_fhwc[4].astype(int)).mean() < 2


def test_measuring_on_a_pool_gives_the_same_report_and_loads_no_base_here(
    studio: Studio,
    first: EvaluationReport,
    prefect_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two workers with one slot between them; the videos are there, nothing else is."""
    recipe = studio.recipe(1, second_look="false", primary="heldout_loss")
    suite = Path(check_file(recipe).recipe.evaluation.suite)
    away = suite.read_text().replace('id = "square"', 'id = "square"\ngroup = "off_domain"')
    suite.write_text(away)
    for key in measured_in(studio.store):
        studio.store.delete(key)
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as client:
        deployment = deploy_beside(client, measure_shard, pool=EVALUATE_POOL)
        slots = GlobalConcurrencyLimitCreate(name="cogvx-measured", limit=1)
        client.create_global_concurrency_limit(slots)
    command = ["env", "-C", str(studio.place.root), sys.executable, "-m", "prefect", "worker"]
    command += ["start", "--pool", EVALUATE_POOL, "--limit", "2"]
    worker = {"PREFECT_HOME": str(tmp_path), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    worker |= {"COGVX_GPU_SLOTS": slots.name}
    with running(command, tmp_path / "log", {**studio.place.environment, **worker}):
        monkeypatch.setenv("COGVX_MEASURE_DEPLOYMENT", deployment)
        settings.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(
                Session, "open", lambda *_words, **_named: pytest.fail("a base is loaded")
            )
            told, report = studio.evaluate(recipe)
    assert told.videos_rendered == 0
    pooled = studio.pages(recipe)
    made = {key: studio.store.read(key) for key in measured_in(studio.store)}
    assert len(made) == 2 * 2 + 1, "two sets of losses of each arm, and a drift"
    assert any(reading.metric == "base_drift" for reading in report.readings)
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(slots.name).active_slots == 0
    for key in made:
        studio.store.delete(key)
    monkeypatch.delenv("COGVX_MEASURE_DEPLOYMENT")
    settings.cache_clear()
    studio.evaluate(recipe)
    assert {key: studio.store.read(key) for key in measured_in(studio.store)} == made
    assert studio.pages(recipe) == pooled


def measured_in(store: LocalStore) -> list[str]:
    return [info.key for folder in ("heldout/", "drift/") for info in store.entries(folder)]


@pytest.mark.slow
def test_shards_on_a_pool_render_the_same_bytes(
    studio: Studio, first: EvaluationReport, prefect_url: str, tmp_path: Path
) -> None:
    recipe = studio.recipe(6, second_look="false")
    studio.register(recipe, 6)
    before = studio.videos().keys()
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as client:
        deployment = deploy_beside(client, generate_shard, pool=EVALUATE_POOL)
    place = studio.place
    command = ["env", "-C", str(place.root), sys.executable, "-m", "prefect", "worker", "start"]
    command += ["--pool", EVALUATE_POOL, "--limit", "2"]
    worker = {"PREFECT_HOME": str(tmp_path), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    pooled = {"COGVX_GENERATE_DEPLOYMENT": deployment, "COGVX_GENERATE_SHARD_VIDEOS": "1"}
    with running(command, tmp_path / "log", {**place.environment, **worker}):
        printed = studio.start("evaluate", recipe, **pooled).succeed()
    pages, new = studio.pages(recipe), studio.videos().keys() - before
    assert f"{PROMPTS} rendered, {2 * PROMPTS} reused" in printed
    assert len(new) == PROMPTS
    made = {key: studio.store.read(key) for key in new}
    for key in new:
        studio.store.delete(key)
    studio.evaluate(recipe)
    assert {key: studio.store.read(key) for key in new} == made
    assert studio.pages(recipe) == pages


def test_a_contest_needs_no_server_and_measures_nothing_twice(
    studio: Studio, first: EvaluationReport, tmp_path: Path
) -> None:
    bench = studio.bench(studio.recipe(1))
    suite, manifest = load_suite(Path(bench.recipe.evaluation.suite)), bench.latest_manifest()
    file = toy_adapter(studio.base, tmp_path, seed=9)
    arms = (Arm("base"), Arm("other", (AdapterAtWeight(sha256_file(file), file),)))
    tracked = (studio.place.home / "mlflow.db").stat().st_mtime_ns
    before, losses = studio.videos(), set(studio.store.entries("heldout/"))
    held = hold_contest(bench, arms, suite, manifest, model="toy", provenance={})
    assert (held.report.verdict.outcome, held.report.verdict.look) == ("HOLD", 2)
    assert sum(video.fresh for arm in held.arms for video in arm.videos) == PROMPTS * 2
    assert len(studio.videos().keys() - before.keys()) == ARM
    assert len(set(studio.store.entries("heldout/")) - losses) == 2, "the base's were there"
    again = hold_contest(bench, arms, suite, manifest, model="toy", provenance={})
    assert json.loads(again.report.model_dump_json()) == json.loads(held.report.model_dump_json())
    assert (studio.place.home / "mlflow.db").stat().st_mtime_ns == tracked

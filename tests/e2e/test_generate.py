"""`cogvx generate` as people run it, killed and run again; and its flow, in shards of this process.

The tests of the flow tell one story, in order: a job with videos that cannot be made, and again.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from cogvx.adapters.export import export_adapter
from cogvx.inference.provenance import read_provenance
from cogvx.model.identity import BASE_PARTS, fingerprint
from flows.generate import generate_shard
from tests.adapters.toys import toy_card, trained
from tests.e2e.conftest import Place, make_place
from tests.fixtures.deployed import EVALUATE_POOL, deploy_beside
from tests.fixtures.forks import Forks, Job
from tests.fixtures.servers import running

PROMPT = "a large red circle moves left over a blue background"
QUICK = ("--steps", "1", "--guidance", "1")


@pytest.fixture(scope="module")
def adapter(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = toy_card(
        base_path=str(nano_base),
        base_fingerprint=fingerprint(nano_base, BASE_PARTS),
        size="9x48x48",
        fps=8,
    )
    return export_adapter(trained(nano_base), tmp_path_factory.mktemp("adapter"), card=card)


def place_at(root: Path, prefect_url: str) -> Place:
    return make_place(
        root, root / "none", PREFECT_API_URL=prefect_url, COGVX_DEVICE="cpu", OMP_NUM_THREADS="1"
    )


@pytest.fixture
def desk(tmp_path: Path, prefect_url: str) -> Place:
    return place_at(tmp_path, prefect_url)


def start(forks: Forks, place: Place, *words: object) -> Job:
    call = "tests.fixtures.forks:call_cli"
    plain = ["generate", *map(str, words)]
    return forks.start(call, *plain, environment=place.environment, cwd=place.root)


def refused(job: Job) -> str:
    status, printed = job.wait(), job.output.read_text()
    assert status == 2, printed
    assert "Traceback" not in printed
    return printed


def stored(place: Place) -> dict[Path, int]:
    found = (place.home / "store" / "videos").rglob("[!.]*.mp4")
    return {path: path.stat().st_mtime_ns for path in found}


def test_a_person_makes_a_video_and_asks_what_made_it(
    forks: Forks, desk: Place, adapter: Path
) -> None:
    words = ("--adapter", f"{adapter}:0.6", "--prompt", PROMPT, "--seed", 1, *QUICK)
    printed = start(forks, desk, *words, "-o", "out.mp4").succeed()
    assert "made" in printed
    assert "there     out.mp4" in start(forks, desk, *words, "-o", "out.mp4").succeed()
    shown = start(forks, desk, "--show", "out.mp4").succeed()
    for part in (PROMPT, "seed      1", f"{adapter} at 0.6", "dpm, 1 steps, guidance 1"):
        assert part in shown
    other = start(forks, desk, *words, "--seed", 2, "-o", "out.mp4")
    assert "2 videos are asked for" in refused(other)
    other = start(forks, desk, *words[:-6], "--seed", 2, *QUICK, "-o", "out.mp4")
    assert "is another video; use --force" in refused(other)
    assert len(stored(desk)) == 1


def test_all_that_is_wrong_with_a_command_is_said_at_once(
    forks: Forks, desk: Place, nano_base: Path
) -> None:
    (desk.root / "p.jsonl").write_text(
        '{"prompt": "a"}\n{"promt": "b"}\n{"prompt": "c", "seed": -1}'
    )
    words = ("--adapter", "absent:0.5", "--base", nano_base, "--prompts", "p.jsonl", "--steps", 30)
    words += ("--scale", "0,x", "--sampler", "euler", "--prompt", "a", "--size", "9x50x48")
    said = refused(start(forks, desk, *words))
    for part in (
        "p.jsonl, line 2.prompt is missing",
        "p.jsonl, line 2.promt",
        "p.jsonl, line 3.seed = -1 is too small",
        'scale = "0,x" is no list of numbers',
        'sampler = "euler" is not known; use one of "dpm" or "ddim"',
        "-o is missing",
        "there is no file absent",
        "sampling.steps = 30 does not divide 1000",
        "has a side that is not a multiple of 8",
    ):
        assert part in said, said
    assert stored(desk) == {}
    assert "prompt is missing; give --prompt" in refused(start(forks, desk, "-o", "a.mp4"))


def test_a_killed_run_goes_on_with_the_next_video(
    forks: Forks, desk: Place, nano_base: Path
) -> None:
    (desk.root / "p.txt").write_text("\n".join(f"a circle {number}" for number in range(4)))
    words = ("--base", nano_base, "--dtype", "float32", "--prompts", "p.txt", "-o", "out", *QUICK)
    job = start(forks, desk, *words)
    while len(kept := stored(desk)) < 2:
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    kept = stored(desk)
    assert 2 <= len(kept) < 4
    start(forks, desk, *words).succeed()
    after = stored(desk)
    assert len(after) == 4
    assert kept.items() <= after.items(), "what was finished was not made again"
    assert sorted(path.name for path in (desk.root / "out").glob("[!.]*")) == [
        f"00{number + 1}-a-circle-{number}-seed0.mp4" for number in range(4)
    ]


# The flow


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, prefect_url: str) -> Place:
    return place_at(tmp_path_factory.mktemp("studio"), prefect_url)


WORDS = ("--seed", 1, "--seed", 2, *QUICK, "--scale", "0,1,1e38", "--into-store", "look")


def run(forks: Forks, studio: Place, adapter: Path, *more: object) -> Job:
    first = ("--adapter", adapter, "--prompt", PROMPT)
    return start(forks, studio, *first, *WORDS, *more)


@pytest.fixture(scope="module")
def done(forks: Forks, studio: Place, adapter: Path) -> str:
    """What a job says of which two videos cannot be made: at this scale all is infinite."""
    return run(forks, studio, adapter).succeed()


def folder(studio: Place) -> Path:
    return studio.home / "store" / "generated" / "look"


def test_videos_that_cannot_be_made_are_named_and_the_others_are_there(
    done: str, studio: Place
) -> None:
    assert "4 made, 0 there before, 2 failed" in done
    assert done.count("not finite") >= 2
    lines = [json.loads(line) for line in (folder(studio) / "index.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["scale"]) for line in lines] == [
        (seed, scale) for seed in (1, 2) for scale in (0.0, 1.0, 1e38)
    ]
    for line in lines:
        if line["scale"] > 1:
            assert line["file"] is None
            assert "not finite" in line["why"]
            continue
        found = read_provenance(folder(studio) / line["file"])
        assert found is not None
        assert (found.video, found.seed, found.prompt) == (line["video"], line["seed"], PROMPT)
        assert [used.weight for used in found.adapters] == ([1.0] if line["scale"] else [])
    prompts = (studio.home / "store" / "records" / "prompts").rglob("*.safetensors")
    assert len(list(prompts)) == 1, "guidance of 1 takes no negative one"
    page = (folder(studio) / "index.html").read_text()
    assert page.count("<video ") == 4
    assert all(f'src="{line["file"]}"' in page for line in lines if line["file"])
    assert "2 of them could not be made" in page


def test_a_second_run_makes_nothing_and_another_job_needs_another_name(
    done: str, forks: Forks, studio: Place, adapter: Path
) -> None:
    before = stored(studio)
    again = run(forks, studio, adapter).succeed()
    assert "0 made, 4 there before, 2 failed" in again
    assert stored(studio) == before
    assert "is of another job" in refused(run(forks, studio, adapter, "--fps", 16))


def test_a_video_that_was_removed_is_put_back_without_being_made(
    done: str, forks: Forks, studio: Place, adapter: Path
) -> None:
    before = stored(studio)
    video = min((folder(studio) / "videos").iterdir())
    data = video.read_bytes()
    video.unlink()
    assert "1 made, 3 there before, 2 failed" in run(forks, studio, adapter).succeed()
    assert video.read_bytes() == data
    assert stored(studio) == before


@pytest.mark.slow
def test_shards_on_a_pool_make_the_same_videos(
    done: str, forks: Forks, studio: Place, adapter: Path, prefect_url: str, tmp_path: Path
) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as client:
        deployment = deploy_beside(client, generate_shard, pool=EVALUATE_POOL)
    (tmp_path / "pooled").mkdir()
    pooled = place_at(tmp_path / "pooled", prefect_url)
    settings = {"COGVX_GENERATE_DEPLOYMENT": deployment, "COGVX_GENERATE_SHARD_VIDEOS": "3"}
    command = ["env", "-C", str(pooled.root), sys.executable, "-m", "prefect", "worker", "start"]
    command += ["--pool", EVALUATE_POOL, "--limit", "2"]
    environment = {
        **pooled.environment,
        "PREFECT_HOME": str(tmp_path / "worker"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    with running(command, tmp_path / "log", environment):
        pooled.environment.update(settings)
        printed = run(forks, pooled, adapter).succeed()
    assert "4 made, 0 there before, 2 failed" in printed
    names = sorted(path.name for path in stored(studio))
    assert sorted(path.name for path in stored(pooled)) == names
    assert {path.name: path.read_bytes() for path in (folder(pooled) / "videos").iterdir()} == {
        path.name: path.read_bytes() for path in (folder(studio) / "videos").iterdir()
    }
    shards = list((pooled.home / "store" / "plans").iterdir())
    assert len(shards) == 2

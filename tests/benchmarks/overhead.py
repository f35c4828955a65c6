"""What work pools cost: the same retraining over pools and in one process, and how soon it begins.

    python -m tests.benchmarks.overhead [--rounds 3] [--events 5]

Both arms use the same Prefect server, MLflow, S3 server and machine, in turns, with clips and a
model of their own in each round, so that nothing is found done. Inline is `cogvx retrain RECIPE`,
which is how one person works; over pools a run of the deployment has shards, training, videos and
losses made by the workers of three GPU pools, each in a process of its own that first imports the
GPU stack. What that costs is per run and not per clip, so it is told in seconds for each of those
runs, and as a ratio for this chain, which is as short as a chain can be. Then an event is sent for
clips that are known, and timed until Prefect says that the run has begun, and until it has found
nothing new. It ends with 1 when it misses what it promises on two quiet cores:

    children   what each run on a pool adds, median: at most 20 s
    begin      from the event until the run begins, median: at most 20 s
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from uuid import UUID

from prefect.client.schemas.objects import FlowRun

from cogvx.check import check_file
from cogvx.data.arrivals import Arrival
from tasks.caching.arrivals import announce
from tests.fixtures.s3 import BUCKET, S3Server, moto
from tests.fixtures.shop import CLIPS, Shop
from tests.fixtures.team import POOLS, Team, team

PER_RUN, BEGIN = 20.0, 20.0


def opened(root: Path, server: S3Server, name: str, *, seed: int) -> Shop:
    (root / name).mkdir()
    return Shop.open(root / name, server, name=name, seed=seed)


def inline(crew: Team, work: Shop) -> float:
    """Seconds of the command, its start included."""
    folder = work.root
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "flows.cli", "retrain", str(work.recipe)],
        cwd=folder,
        env=crew.environment(folder),
        check=True,
        capture_output=True,
    )
    return time.monotonic() - began


def over_pools(crew: Team, work: Shop) -> tuple[float, list[FlowRun]]:
    """Seconds from the request to the last word, and the runs on GPU pools that it took."""
    before = crew.gpu_runs()
    began = time.monotonic()
    crew.finish(crew.start("retrain/team", recipe=document(work)))
    took = time.monotonic() - began
    runs = crew.runs()
    return took, [runs[each] for each in crew.gpu_runs() - before]


def until_begun(run: FlowRun) -> float:
    """Seconds that a run waited for a worker and for its process to be ready."""
    assert run.start_time is not None
    assert run.expected_start_time is not None
    return (run.start_time - run.expected_start_time).total_seconds()


def document(work: Shop) -> dict[str, object]:
    return check_file(work.recipe).recipe.model_dump(mode="json", exclude_none=True)


def from_event(crew: Team, uri: str, number: int) -> tuple[float, float]:
    """Seconds until the run that an event starts has begun, and until it has ended."""
    known, sent = set(crew.runs()), datetime.now(UTC)
    fields = {"added": 1, "removed": 0, "changed": 0, "settled": True, "files": {}}
    announce(uri, Arrival(seq=number, dataset=uri, when=sent.timestamp(), **fields))

    def look() -> UUID | None:
        found = [each for each in crew.runs().values() if each.id not in known]
        return next((run.id for run in found if "retrain" in run.name), None)

    run = crew.finish(crew.wait(look))
    assert run.start_time is not None
    assert run.end_time is not None
    return (run.start_time - sent).total_seconds(), (run.end_time - sent).total_seconds()


def told(name: str, seconds: Sequence[float], more: str = "") -> float:
    """Print a median with what it is of; returns it."""
    each = ", ".join(f"{value:.1f}" for value in sorted(seconds))
    print(f"  {name:<34}{median(seconds):7.1f} s   ({each}){more}", flush=True)
    return median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=5)
    asked = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(moto(root))
        first = opened(root, server, "team", seed=0)
        began = time.monotonic()
        (root / "team-of-processes").mkdir()
        crew = stack.enter_context(
            team(
                root / "team-of-processes",
                server,
                prefix=f"s3://{BUCKET}/kept",
                secrets={"user": "team", "password": "none"},
                deploy=first.apply,
            )
        )
        print(f"{len(POOLS)} workers up in {time.monotonic() - began:.1f} s", flush=True)
        ended = compare(crew, root, first, asked)
    sys.exit(0 if ended else 1)


def compare(crew: Team, root: Path, first: Shop, asked: argparse.Namespace) -> bool:
    """Run everything and print it; whether it keeps what it promises."""
    alone, pooled, waits, children = [], [], [], []
    for number in range(asked.rounds):
        works = [
            opened(root, first.server, f"{arm}-{number}", seed=10 * number + ord(arm))
            for arm in "ap"
        ]
        for work in works if number % 2 else reversed(works):
            if work.name.startswith("a"):
                alone.append(inline(crew, work))
                print(f"  round {number + 1}, in one process: {alone[-1]:.1f} s", flush=True)
            else:
                seconds, runs = over_pools(crew, work)
                pooled.append(seconds)
                print(f"  round {number + 1}, over pools: {seconds:.1f} s", flush=True)
                children.append(len(runs))
                waits += [until_begun(run) for run in runs]
    print(f"retrain of {CLIPS} clips, {asked.rounds} rounds")
    told("in one process", alone)
    told("over pools", pooled)
    ratio = median(there / here for there, here in zip(pooled, alone, strict=True))
    extra = [
        (there - here) / runs for there, here, runs in zip(pooled, alone, children, strict=True)
    ]
    print(f"  over pools / in one process       {ratio:7.2f}")
    each = told(f"more, for each of {median(children):g} runs", extra, f"   at most {PER_RUN:g}")
    told("a run waits for its process", waits)
    print(f"an event, {asked.events} times")
    crew.finish(crew.start("retrain/team", recipe=document(first)))
    events = [from_event(crew, first.uri, number) for number in range(1, asked.events + 1)]
    begin = told("until the run begins", [began for began, _ in events], f"   at most {BEGIN:g}")
    told("until it found nothing new", [ended for _, ended in events])
    print(
        json.dumps({"ratio": round(ratio, 3), "per_run": round(each, 2), "begin": round(begin, 2)})
    )
    return each <= PER_RUN and begin <= BEGIN


if __name__ == "__main__":
    main()

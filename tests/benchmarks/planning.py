"""What a night costs on which nothing changed: seconds, requests, MiB and memory; no torch.

    python -m tests.benchmarks.planning [CLIPS] [--folder-only] [--moto] [--beside]

Clips, captions (in a metadata.jsonl, or beside the clips), ledger, manifest and records are made
synthetically, in a folder and on an S3 server: Ceph's where it is installed, else moto's. Then
everything that a run does before it knows that nothing is missing is done once, as the cache flow
does it, in a process that did nothing before; the base model was named by an earlier one. Seconds
are of the clock. The server runs on the same cores, so what it took of them is told as well: moto
is Python, and needs longer for a page of names than we do.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvx.cache.index import index_cache
from cogvx.cache.plan import plan_cache, record_paths, samples
from cogvx.data.captions import normalise_caption
from cogvx.data.diff import diff_manifests
from cogvx.data.ingest import Ledger, ingest
from cogvx.data.ledger import Probed, ReadText
from cogvx.data.manifest import ClipFacts, ClipLook, Manifest
from cogvx.data.tokens import TokenCounter
from cogvx.digest import canonical_json, digest
from cogvx.model.nano.carried import carried_nano
from cogvx.recipe import Recipe
from cogvx.store import LocalStore, ObjectStore
from tasks.workbench import Workbench, open_workbench
from tests.benchmarks.servers import cpu_seconds, has_ceph, running_ceph, running_moto
from tests.fixtures.s3 import BUCKET, S3Server

LIMIT_S = 10.0
_PROMISED = 10_000  # for so many clips
_MIB = 1 << 20
_WEIGHTS_BYTES = 512 * _MIB
_SUITE = Path("deployments/suites/nano.toml").resolve()


@dataclass
class Meter:
    """What was asked of a server, and how long each step took."""

    requests: int = 0
    received: int = 0
    left: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_began: float = field(default_factory=time.process_time)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began

    def attach(self, client: Any) -> None:
        """Count what a boto3 client sends and receives."""
        client.meta.events.register("before-send.s3", self._sent)
        client.meta.events.register("before-parse.s3", self._parsed)
        client.meta.events.register("after-call.s3", self._answered)

    def _sent(self, **_: Any) -> None:
        self.requests += 1

    def _parsed(self, response_dict: dict[str, Any], **_: Any) -> None:
        body = response_dict["body"]
        self.received += len(body) if isinstance(body, bytes) else 0

    def _answered(self, parsed: dict[str, Any], **_: Any) -> None:
        self.received += parsed.get("ContentLength", 0) if "Body" in parsed else 0


@dataclass(frozen=True)
class Place:
    """Where a benchmark's objects lie: below a folder, or the same on a server."""

    root: Path
    clips: int
    server: S3Server | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a process that works here."""
        if self.server is None:
            return {"COGVX_HOME": str(self.root), "COGVX_STORE_URL": str(self.root / "store")}
        store = self.server.environment(f"s3://{BUCKET}/store")
        return {"COGVX_HOME": str(self.root), **store}

    @property
    def recipe(self) -> Recipe:
        """A recipe over these clips."""
        clips = f"s3://{BUCKET}/clips" if self.server else str(self.root / "clips")
        return Recipe.model_validate(
            {
                "name": "planning",
                "base": {"path": str(self.root / "base"), "dtype": "bfloat16"},
                "dataset": {"uri": clips},
                "video": {"frames": 49, "height": 480, "width": 720, "fps": 8},
                "train": {"steps": 1000},
                "evaluation": {"suite": str(_SUITE)},
            }
        )


def make_base(folder: Path) -> None:
    """The nano model with 512 MiB of further weights, which are named but never loaded."""
    shutil.copytree(carried_nano(), folder)
    with (folder / "transformer" / "more.safetensors").open("wb") as weights:
        weights.truncate(_WEIGHTS_BYTES)


def make(root: Path, clips: int, *, beside: bool) -> None:
    """Lay out the dataset as a folder: one byte for each clip, since nobody reads it."""
    rows = []
    for number in range(clips):
        folder = root / "clips" / f"{number % 100:02}"
        folder.mkdir(parents=True, exist_ok=True)
        clip = folder / f"{number:07}.mp4"
        clip.write_bytes(b"v")
        row = {"file_name": f"{folder.name}/{clip.name}", "text": _caption(number)}
        rows.append(json.dumps(row))
        if beside:
            clip.with_suffix(".txt").write_text(_caption(number))
    if not beside:
        (root / "clips" / "metadata.jsonl").write_text("\n".join(rows))


def remember(dataset: ObjectStore, store: ObjectStore) -> None:
    """Write the ledger, the manifest and empty records, as earlier nights left them."""
    ledger = Ledger(store, dataset.url)
    for info in dataset.entries():
        if info.key == "metadata.jsonl":
            continue
        found = {"size": info.size, "stamp": info.stamp}
        number = int(Path(info.key).stem)
        if info.key.endswith(".txt"):
            caption = normalise_caption(_caption(number))
            ledger.remember_text(info.key, ReadText.model_validate({**found, "caption": caption}))
            continue
        sha256 = hashlib.sha256(str(number).encode()).hexdigest()
        look = ClipLook(brightness=100.0, motion=5.0, frames_sha256=sha256[::-1])
        facts = ClipFacts(width=1280, height=720, frames=300, fps=30.0, codec="h264", look=look)
        probed = {**found, "sha256": sha256, "facts": facts}
        ledger.remember(info.key, Probed.model_validate(probed))
    ledger.save()


def night(bench: Workbench, meter: Meter) -> Manifest:
    """Everything before a run knows what is missing, once its workbench is open."""
    recipe, store = bench.recipe, bench.store
    with meter.step("ledger"):
        ledger = Ledger.load(store, bench.dataset.url)
    with meter.step("ingest"):
        manifest = ingest(
            bench.dataset,
            config=recipe.dataset,
            video=recipe.video,
            ledger=ledger,
            work=bench.work,
            on_progress=lambda _done, _total: None,
            count_tokens=TokenCounter.of(bench.base),
        )
    with meter.step("publish"):
        bench.shelf.publish(manifest)
    with meter.step("diff"):
        assert diff_manifests(bench.latest_manifest(), manifest).is_empty
    with meter.step("index"):
        index = index_cache(manifest, recipe, facts=bench.facts, ids=bench.ids)
        store.write(f"indexes/{digest(index)}.json", canonical_json(index))
    with meter.step("plan"):
        plan = plan_cache(manifest, recipe, facts=bench.facts, ids=bench.ids, store=store)
    meter.left = len(plan.clips) + len(plan.captions)
    return manifest


def fill_records(bench: Workbench, manifest: Manifest) -> None:
    """Empty records below a folder; planning asks for their names only."""
    wanted = samples(manifest.clips, bench.recipe, facts=bench.facts, ids=bench.ids)
    index = index_cache(manifest, bench.recipe, facts=bench.facts, ids=bench.ids)
    assert isinstance(bench.store, LocalStore)
    for path in record_paths(wanted, index.empty_prompt).values():
        (bench.store.root / path).parent.mkdir(parents=True, exist_ok=True)
        (bench.store.root / path).write_bytes(b"")


def report(name: str, clips: int, meter: Meter) -> float:
    """Print one row; returns the seconds of all steps."""
    assert not meter.left, f"{meter.left} records are missing"
    assert "torch" not in sys.modules
    total = sum(meter.seconds.values())
    cpu = time.process_time() - meter.cpu_began
    steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in meter.seconds.items())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:7} {clips} clips: {total:.2f} s ({steps}), {cpu:.2f} s of our CPU;"
        f" {meter.requests} requests, {meter.received / _MIB:.1f} MiB received;"
        f" peak {peak:.0f} MiB; torch not loaded; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return total


def work_in(place: Place, act: str) -> bool:
    """Prepare or measure a night in a process that did nothing before; whether it went well."""
    command = [sys.executable, "-m", "tests.benchmarks.planning", str(place.clips)]
    command += ["--act", act, "--root", str(place.root)]
    if place.server:
        command += ["--endpoint", place.server.endpoint_url, place.server.access_key]
        command += [place.server.secret_key]
    environment = {**os.environ, **place.environment}
    return subprocess.run(command, check=False, env=environment).returncode == 0


def act_on(place: Place, act: str) -> None:
    """What the process of `work_in` does."""
    meter = Meter()
    with meter.step("open"):
        bench = open_workbench(place.recipe, purpose="cache")
    if act == "prepare":
        remember(bench.dataset, bench.store)
    elif place.server:
        for store in (bench.dataset, bench.store):
            meter.attach(store._client)
    manifest = night(bench, meter)
    if act == "prepare":
        if place.server is None:
            fill_records(bench, manifest)
        return
    total = report("server" if place.server else "folder", place.clips, meter)
    if place.clips <= _PROMISED and total > LIMIT_S:
        sys.exit(f"that is more than the promised {LIMIT_S} s")


def on_a_server(root: Path, clips: int, *, moto: bool) -> bool:
    """Measure the same objects on an S3 server."""
    with running_moto(root) if moto else running_ceph(root) as (server, pids):
        place = Place(root, clips, server)
        if not work_in(place, "prepare"):
            return False
        before = cpu_seconds(pids)
        is_kept = work_in(place, "night")
        name = "moto" if moto else "Ceph"
        took = cpu_seconds(pids) - before
        print(f"        {name} itself took {took:.2f} s of CPU on the same cores", flush=True)
    return is_kept


def _caption(number: int) -> str:
    return (
        f"Take {number}: a small dog runs over a wet meadow towards the camera, stops, shakes"
        " itself and looks up; soft evening light, shallow depth of field."
    )


def main() -> None:
    """Measure both; a night over 10,000 clips that takes too long fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clips", nargs="?", type=int, default=10_000)
    parser.add_argument("--folder-only", action="store_true")
    parser.add_argument("--moto", action="store_true", help="even where Ceph is installed")
    parser.add_argument("--beside", action="store_true", help="captions in a .txt for each clip")
    parser.add_argument("--act", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.act:
        server = S3Server(*given.endpoint) if given.endpoint else None
        act_on(Place(given.root, given.clips, server), given.act)
    else:
        with tempfile.TemporaryDirectory() as folder:
            sys.exit(not compare(Path(folder), given))


def compare(root: Path, given: argparse.Namespace) -> bool:
    """Whether the promise was kept everywhere."""
    place = Place(root, given.clips)
    make(root, given.clips, beside=given.beside)
    make_base(root / "base")
    time.sleep(3)  # files younger than two seconds are hashed by every process
    kept = [work_in(place, "prepare") and work_in(place, "night")]
    if not given.folder_only:
        kept.append(on_a_server(root, given.clips, moto=given.moto or not has_ceph()))
    return all(kept)


if __name__ == "__main__":
    main()

"""What a night costs on which nothing changed: seconds, requests, MiB and memory; no torch.

    python -m tests.benchmarks.planning [CLIPS] [--folder-only] [--beside]

Clips, captions (in a metadata.jsonl, or beside the clips), ledger, manifest and records are made
synthetically, in a folder and on an S3 server (moto's, over HTTP, a process of its own). Then
everything that a run does before it knows that nothing is missing is done once, as the cache flow
does it. Seconds are of the clock; on a busy machine look at those of the CPU.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from cogvx.cache.index import index_cache
from cogvx.cache.plan import Identities, plan_cache, record_paths, samples
from cogvx.data.captions import normalise_caption
from cogvx.data.diff import diff_manifests
from cogvx.data.ingest import Ledger, ingest
from cogvx.data.ledger import Probed, ReadText
from cogvx.data.manifest import ClipFacts, ClipLook, Manifest
from cogvx.data.shelf import Shelf
from cogvx.data.tokens import TokenCounter
from cogvx.digest import canonical_json, digest
from cogvx.model.nano.carried import carried_nano
from cogvx.recipe import Recipe
from cogvx.store import LocalStore, ObjectStore
from cogvx.variants import PUBLISHED
from tests.fixtures.servers import free_port, listens, running, wait_until

LIMIT_S = 10.0
_PROMISED = 10_000  # for so many clips
_MIB = 1 << 20
_FACTS = PUBLISHED["CogVideoX-5b"]
_IDS = Identities(vae="0" * 64, text="1" * 64)
_SHELF = "manifests/benchmark"
_RECIPE = Recipe.model_validate(
    {
        "name": "planning",
        "base": {"path": "zai-org/CogVideoX-5b", "dtype": "bfloat16"},
        "dataset": {"uri": "clips"},
        "video": {"frames": 49, "height": 480, "width": 720, "fps": 8},
        "train": {"steps": 1000},
        "evaluation": {"suite": "suite.toml"},
    }
)


@dataclass
class Meter:
    """What was asked of a server, and how long each step took."""

    requests: int = 0
    received: int = 0
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
    endpoint: str = ""

    def open(self, meter: Meter | None = None) -> tuple[ObjectStore, ObjectStore]:
        """Dataset and store."""
        if not self.endpoint:
            return LocalStore(self.root / "clips"), LocalStore(self.root / "store")
        from tasks.clients.s3 import open_s3

        secret = SecretStr("anything")
        keys = {"access_key": secret, "secret_key": secret, "region": "us-east-1"}
        opened = [
            open_s3(f"s3://cogvx/{part}", endpoint_url=self.endpoint, **keys)
            for part in ("clips", "store")
        ]
        for store in opened if meter else ():
            meter.attach(store._client)
        return opened[0], opened[1]


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


def night(dataset: ObjectStore, store: ObjectStore, meter: Meter, work: Path) -> Manifest:
    """Everything before a run knows what is missing."""
    with meter.step("ledger"):
        ledger = Ledger.load(store, dataset.url)
    with meter.step("ingest"):
        manifest = ingest(
            dataset,
            config=_RECIPE.dataset,
            video=_RECIPE.video,
            ledger=ledger,
            work=work,
            on_progress=lambda _done, _total: None,
            count_tokens=TokenCounter.of(carried_nano()),
        )
    shelf = Shelf(store, _SHELF)
    with meter.step("publish"):
        shelf.publish(manifest)
    with meter.step("diff"):
        assert diff_manifests(shelf.read(shelf.latest_name() or ""), manifest).is_empty
    with meter.step("index"):
        index = index_cache(manifest, _RECIPE, facts=_FACTS, ids=_IDS)
        store.write(f"indexes/{digest(index)}.json", canonical_json(index))
    with meter.step("plan"):
        plan = plan_cache(manifest, _RECIPE, facts=_FACTS, ids=_IDS, store=store)
    meter.seconds["left to encode"] = len(plan.clips) + len(plan.captions)
    return manifest


def fill_records(manifest: Manifest, root: Path) -> None:
    """Empty records; planning asks for their names only."""
    wanted = samples(manifest.clips, _RECIPE, facts=_FACTS, ids=_IDS)
    plan = plan_cache(manifest, _RECIPE, facts=_FACTS, ids=_IDS, store=LocalStore(root / "none"))
    prompts = [caption.key for caption in plan.captions]
    for path in record_paths(wanted, *prompts).values():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def report(name: str, clips: int, meter: Meter) -> float:
    """Print one row; returns the seconds of all steps."""
    left = meter.seconds.pop("left to encode")
    assert not left, f"{left} records are missing"
    assert "torch" not in sys.modules
    total = sum(meter.seconds.values())
    cpu = time.process_time() - meter.cpu_began
    steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in meter.seconds.items())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:7} {clips} clips: {total:.2f} s ({steps}), {cpu:.2f} s of CPU;"
        f" {meter.requests} requests, {meter.received / _MIB:.1f} MiB received;"
        f" peak {peak:.0f} MiB; torch not loaded",
        flush=True,
    )
    return total


def prepare(place: Place, *, beside: bool) -> None:
    """Lay out a folder as earlier nights left it."""
    dataset, store = place.open()
    make(place.root, place.clips, beside=beside)
    remember(dataset, store)
    fill_records(night(dataset, store, Meter(), place.root / "work"), place.root / "store")


def measure(place: Place) -> bool:
    """One night, in a process that did nothing before; whether it kept the promise."""
    command = [sys.executable, "-m", "tests.benchmarks.planning", str(place.clips)]
    if place.endpoint:
        command += ["--endpoint", place.endpoint]
    done = subprocess.run([*command, "--night", str(place.root)], check=False)
    return done.returncode == 0


def on_a_server(place: Place) -> bool:
    """Measure the same objects on an S3 server."""
    port = free_port()
    log = place.root / "server.log"
    command = [sys.executable, "-m", "tests.benchmarks.planning"]
    command += ["--serve", str(port), str(place.root)]
    with running(command, log) as process:
        wait_until(lambda: listens(port), process, log)
        served = replace(place, endpoint=f"http://127.0.0.1:{port}")
        dataset, store = served.open()
        remember(dataset, store)
        night(dataset, store, Meter(), place.root / "work")
        return measure(served)


def serve(port: int, root: Path) -> None:
    """A moto server that holds what lies below `root` in the bucket cogvx."""
    from moto.core import DEFAULT_ACCOUNT_ID, serialize
    from moto.s3.models import s3_backends
    from moto.server import main

    # Half of the server's time on a listing is guessing at the form of its own timestamps.
    serialize.parse_to_aware_datetime = datetime.fromisoformat
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket("cogvx", "us-east-1")
    for part in ("clips", "store"):
        for info in LocalStore(root / part).entries():
            backend.put_object("cogvx", f"{part}/{info.key}", (root / part / info.key).read_bytes())
    main(["-H", "127.0.0.1", "-p", str(port)])


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
    parser.add_argument("--beside", action="store_true", help="captions in a .txt for each clip")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--night", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(int(arguments.serve[0]), Path(arguments.serve[1]))
    elif arguments.night:
        place = Place(Path(arguments.night), arguments.clips, arguments.endpoint)
        meter = Meter()
        night(*place.open(meter), meter, place.root / "work")
        total = report("server" if arguments.endpoint else "folder", arguments.clips, meter)
        if arguments.clips <= _PROMISED and total > LIMIT_S:
            sys.exit(f"that is more than the promised {LIMIT_S} s")
    else:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(Path(folder), arguments.clips)
            prepare(place, beside=arguments.beside)
            kept = [measure(place)]
            if not arguments.folder_only:
                kept.append(on_a_server(place))
        sys.exit(not all(kept))


if __name__ == "__main__":
    main()

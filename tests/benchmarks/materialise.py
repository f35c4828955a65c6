"""Verified records in a run folder against the same bytes by plain boto3, side by side.

    python -m tests.benchmarks.materialise --records 2000 --megabytes 2

The server is moto's in a process of its own, on this machine: it takes part of the same cores, and
gives bytes faster than a network would, which makes the work of verifying weigh more here.
Plain boto3 verifies nothing. Both use as many threads, and write files.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from cogvx.cache.keys import PromptKey
from cogvx.cache.materialise import READERS, materialise
from cogvx.cache.records import pack_prompt
from tasks.clients.s3 import S3Store
from tests.fixtures.s3 import BUCKET, S3Server
from tests.fixtures.servers import free_port, listens, running, wait_until

FLOOR = 0.80


def main() -> None:
    """Fill a store, then time both ways in turn and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--megabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=4)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        port, log = free_port(), root / "server.log"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with running(command, log) as process:
            wait_until(lambda: listens(port), process, log)
            server = S3Server(f"http://127.0.0.1:{port}", "access", "secret")
            server.make_bucket(BUCKET)
            store = server.open(f"s3://{BUCKET}/bench")
            names = _fill(store, wanted.records, round(wanted.megabytes * 1e6))
            kept = _compare(store, names, root, rounds=wanted.rounds, client=server.client())
    sys.exit(not kept)


def _fill(store: S3Store, count: int, size: int) -> dict[str, str]:
    """Put distinct records of about `size` bytes; returns where each lies by its name."""
    embedding_sd = torch.rand(size // 4096, 1024)

    def put(number: int) -> tuple[str, str]:
        key = PromptKey(f"caption {number}", "e" * 64, len(embedding_sd), "float32", batch=1)
        store.write(key.path, pack_prompt(key, embedding_sd + number))
        return key.digest, key.path

    with ThreadPoolExecutor(READERS) as writers:
        return dict(writers.map(put, range(count)))


def _compare(
    store: S3Store, names: dict[str, str], root: Path, *, rounds: int, client: Any
) -> bool:
    size = sum(entry.size for entry in store.entries("records/"))
    print(f"{len(names)} records, {size / 1e6:.0f} MB, {READERS} threads, moto in its own process")

    def ours(folder: Path) -> None:
        materialise(names, store, folder, on_progress=lambda done, total: None)

    def plain(folder: Path) -> None:
        _plain(client, store, names, folder)

    ratios = []
    for number in range(rounds):
        ways = {"plain": plain, "ours": ours}
        order = list(ways) if number % 2 == 0 else list(reversed(ways))
        took = {way: _time(ways[way], root / "run") for way in order}
        ratios.append(took["plain"][0] / took["ours"][0])
        said = ", ".join(
            f"{way} {size / took[way][0] / 1e6:.0f} MB/s ({took[way][1] / len(names) * 1e3:.1f} "
            "ms of processor each)"
            for way in ways
        )
        print(f"  {' then '.join(order)}: {said}; ours / plain = {ratios[-1]:.2f}", flush=True)
    ratio = statistics.median(ratios)
    print(f"materialise / plain boto3: {ratio:.2f} (median; at least {FLOOR:.2f})")
    return ratio >= FLOOR


def _plain(client: Any, store: S3Store, names: dict[str, str], folder: Path) -> None:
    folder.mkdir()

    def bring(name: str) -> None:
        answer = client.get_object(Bucket=store.bucket, Key=f"{store.prefix}/{names[name]}")
        (folder / f"{name}.safetensors").write_bytes(answer["Body"].read())

    with ThreadPoolExecutor(READERS) as readers:
        list(readers.map(bring, names))


def _time(bring: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """Seconds on the clock, and seconds of processor in this process, without the server's."""
    began, worked = time.perf_counter(), time.process_time()
    bring(folder)
    took = time.perf_counter() - began, time.process_time() - worked
    shutil.rmtree(folder)
    return took


if __name__ == "__main__":
    main()

"""S3 servers for benchmarks, each with the objects of a folder: Ceph's gateway and moto."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cogvx.store import LocalStore
from tests.fixtures.radosgw import BINARIES, gateway
from tests.fixtures.s3 import BUCKET, S3Server
from tests.fixtures.servers import free_port, listens, running, wait_until

_PREPARED = ("clips/", "store/records/")


def has_ceph() -> bool:
    """Whether its daemons are installed."""
    return all(map(shutil.which, BINARIES))


@contextmanager
def running_ceph(root: Path) -> Iterator[tuple[S3Server, Sequence[int]]]:
    """Ceph's gateway with what lies below `root` in its bucket."""
    (root / "ceph").mkdir()
    with gateway(root / "ceph") as node:
        server = node.make_user("owner")
        server.make_bucket(BUCKET)
        store = server.open(f"s3://{BUCKET}")
        files = LocalStore(root)
        keys = [info.key for part in _PREPARED for info in files.entries(part)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda key: store.write(key, files.read(key)), keys))
        yield server, node.pids


@contextmanager
def running_moto(root: Path) -> Iterator[tuple[S3Server, Sequence[int]]]:
    """A moto server, which is given the same before it listens."""
    port, log = free_port(), root / "server.log"
    command = [sys.executable, "-m", "tests.benchmarks.servers", str(port), str(root)]
    with running(command, log) as process:
        wait_until(lambda: listens(port), process, log)
        yield S3Server(f"http://127.0.0.1:{port}", "anything", "anything"), [process.pid]


def serve(port: int, root: Path) -> None:
    """Be a moto server that holds what lies below `root`."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.server import main

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    for part in _PREPARED:
        for info in LocalStore(root).entries(part):
            backend.put_object(BUCKET, info.key, (root / info.key).read_bytes())
    main(["-H", "127.0.0.1", "-p", str(port)])


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU that processes used so far, with all their threads."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))

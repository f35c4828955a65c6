"""Whatever the way to the server does, an operation ends right or says that it may be repeated."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from cogvx.errors import IntegrityError, TransientError
from tasks.clients import s3_read, s3_sight
from tasks.clients.s3 import S3Store
from tests.fixtures.proxy import Fault, FaultPlan, FaultyProxy
from tests.fixtures.s3 import BUCKET, S3Server
from tests.fixtures.servers import answering

SEEDS = range(30)
DATA = bytes(range(256)) * 400
Faults = Callable[[FaultPlan], FaultyProxy]


class Model:
    """Runs operations on a store and knows what may stand under each key; None is absence."""

    def __init__(self, store: S3Store, folder: Path, seed: int) -> None:
        self.store = store
        self.folder = folder
        self.chance = random.Random(seed)
        self.may_be: dict[str, set[bytes | None]] = {f"k{n}": {None} for n in range(3)}
        self.transient = 0

    def step(self) -> None:
        key = self.chance.choice(list(self.may_be))
        acts = (self.create, self.create, self.write, self.upload, self.delete)
        looks = (self.read, self.read, self.fetch, self.info, self.listing)
        try:
            self.chance.choice(acts)(key)
        except TransientError:
            self.transient += 1
        for look in self.chance.sample(looks, 2):
            try:
                look(key)
            except TransientError:
                self.transient += 1

    def _bytes(self) -> bytes:
        return self.chance.randbytes(3000)

    def create(self, key: str) -> None:
        data, before = self._bytes(), self.may_be[key]
        # Until it is answered, the object may be ours or not.
        self.may_be[key] = before | {data} if None in before else before
        if self.store.create(key, data):
            assert None in before
            self.may_be[key] = {data}
        else:
            assert before != {None}, "told that another was first where there was no other"
            self.may_be[key] = before - {None}

    def write(self, key: str) -> None:
        data = self._bytes()
        self.may_be[key] = self.may_be[key] | {data}
        self.store.write(key, data)
        self.may_be[key] = {data}

    def upload(self, key: str) -> None:
        data = self._bytes()
        self.may_be[key] = self.may_be[key] | {data}
        (self.folder / "up").write_bytes(data)
        self.store.upload(self.folder / "up", key)
        self.may_be[key] = {data}

    def delete(self, key: str) -> None:
        self.may_be[key] = self.may_be[key] | {None}
        self.store.delete(key)
        self.may_be[key] = {None}

    def read(self, key: str) -> None:
        self._saw(key, lambda: self.store.read(key))

    def fetch(self, key: str) -> None:
        self._saw(key, lambda: self.store.fetch(key, self.folder).read_bytes())

    def _saw(self, key: str, look: Callable[[], bytes]) -> None:
        try:
            came = look()
        except IntegrityError:
            came = None
        assert came in self.may_be[key]
        self.may_be[key] = {came}

    def info(self, key: str) -> None:
        info = self.store.info(key)
        sizes = {None if data is None else len(data) for data in self.may_be[key]}
        assert (None if info is None else info.size) in sizes

    def listing(self, key: str) -> None:
        listed = {info.key for info in self.store.entries()}
        assert listed >= {name for name, may_be in self.may_be.items() if None not in may_be}
        assert listed <= {name for name, may_be in self.may_be.items() if may_be != {None}}


def test_thirty_histories_end_right(s3_server: S3Server, s3_faults: Faults, tmp_path: Path) -> None:
    proxy = s3_faults(FaultPlan(rate=0.25, blind_seconds=0.3, slow_seconds=0.1))
    client = proxy.server.open(f"s3://{BUCKET}")._client  # one for all: making one takes long

    def live(seed: int) -> Model:
        folder = tmp_path / str(seed)
        folder.mkdir()
        # What happens follows from the keys, so each prefix has faults of its own.
        model = Model(S3Store(BUCKET, f"history-{seed}", client), folder, seed)
        for _ in range(5):
            model.step()
        return model

    with ThreadPoolExecutor(len(SEEDS)) as lives:
        models = list(lives.map(live, SEEDS))
    assert set(proxy.counts()) == set(Fault)
    assert sum(model.transient for model in models) < 0.1 * 15 * len(SEEDS)
    plain = s3_server.open(f"s3://{BUCKET}")._client
    for seed, model in zip(SEEDS, models, strict=True):
        model.store = S3Store(BUCKET, f"history-{seed}", plain)
        for key in model.may_be:
            model.read(key)


@pytest.mark.parametrize(
    "kind", [Fault.ERROR, Fault.BUSY, Fault.RESET, Fault.LATE_ERROR, Fault.LATE_RESET]
)
def test_a_way_that_stays_broken_is_transient(
    s3_server: S3Server, s3_url: str, s3_faults: Faults, kind: Fault, tmp_path: Path
) -> None:
    s3_server.open(s3_url).write("there", DATA)
    broken = once(s3_faults(FaultPlan(rate=1.0, kinds=(kind,))), s3_url)
    for act in (
        lambda: broken.read("there"),
        lambda: broken.info("there"),
        lambda: broken.fetch("there", tmp_path),
        lambda: broken.create("new", DATA),
        lambda: broken.write("new", DATA),
        lambda: broken.delete("there"),
        lambda: list(broken.entries()),
    ):
        with pytest.raises(TransientError):
            act()


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("kind", [Fault.TRUNCATED, Fault.SHORT])
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_body_that_stays_cut_is_never_taken_for_the_object(
    s3_server: S3Server, s3_url: str, s3_faults: Faults, kind: Fault, is_ours: bool, tmp_path: Path
) -> None:
    store = s3_server.open(s3_url)
    if is_ours:
        store.write("there", DATA)
    else:
        s3_server.client().put_object(Bucket=BUCKET, Key=f"{store.prefix}/there", Body=DATA)
    broken = once(s3_faults(FaultPlan(rate=1.0, kinds=(kind,))), s3_url)
    with pytest.raises(TransientError):
        broken.read("there")
    with pytest.raises(TransientError):
        broken.fetch("there", tmp_path)
    with pytest.raises(TransientError):
        list(broken.entries())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_hasty")
def test_a_server_that_dribbles_too_slowly_is_given_up(
    s3_server: S3Server, s3_url: str, s3_faults: Faults
) -> None:
    s3_server.open(s3_url).write("there", DATA)
    plan = FaultPlan(rate=1.0, kinds=(Fault.SLOW,), slow_seconds=2.0)
    with pytest.raises(TransientError):
        once(s3_faults(plan), s3_url, read_timeout=0.2).read("there")


def test_lost_answers_to_creations_do_not_lose_them(s3_faults: Faults, s3_url: str) -> None:
    proxy = s3_faults(FaultPlan(seed=11, rate=0.4, kinds=(Fault.LATE_RESET, Fault.LATE_ERROR)))
    # Not a name of this run's own, so that the faults are the same in each run.
    store = proxy.server.open(f"s3://{BUCKET}/lost-answers")
    keys = [f"k{number}" for number in range(8)]
    with ThreadPoolExecutor(len(keys)) as makers:
        assert all(makers.map(lambda key: store.create(key, key.encode()), keys))
    assert sum(passage.status == 412 for passage in proxy.log) > 3
    # Those of another are not taken for ours.
    other = proxy.server.open(f"s3://{BUCKET}/lost-answers")
    with ThreadPoolExecutor(len(keys)) as makers:
        assert not any(makers.map(lambda key: other.create(key, key.encode()), keys))


def test_what_was_put_is_waited_for(
    s3_url: str, s3_faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = FaultPlan(rate=1.0, kinds=(Fault.BLIND,), blind_seconds=0.5)
    store = s3_faults(blind).server.open(s3_url)
    store.create("a", DATA)
    info = store.info("a")
    assert info is not None
    assert info.size == len(DATA)
    store.write("b", DATA)
    assert store.read("b") == DATA
    store.write("c", DATA)
    assert store.fetch("c", tmp_path).read_bytes() == DATA
    store.delete("c")
    assert store.info("c") is None
    monkeypatch.setattr(s3_sight, "_PATIENCE_SECONDS", 0.2)
    store.write("d", DATA)
    with pytest.raises(
        TransientError, match=r"does not show .*d, which was put there a moment ago"
    ):
        store.info("d")


def test_parts_and_ranges_survive_faults(s3_faults: Faults, tmp_path: Path) -> None:
    kinds = tuple(kind for kind in Fault if kind is not Fault.BLIND)
    proxy = s3_faults(FaultPlan(seed=13, rate=0.3, kinds=kinds))
    store = proxy.server.open(f"s3://{BUCKET}/parts-and-ranges")
    path = tmp_path / "large.bin"
    path.write_bytes(b"".join(bytes([part]) * (1 << 20) for part in range(66)))
    store.upload(path, "large.bin")
    joined = [seen for seen in proxy.log if seen.method == "POST" and "uploadId=" in seen.path]
    assert [seen.fault for seen in joined[:1]] == [Fault.LATE_RESET]
    assert store.fetch("large.bin", tmp_path / "back").read_bytes() == path.read_bytes()
    assert store.read("large.bin") == path.read_bytes()


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_creation_without_conditions_never_replaces_what_is_there(
    s3_faults: Faults, s3_url: str, conditions: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = s3_faults(FaultPlan(rate=0.0, conditions=conditions)).server.open(s3_url)
    assert store.create("key", b"first")
    assert not store.create("key", b"second")
    assert store.read("key") == b"first"
    store.delete("key")
    assert store.create("key", b"third")
    assert [info.key for info in store.entries()] == ["key"]
    warnings = [record for record in caplog.records if "conditional PutObject" in record.message]
    assert len(warnings) == 1


def test_racing_creators_without_conditions_leave_one_whole_object(
    s3_faults: Faults, s3_url: str
) -> None:
    store = s3_faults(FaultPlan(rate=0.0, conditions="ignored")).server.open(s3_url)
    offers = [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(len(offers)) as makers:
        won = list(makers.map(lambda data: store.create("key", data), offers))
    winners = [offer for offer, has_won in zip(offers, won, strict=True) if has_won]
    assert store.read("key") in winners


@pytest.mark.usefixtures("_hasty")
def test_a_flipped_bit_in_the_store_is_refused(
    s3_server: S3Server, s3_url: str, tmp_path: Path
) -> None:
    store, client = s3_server.open(s3_url), s3_server.client()
    store.write("key", DATA)
    name = {"Bucket": BUCKET, "Key": f"{store.prefix}/key"}
    kept = client.head_object(**name)["Metadata"]
    flipped = bytes([DATA[0] ^ 1, *DATA[1:]])
    client.put_object(**name, Body=flipped, Metadata=kept)
    for ask in (store.read, lambda key: store.fetch(key, tmp_path)):
        with pytest.raises(IntegrityError, match=r"key in s3://.* is damaged"):
            ask("key")
    assert list(tmp_path.iterdir()) == []


def test_an_etag_that_only_looks_like_md5_is_no_reason_to_refuse() -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n"
        b'ETag: "00112233445566778899aabbccddeeff"\r\n\r\nbody'
    )
    with answering(answer) as port:
        server = S3Server(f"http://127.0.0.1:{port}", "access", "secret")
        assert server.open("s3://bucket").read("key") == b"body"


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing mends between the attempts of these tests, so there is nothing to wait for."""
    monkeypatch.setattr(s3_read, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture(scope="module", autouse=True)
def _emptied(s3_server: S3Server) -> Iterator[None]:
    """Some keys here are the same in each run; a server that outlives this file starts empty."""
    yield
    store = s3_server.open(f"s3://{BUCKET}")
    for prefix in ("history-", "lost-answers/", "parts-and-ranges/"):
        for info in list(store.entries(prefix)):
            store.delete(info.key)


def once(proxy: FaultyProxy, url: str, read_timeout: float = 60.0) -> S3Store:
    """A store whose requests are not repeated: boto3's pauses are not what is tested."""
    server = proxy.server
    config = Config(
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        read_timeout=read_timeout,
    )
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
        config=config,
    )
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Store(bucket, prefix, client)

"""What adapters cost, against numbers worked out by hand; every attempt counts once."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cogvx.digest import canonical_json
from cogvx.errors import TransientError
from cogvx.store import LocalStore, MemoryStore, ObjectStore
from tasks.documents import CostReport, ShardReport, StageCost
from tasks.generation.generate_documents import VideoShardReport
from tasks.pools import metering
from tasks.pools.metering import Spent, attempts_of, metered
from tasks.retraining.cost_sums import CostSum, add_attempts, sum_up
from tasks.retraining.costs import cost_metrics, cost_rows, saved_of
from tasks.settings import Settings, settings

# An hour of a GPU costs 3.60, so a second costs a thousandth.
PRICED = Settings(gpu_hour_price=3.6, pool_prices={"gpu-train": 7.2}, currency="EUR")
FREE = Settings()


def spent(stage: str, seconds: float, **facts: object) -> Spent:
    given = {"device": "gpu", "devices": 1, "began": 0.0, "ended": True, **facts}
    return Spent.model_validate({"stage": stage, "seconds": seconds, **given})


def keep(store: ObjectStore, name: str, one: Spent, model: str = "tiny") -> str:
    key = f"{attempts_of(model)}{name * 32}.json"
    store.write(key, canonical_json(one))
    return key


def report_of(
    store: ObjectStore, run: str, here: Settings = PRICED, promoted: int = 0
) -> CostReport:
    return sum_up(add_attempts(store, "tiny", run, here), "tiny", run, promoted=promoted, here=here)


def first_adapter(store: ObjectStore) -> CostReport:
    """Shards of 100 and 300 s, training of 1000 s killed after 400, videos of 200 s on a CPU."""
    keep(store, "1", spent("cache", 100, made=10))
    keep(store, "2", spent("cache", 300, made=30))
    keep(store, "3", spent("train", 400, devices=2, pool="gpu-train"))
    keep(store, "4", spent("train", 600, devices=2, pool="gpu-train"))
    keep(store, "5", spent("generate", 200, made=4, device="cpu"))
    return report_of(store, "a" * 64)


def test_an_adapter_costs_the_seconds_of_all_its_devices_at_their_pools_prices() -> None:
    cost = first_adapter(MemoryStore())
    found = {(one.stage, one.device): (one.device_seconds, one.money) for one in cost.stages}
    assert found == {
        ("cache", "gpu"): (400.0, pytest.approx(0.4)),
        ("train", "gpu"): (2000.0, pytest.approx(4.0)),
        ("generate", "cpu"): (200.0, 0.0),
    }
    metrics = cost_metrics(cost)
    assert metrics["cost/gpu_seconds_train"] == 2000
    assert metrics["cost/gpu_seconds"] == 2400
    assert metrics["cost/device_seconds"] == 2600
    assert metrics["cost/gpu_seconds_generate"] == 0
    assert metrics["cost/money"] == pytest.approx(4.4)


def test_without_a_price_only_times_are_told() -> None:
    store = MemoryStore()
    keep(store, "1", spent("train", 7200))
    cost = report_of(store, "a" * 64, FREE)
    assert cost_rows(cost) == [("cost", "2.0 h of GPU (training 2.0 h)")]
    assert not [name for name in cost_metrics(cost) if "money" in name]


def test_where_no_gpu_is_there_is_no_money_whatever_the_price() -> None:
    store = MemoryStore()
    keep(store, "1", spent("train", 90, device="cpu"))
    cost = report_of(store, "a" * 64, promoted=1)
    total = "90 s of CPU"
    assert cost_rows(cost) == [
        ("cost", f"{total} (training 90 s of CPU)"),
        ("so far", f"1 adapter(s), 1 promoted: {total} for each promoted one"),
    ]
    metrics = cost_metrics(cost)
    assert metrics["cost/gpu_seconds"] == 0
    assert not [name for name in metrics if "money" in name]


def test_a_price_for_some_of_it_is_no_price_for_all() -> None:
    store = MemoryStore()
    keep(store, "1", spent("train", 100, pool="gpu-train"))
    keep(store, "2", spent("cache", 100))
    cost = report_of(store, "a" * 64, Settings(pool_prices={"gpu-train": 7.2}))
    assert "cost/money" not in cost_metrics(cost)
    assert [one.money for one in cost.stages] == [None, pytest.approx(0.2)]


def test_each_attempt_counts_for_one_adapter_and_the_history_for_all() -> None:
    store = MemoryStore()
    first_adapter(store)
    keep(store, "6", spent("train", 100))
    second = report_of(store, "b" * 64, promoted=2)
    assert [(one.stage, one.device_seconds) for one in second.stages] == [("train", 100.0)]
    assert (second.adapters, second.promoted) == (2, 2)
    metrics = cost_metrics(second)
    assert metrics["cost/gpu_seconds_per_promoted"] == 1250
    assert metrics["cost/money_per_promoted"] == pytest.approx(2.25)
    again = report_of(store, "b" * 64, promoted=2)
    assert again == second


def test_what_is_spent_on_an_adapter_later_is_added_to_it() -> None:
    store = MemoryStore()
    first_adapter(store)
    keep(store, "6", spent("measure", 50))
    assert cost_metrics(report_of(store, "a" * 64))["cost/gpu_seconds"] == 2450


def test_a_price_of_today_does_not_change_what_was_paid_before() -> None:
    store = MemoryStore()
    before = first_adapter(store)
    dearer = report_of(store, "a" * 64, Settings(gpu_hour_price=36, currency="EUR"))
    assert dearer == before


def test_of_those_who_sum_up_at_once_each_attempt_is_counted_by_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for name in "0123456789abcdef":
        keep(store, name, spent("cache", 1))

    def add(number: int) -> tuple[CostSum, ...]:
        return add_attempts(store, "tiny", f"{number}" * 64, PRICED)

    with ThreadPoolExecutor(4) as racers:
        list(racers.map(add, range(4)))
    sums = add(0)
    assert sum(stage.device_seconds for one in sums for stage in one.stages) == 16


def test_work_that_is_under_way_counts_when_it_ends_or_was_killed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    key = keep(store, "1", spent("train", 100, ended=False))
    assert not report_of(store, "a" * 64).stages
    then = time.time() - 3600
    os.utime(tmp_path / key, (then, then))
    assert report_of(store, "a" * 64).stages[0].device_seconds == 100


def test_what_was_reused_is_worth_what_making_it_took() -> None:
    history = first_adapter(MemoryStore()).history
    records, videos = saved_of("cache", 20, history), saved_of("generate", 8, history)
    # 400 s for 40 records, 200 s for 4 videos
    assert (records.device, records.device_seconds) == ("gpu", 200.0)
    assert records.money == pytest.approx(0.2)
    assert (videos.device, videos.device_seconds, videos.money) == ("cpu", 400.0, 0.0)
    assert saved_of("generate", 8, ()).device_seconds is None


def test_people_read_costs_savings_and_what_a_promoted_one_cost() -> None:
    cost = first_adapter(MemoryStore())
    saved = (saved_of("cache", 20, cost.history), saved_of("generate", 8, cost.history))
    total = "40 min of GPU, 3 min of CPU, 4.40 EUR"
    records, videos = "20 records reused, about 3 min of GPU", "8 videos reused, about 7 min of CPU"
    assert cost_rows(cost.model_copy(update={"saved": saved, "promoted": 1})) == [
        ("cost", f"{total} (encoding 7 min, training 33 min, videos 3 min of CPU)"),
        ("saved", f"{records} and {videos}; 0.20 EUR"),
        ("so far", f"1 adapter(s), 1 promoted: {total} for each promoted one"),
    ]


def test_a_meter_keeps_what_work_took_however_it_ends() -> None:
    store = MemoryStore()

    def work() -> None:
        with metered(store, "train", model="tiny", devices=2):
            time.sleep(0.1)
            raise TransientError("stopped")

    with pytest.raises(TransientError):
        work()
    (stage,) = report_of(store, "a" * 64).stages
    assert (stage.stage, stage.device, stage.attempts) == ("train", "cpu", 1)
    assert 0.2 <= stage.device_seconds < 5


@pytest.fixture
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine whose driver lists four."""
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\nfor n in 0 1 2 3; do echo "GPU $n: H100"; done\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("COGVX_DEVICE", "auto")
    for read in (settings, metering.device_kind):
        read.cache_clear()
    yield monkeypatch
    for read in (settings, metering.device_kind):
        read.cache_clear()


def devices_of(devices: int = 1, machines: int = 1) -> int:
    store = MemoryStore()
    with metered(store, "train", model="tiny", devices=devices, machines=machines):
        (key,) = store.objects
    return Spent.model_validate_json(store.read(key)).devices


def test_gpus_that_a_pool_reserves_are_paid_for_used_or_not(
    four_gpus: pytest.MonkeyPatch,
) -> None:
    # workers of processes share a machine's, so what a run uses is what it holds
    assert (devices_of(), devices_of(2)) == (1, 2)
    four_gpus.setenv("COGVX_POOL_GPUS", "4")
    settings.cache_clear()
    assert (devices_of(), devices_of(4)) == (4, 4)
    assert (devices_of(8, machines=2), devices_of(2, machines=2)) == (8, 8)
    four_gpus.setenv("COGVX_DEVICE", "cpu")
    for read in (settings, metering.device_kind):
        read.cache_clear()
    assert devices_of(2) == 2


def test_a_meter_writes_meanwhile_so_that_a_kill_loses_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metering, "KEPT_EVERY_SECONDS", 0.05)
    store = MemoryStore()
    with metered(store, "cache", model="tiny"):
        (key,) = store.objects
        deadline = time.monotonic() + 30
        while Spent.model_validate_json(store.read(key)).seconds < 0.1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not Spent.model_validate_json(store.read(key)).ended
    assert Spent.model_validate_json(store.read(key)).ended
    assert not [thread for thread in threading.enumerate() if thread.name == "metering"]


class Away(MemoryStore):
    def write(self, key: str, data: bytes) -> None:
        raise TransientError("the store is away")


def test_a_store_that_is_away_costs_the_number_and_stops_no_work() -> None:
    with metered(Away(), "cache", model="tiny") as meter:
        meter.made = 1
    assert meter.on(ShardReport(records_wanted=1, records_encoded=1)).device == "cpu"


def test_what_is_for_nobodys_adapter_is_not_kept() -> None:
    store = MemoryStore()
    with metered(store, "generate", model="") as meter:
        pass
    assert meter.on(VideoShardReport(wanted=1, made=1)).seconds == pytest.approx(0, abs=5)
    assert not store.objects


def test_reports_from_before_seconds_were_measured_are_still_read() -> None:
    assert ShardReport.model_validate({"records_wanted": 2, "records_encoded": 1}).seconds == 0
    assert VideoShardReport.model_validate({"wanted": 2, "made": 1}).seconds == 0


def test_a_stage_says_its_gpu_seconds() -> None:
    stage = StageCost(stage="train", device="gpu", attempts=1, device_seconds=3)
    assert stage.gpu_seconds == 3
    assert stage.model_copy(update={"device": "cpu"}).gpu_seconds == 0

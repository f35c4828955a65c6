"""For how long devices are held for a model: one small document for each time, kept in the store.

    costs/<model>/attempts/<id>.json    Spent, written when it begins, each minute, and when it ends

A process that is killed loses a minute. Whoever sums up takes each document once; see `costs`.
"""

import functools
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from cogvx.digest import canonical_json
from cogvx.errors import CogvxError
from cogvx.store import ObjectStore
from tasks.clients.gpus import gpus
from tasks.documents import DeviceKind, SpendingStage
from tasks.settings import settings

logger = logging.getLogger(__name__)

ReportT = TypeVar("ReportT", bound=BaseModel)

KEPT_EVERY_SECONDS = 60.0
_LAST_WORD_SECONDS = 30.0  # for a document that is on its way when the work ends


class Spent(BaseModel):
    """So many devices were held for so long, and made so many records or videos.

    `pool` is the work pool that the work ran in; empty outside of pools. `began` is in seconds
    since 1970.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    stage: SpendingStage
    device: DeviceKind
    devices: int = Field(ge=1)
    pool: str = ""
    made: int = 0
    began: float
    seconds: float = Field(ge=0)
    ended: bool

    @property
    def device_seconds(self) -> float:
        """All devices together."""
        return self.seconds * self.devices


class Meter:
    """Measures one piece of work; set `made` to what it made."""

    def __init__(self, stage: SpendingStage, devices: int, machines: int) -> None:
        """It begins now."""
        self.made = 0
        self.device: DeviceKind = device_kind()
        self._stage: SpendingStage = stage
        reserved = settings().pool_gpus * machines if self.device == "gpu" else 0
        self._devices = max(devices, reserved)
        self._pool = _pool()
        self._began, self._since = time.time(), time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._since

    def on(self, report: ReportT) -> ReportT:
        """A report with its `seconds` and `device`."""
        measured = {"seconds": round(self.seconds, 3), "device": self.device}
        return report.model_copy(update=measured)

    def spent(self, *, ended: bool) -> Spent:
        """As things stand now."""
        return Spent(
            stage=self._stage,
            device=self.device,
            devices=self._devices,
            pool=self._pool,
            made=self.made,
            began=self._began,
            seconds=self.seconds,
            ended=ended,
        )


@contextmanager
def metered(
    store: ObjectStore, stage: SpendingStage, *, model: str, devices: int = 1, machines: int = 1
) -> Iterator[Meter]:
    """Keep for how long devices are held while the block lasts, however it ends.

    Args:
        store: Where it is kept.
        stage: What they are held for.
        model: Whose adapter it is for, a recipe's name; nothing is kept for nobody.
        devices: How many it uses: GPUs, or processes where there is none. A pool that reserves more
            GPUs for a run has them held.
        machines: Over how many machines; each has reserved as many.
    """
    meter = Meter(stage, devices, machines)
    if not model:
        yield meter
        return
    key = f"{attempts_of(model)}{uuid.uuid4().hex}.json"
    ended = threading.Event()

    def keep_on() -> None:
        while not ended.wait(KEPT_EVERY_SECONDS):
            _keep(store, key, meter.spent(ended=False))

    # a daemon: a process that is told to end does not wait for a slow store
    thread = threading.Thread(target=keep_on, name="metering", daemon=True)
    _keep(store, key, meter.spent(ended=False))
    thread.start()
    try:
        yield meter
    finally:
        ended.set()
        thread.join(_LAST_WORD_SECONDS)
        _keep(store, key, meter.spent(ended=True))


def attempts_of(model: str) -> str:
    """Where the documents of a model lie, with the slash."""
    return f"costs/{model}/attempts/"


@functools.cache
def device_kind() -> DeviceKind:
    """What this process computes on."""
    return "gpu" if gpus() else "cpu"


def _keep(store: ObjectStore, key: str, spent: Spent) -> None:
    """Write it down; a store that is away costs this number, and stops no work."""
    try:
        store.write(key, canonical_json(spent))
    except (CogvxError, OSError) as error:
        logger.warning("what this takes is not written down this time: %s", error)


def _pool() -> str:
    # the command line prints what is spent, and Prefect reads its settings when it is imported
    from prefect.context import FlowRunContext  # noqa: PLC0415

    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return "" if run is None else run.work_pool_name or ""

"""The sections of a catalog, each with what its settings mean and the range they may have.

Nothing here depends on another section: those rules are in `deployments.catalog_rules`.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cogvx.section import Section
from tasks.clients.supervise import GRACE_SECONDS

PoolType = Literal["process", "docker", "kubernetes"]
Collision = Literal["ENQUEUE", "CANCEL_NEW"]
Ending = Literal["Failed", "Crashed", "TimedOut", "Cancelled"]


def _like(pattern: str, example: str) -> AfterValidator:
    """Texts that match all of a pattern; the message shows how one looks."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise PydanticCustomError("other_form", "write it like {example}", {"example": example})
        return text

    return AfterValidator(check)


Memory = Annotated[str, _like("[1-9][0-9]{0,8}(Mi|Gi)", '"16Gi"')]
Cpus = Annotated[str, _like("[1-9][0-9]{0,6}m?", '"8" or "500m"')]
Block = Annotated[str, _like("[a-z0-9-]{1,200}/[a-z0-9-]{1,200}", '"slack-webhook/ops"')]
Name = Annotated[str, Field(min_length=1, max_length=200)]

DEFAULT_QUEUE = "default"
"""The queue that every work pool of Prefect's has."""


class TolerationConfig(Section):
    """A taint of Kubernetes nodes that runs of the pool put up with."""

    key: str = Field(min_length=1, max_length=317)
    """Of the taint, as nvidia.com/gpu."""
    value: str | None = Field(default=None, max_length=63)
    """Of the taint; without it any value is put up with."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """What the taint does; without it all effects are meant."""


class QueueConfig(Section):
    """A queue of a pool."""

    priority: int = Field(ge=1, le=1000)
    """1 comes first; no two queues of a pool have the same."""
    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    """Most runs from this queue at a time."""


class PoolConfig(Section):
    """A work pool: where runs of a kind happen, and what each of them gets."""

    type: PoolType = "process"
    """What starts a run: a process of the worker's machine, a container, or a Kubernetes Job."""
    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    """Most runs at a time, over all workers; a worker's own limit is `--limit`."""
    queues: dict[Name, QueueConfig] = Field(default={})
    """By name, as pools are named; every pool also has the queue `default`."""
    image: str | None = Field(default=None, min_length=1, max_length=1024)
    """Image of containers and Jobs, with this project installed."""
    gpus: int = Field(default=0, ge=0, le=64)
    """GPUs of each run: as many as `train.processes` of the recipes that train here, 1 where clips
    are encoded or videos made. A worker of processes hands out its own machine's by itself."""
    cpu: Cpus | None = None
    """CPUs that a Kubernetes run asks for, as 8 or 500m."""
    memory: Memory | None = None
    """Memory of each run, as 64Gi."""
    shm: Memory | None = None
    """Shared memory of each run, as 16Gi: processes that load clips exchange tensors there."""
    tolerations: tuple[TolerationConfig, ...] = ()
    """Taints of Kubernetes nodes that runs put up with."""
    node_selector: dict[str, str] = Field(default={})
    """Labels that a Kubernetes node must have."""
    stop_seconds: float = Field(default=GRACE_SECONDS, gt=0, le=3600)
    """How long training that is stopped may take to save; becomes COGVX_STOP_SECONDS of runs."""
    grace_seconds: int | None = Field(default=None, ge=1, le=7200)
    """How long Kubernetes waits before it kills a run that is stopped; by default long enough."""
    env: dict[str, str] = Field(default={})
    """Environment of runs. Everybody who sees Prefect's pages sees it: no secrets."""


class PlacesConfig(Section):
    """The pools on which the work of a recipe is done."""

    parent: Name = "cpu"
    """What plans, registers, scores, decides and waits for people; needs no GPU."""
    cache: Name = "gpu-cache"
    """What encodes clips and captions."""
    train: Name = "gpu-train"
    """What trains."""
    evaluate: Name = "gpu-eval"
    """What generates videos and measures losses."""


class RecipeConfig(Section):
    """A recipe that is retrained, and when."""

    file: str = Field(min_length=1, max_length=4096)
    """The recipe in TOML; relative to the catalog's folder."""
    cron: str | None = Field(default=None, min_length=1, max_length=256)
    """When it is retrained, as "0 3 * * *", five fields; a run without news ends in seconds."""
    timezone: str = Field(default="UTC", min_length=1, max_length=64)
    """Zone in which `cron` is meant, as Europe/Berlin."""
    on_arrival: bool = False
    """Retrain when `cogvx.dataset.arrived` says that its clips changed; [watch] has it sent."""
    paused: bool = False
    """Deployed, but neither its schedule nor an arrival starts it."""
    collision: Collision = "ENQUEUE"
    """What happens to a retrain that is due while one is under way: it waits, or is cancelled."""
    queue: Name = DEFAULT_QUEUE
    """Queue of the parent's pool that its runs wait in."""
    tags: tuple[Name, ...] = ()
    """Tags of its runs, to filter by; those that begin with cogvx are taken."""
    places: PlacesConfig = PlacesConfig()
    """Other pools than the usual ones, as for a model that needs larger GPUs."""


class WatchConfig(Section):
    """Look for new clips, for each recipe with `on_arrival`."""

    every: int = Field(ge=10, le=86_400 * 7)
    """Seconds between two looks."""


class RetentionConfig(Section):
    """Sweep what no champion, live run or recent version reaches; defaults are the flow's."""

    cron: str = Field(min_length=1, max_length=256)
    """When, as "30 4 * * 0"."""
    timezone: str = Field(default="UTC", min_length=1, max_length=64)
    """Zone in which `cron` is meant."""
    apply: bool | None = None
    """Remove it; without this the run only says what it would remove, and why."""
    keep_days: float | None = Field(default=None, ge=0, le=36_500)
    """Days that superseded versions and manifests keep what they reach."""
    grace_days: float | None = Field(default=None, ge=0, le=36_500)
    """Days that everything stays, as a run may be about to need it."""
    keep_last: int | None = Field(default=None, ge=0, le=100_000)
    """So many versions of each model keep what they reach, however old."""
    pool: Name = "cpu"
    """Where it runs."""


class NotifyConfig(Section):
    """Tell people what ended badly, and of each promotion that waits for an answer."""

    block: Block
    """A notification block of Prefect's server as type/name, for example slack-webhook/ops. The
    links in messages begin with the server's PREFECT_UI_URL."""
    on: tuple[Ending, ...] = Field(default=("Failed", "Crashed", "TimedOut"), min_length=1)
    """The ends that are told. A watch that fails as the look before it did is StillFailing, and is
    told no more."""


class ZombiesConfig(Section):
    """Runs whose process is gone without a word."""

    within_seconds: int = Field(default=300, ge=10, le=86_400)
    """So long without a heartbeat makes a run Crashed: at least three heartbeats, 90, and longer
    than the server may be away, as it learns too late of heartbeats that were sent meanwhile."""

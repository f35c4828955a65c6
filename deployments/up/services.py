"""Which programs `cogvx up` starts on this machine, where they answer, and what they are given."""

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tasks.clients.servers import Service
from tasks.clients.supervise import GRACE_SECONDS
from tasks.clients.tend import TENDING_SECONDS
from tasks.settings import Settings

PREFECT, MLFLOW, S3 = "prefect", "mlflow", "s3"
BUCKET = "cogvx"
STORE = f"s3://{BUCKET}/store"
"""The store on the S3 server that `up` starts."""
HOST = "127.0.0.1"
HOME = "COGVX_HOME"
"""By this variable on a supervisor's command line a process is known as that home's."""
# A trainer saves, then its checkpoint has two minutes to reach the store.
_STORING_SECONDS = TENDING_SECONDS - GRACE_SECONDS


# Logs are where a person looks when no run says anything.
_TO_ITS_LOG = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
_LEASES = "prefect.server.concurrency.lease_storage.filesystem"
_CLEANUP = "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP"


@dataclass(frozen=True)
class Options:
    """What a person chose; ports are on loopback.

    The catalog is chosen if it was named, now or for an earlier `up` of this home: then what is
    deployed and not in it may go.
    """

    catalog: Path
    prefect_port: int = 4200
    mlflow_port: int = 5000
    s3_port: int = 9000
    with_s3: bool = False
    is_chosen: bool = True

    @property
    def prefect(self) -> str:
        """Prefect's pages."""
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def mlflow(self) -> str:
        """MLflow's pages, where they are served here."""
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def s3(self) -> str:
        """The S3 server, or nothing."""
        return f"http://{HOST}:{self.s3_port}" if self.with_s3 else ""


@dataclass(frozen=True)
class PoolPlan:
    """A work pool whose runs this machine's processes are to be.

    Attributes:
        name: As in Prefect.
        gpus: GPUs of one run; 0 where a run needs none.
        stop_seconds: What training takes to save when it is stopped.
    """

    name: str
    gpus: int = 0
    stop_seconds: float = GRACE_SECONDS


def is_served_elsewhere(options: Options, here: Settings) -> bool:
    """Whether the settings name an MLflow server, which is then used and not started.

    The one that would be started is named where somebody took over what `cogvx status --env` says.
    """
    named = here.tracking_uri
    return named.startswith(("http://", "https://")) and not is_same_place(named, options.mlflow)


def mlflow_pages(options: Options, here: Settings) -> str:
    """Where MLflow's pages are; without the password that a URL may have, as this is shown."""
    if not is_served_elsewhere(options, here):
        return options.mlflow
    return without_password(here.tracking_uri).rstrip("/")


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def is_same_place(url: str, mine: str) -> bool:
    """Whether a URL names a server of ours on this machine."""
    theirs, ours = urlsplit(url), urlsplit(mine)
    return theirs.hostname in {"localhost", HOST, "::1"} and theirs.port == ours.port


def servers(options: Options, here: Settings) -> list[Service]:
    """The servers, in the order in which they are started."""
    host = ("--host", HOST, "--port")
    found = [
        Service(
            PREFECT,
            "Prefect's server",
            "prefect",
            ("server", "start", *host, str(options.prefect_port)),
            {
                HOME: str(here.home.resolve()),
                **_TO_ITS_LOG,
                # Its pages ask the API here, and on another port would otherwise ask 4200.
                "PREFECT_UI_API_URL": f"{options.prefect}/api",
                # A connection to SQLite waits so long for its turn, from its first statement on.
                "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
                # In memory they would be forgotten with a restart, and their slots never freed.
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES,
                # How long a cancelled run whose worker is gone goes on being called Cancelling.
                f"{_CLEANUP}_CANCELLING_TIMEOUT_SECONDS": "100",
            },
            health=f"{options.prefect}/api/health",
        )
    ]
    if not is_served_elsewhere(options, here):
        kept = here
        if is_same_place(here.tracking_uri, options.mlflow):
            kept = here.model_copy(update={"tracking_uri": ""})
        where = ("--backend-store-uri", kept.mlflow_uri)
        artifacts = ("--artifacts-destination", str(kept.mlflow_artifacts))
        found.append(
            Service(
                MLFLOW,
                "MLflow's server",
                "mlflow",
                ("server", *host, str(options.mlflow_port), "--workers", "1", *where, *artifacts),
                {
                    HOME: str(here.home.resolve()),
                    # Its own jobs judge answers of language models: a process that does nothing.
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
                health=f"{options.mlflow}/health",
            )
        )
    if options.with_s3:
        found.append(
            Service(
                S3,
                "the S3 server",
                "moto.server",
                ("-H", HOST, "-p", str(options.s3_port)),
                {HOME: str(here.home.resolve())},
                health=f"{options.s3}/moto-api/",
            )
        )
    return found


def deploying(options: Options, environment: Mapping[str, str]) -> Service:
    """What brings the server to the catalog, as far as it can become that.

    A block of notifications is made by a person, at a server that runs. A process of its own: it
    imports every flow, and so does not stay in memory. Without a name it removes nothing.
    """
    catalog = ("--catalog", str(options.catalog)) if options.is_chosen else ()
    return Service(
        "deploy",
        "`cogvx deploy`",
        "deployments.cli",
        ("deploy", "--apply", "--partly", *catalog),
        environment,
        must_stay=False,
    )


def shared_environment(options: Options, here: Settings) -> dict[str, str]:
    """What workers are given, and what commands beside them need to see the same things.

    Who lists processes sees it. What a person has set, passwords too, workers inherit.
    """
    found = {"PREFECT_API_URL": f"{options.prefect}/api", HOME: str(here.home.resolve())}
    if not is_served_elsewhere(options, here):
        found["COGVX_TRACKING_URI"] = options.mlflow
    if options.with_s3:
        found |= {
            "COGVX_STORE_URL": STORE,
            "COGVX_S3_ENDPOINT_URL": options.s3,
            "COGVX_S3_ACCESS_KEY": "in-memory",  # moto lets anybody in
            "COGVX_S3_SECRET_KEY": "in-memory",
            "COGVX_S3_REGION": "us-east-1",
        }
    return found


def workers(
    pools: Sequence[PoolPlan],
    gpus: Sequence[str],
    environment: Mapping[str, str],
    *,
    with_slots: bool,
) -> list[Service]:
    """A worker for each pool, or one for each GPU (or group of GPUs) where its runs need some.

    A pool's runs that need no GPU have no limit here but the pool's own: a worker that has one may
    fail when a suspended run comes back at once.

    Args:
        pools: Process pools.
        gpus: Of this machine, as CUDA_VISIBLE_DEVICES names them.
        environment: See `shared_environment`.
        with_slots: Workers of several pools, which have the same GPUs, take turns.
    """
    # The same groups for all pools: whoever takes turns has to mean the same GPUs.
    shares = _shares(gpus, max((pool.gpus for pool in pools), default=0))
    found = []
    for pool in pools:
        mine = shares if pool.gpus else [""]
        for number, share in enumerate(mine):
            name = pool.name if len(mine) == 1 else f"{pool.name}-{number}"
            found.append(_worker(pool, name, share, environment, with_slots=with_slots))
    return found


def slots_of(share: str) -> str:
    """The concurrency limit of a group of GPUs."""
    return f"up-gpu-{share.replace(',', '-')}"


def worker_name(service_name: str) -> str:
    """What Prefect calls the worker of a service."""
    return f"{service_name.removeprefix('worker-')} on {platform.node()}"


def is_of_up(worker: str, pool: str) -> bool:
    """Whether a worker of a pool is one that some `up` of this machine started.

    An earlier one may have had another number of GPUs, and thus of workers.
    """
    name = worker.removesuffix(f" on {platform.node()}")
    return name != worker and re.fullmatch(rf"{re.escape(pool)}(-\d+)?", name) is not None


def _worker(
    pool: PoolPlan, name: str, share: str, environment: Mapping[str, str], *, with_slots: bool
) -> Service:
    limit = ("--limit", "1") if pool.gpus else ()
    more = {"CUDA_VISIBLE_DEVICES": share} if share else {}
    slots = {"COGVX_GPU_SLOTS": slots_of(share)} if share and with_slots else {}
    # or evaluations would score on a GPU that others hold the slot of
    device = {} if pool.gpus else {"COGVX_DEVICE": "cpu"}
    service = f"worker-{name}"
    return Service(
        service,
        f"the worker of {name}",
        "prefect",
        (
            *("worker", "start", "--pool", pool.name, "--type", "process"),
            *("--name", worker_name(service), *limit),
        ),
        {**environment, **device, **more, **slots, **_TO_ITS_LOG},
        pool=pool.name,
        gpus=share,
        guard="tend",
        grace=pool.stop_seconds + _STORING_SECONDS,
    )


def _shares(gpus: Sequence[str], size: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker; one that is empty leaves it as it is."""
    if not gpus or not size:
        return [""]
    count = max(1, len(gpus) // size)
    return [",".join(gpus[start : start + size]) for start in range(0, count * size, size)]

"""Which programs `cogvx up` starts on this machine, where they answer, and what they are given."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.clients.servers import Service
from tasks.clients.supervise import GRACE_SECONDS
from tasks.clients.tend import TENDING_SECONDS
from tasks.settings import Settings

PREFECT, MLFLOW, S3 = "prefect", "mlflow", "s3"
BUCKET = "cogvx"
HOST = "127.0.0.1"
HOME = "COGVX_HOME"
"""By this variable on a supervisor's command line a process is known as that home's."""
# A trainer saves, then its checkpoint has two minutes to reach the store.
_STORING_SECONDS = TENDING_SECONDS - GRACE_SECONDS


_LEASES = "prefect.server.concurrency.lease_storage.filesystem"


@dataclass(frozen=True)
class Options:
    """What a person chose; ports are on loopback."""

    catalog: Path
    prefect_port: int = 4200
    mlflow_port: int = 5000
    s3_port: int = 9000
    with_s3: bool = False

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


def is_served_elsewhere(here: Settings) -> bool:
    """Whether the settings name an MLflow server, which is then used and not started."""
    return here.tracking_uri.startswith(("http://", "https://"))


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
                # Its pages ask the API here, and on another port would otherwise ask 4200.
                "PREFECT_UI_API_URL": f"{options.prefect}/api",
                # A connection to SQLite waits so long for its turn, from its first statement on.
                "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
                # In memory they would be forgotten with a restart, and their slots never freed.
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES,
            },
            health=f"{options.prefect}/api/health",
        )
    ]
    if not is_served_elsewhere(here):
        where = ("--backend-store-uri", here.mlflow_uri)
        artifacts = ("--artifacts-destination", str(here.mlflow_artifacts))
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


def shared_environment(options: Options, here: Settings) -> dict[str, str]:
    """What workers are given, and what commands beside them need to see the same things."""
    found = {
        "PREFECT_API_URL": f"{options.prefect}/api",
        HOME: str(here.home.resolve()),
        "COGVX_TRACKING_URI": here.tracking_uri if is_served_elsewhere(here) else options.mlflow,
    }
    if options.with_s3:
        found |= {
            "COGVX_STORE_URL": f"s3://{BUCKET}/store",
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
) -> list[Service]:
    """A worker for each pool, or one for each GPU (or group of GPUs) of the pool's runs.

    A pool's runs that need no GPU have no limit here but the pool's own: a worker that has one may
    fail when a suspended run comes back at once.

    Args:
        pools: Process pools.
        gpus: Of this machine, as CUDA_VISIBLE_DEVICES names them.
        environment: See `shared_environment`.
    """
    found = []
    for pool in pools:
        shares = _shares(pool, gpus)
        for number, share in enumerate(shares):
            name = pool.name if len(shares) == 1 else f"{pool.name}-{number}"
            limit = ("--limit", "1") if pool.gpus else ()
            more = {"CUDA_VISIBLE_DEVICES": share} if share else {}
            found.append(
                Service(
                    f"worker-{name}",
                    f"the worker of {name}",
                    "prefect",
                    (
                        *("worker", "start", "--pool", pool.name, "--type", "process"),
                        *("--name", f"{name} on {platform.node()}", *limit),
                    ),
                    {
                        **environment,
                        **more,
                        # its log is where a person looks when no run says anything
                        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
                    },
                    pool=pool.name,
                    gpus=share,
                    guard="tend",
                    grace=pool.stop_seconds + _STORING_SECONDS,
                )
            )
    return found


def worker_name(service_name: str) -> str:
    """What Prefect calls the worker of a service."""
    return f"{service_name.removeprefix('worker-')} on {platform.node()}"


def _shares(pool: PoolPlan, gpus: Sequence[str]) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker; one that is empty leaves it as it is."""
    if not pool.gpus or not gpus:
        return [""]
    count = max(1, len(gpus) // pool.gpus)
    return [
        ",".join(gpus[start : start + pool.gpus])
        for start in range(0, count * pool.gpus, pool.gpus)
    ]

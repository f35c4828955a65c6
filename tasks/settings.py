"""Where things are and what opens them: the only reader of the environment.

Every setting has the prefix COGVX_ and may also stand in a file `.env`. Without any, everything
lives in one folder, `.cogvx`, on this machine.
"""

import logging
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from cogvx.errors import ConfigError, Problem
from tasks.clients.secrets import hold, is_secret, watch_logs
from tasks.clients.supervise import GRACE_SECONDS
from tasks.clients.unheard import outlive

# Read early: by the time that somebody asks, whoever started this process may be gone.
_STARTED_BY = os.getppid()

# Prefect's fastest; its default of 180 s would leave a run whose machine died "running" for long.
HEARTBEAT_SECONDS = 30

# What libraries read on import, wherever a flow of ours runs, a worker's machine included.
EVERYWHERE = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's client would print a run's address, and with it a password that the address has.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Threads that wait for work would otherwise spin, and starve each other on few cores.
    "OMP_WAIT_POLICY": "PASSIVE",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_LOGGING_EXTRA_LOGGERS": "cogvx,tasks,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}


class Settings(BaseSettings):
    """Settings of one process; secrets never leave this object in clear."""

    model_config = SettingsConfigDict(
        env_prefix="COGVX_",
        env_file=".env",
        env_ignore_empty=True,  # containers cannot leave a variable out, only leave it empty
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    home: Path = Path(".cogvx")
    """Folder of the embedded store, of MLflow's database and of run folders."""
    store_url: str = ""
    """Object store: s3://bucket/prefix, or empty for a folder below home."""
    tracking_uri: str = ""
    """MLflow server, or empty for an SQLite file below home."""
    mlflow_url: str = ""
    """Where people see the pages of that server, for links; empty: where `tracking_uri` says, which
    among containers no browser may know."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where encoding and generation run."""
    shard_seconds: float = Field(default=900.0, gt=0)
    """About how long one worker encodes before it takes the next share of the work."""
    encode_deployment: str = ""
    """Deployment by which shards are encoded, as encode/gpu-cache; empty: in this process."""
    train_deployment: str = ""
    """Deployment by which adapters are trained, as train/gpu-train; empty: in this process."""
    generate_deployment: str = ""
    """Deployment by which videos are generated, for people and for evaluations, as
    generate-shard/gpu-eval; empty: in this process."""
    generate_shard_videos: int = Field(default=8, ge=1)
    """How many videos one worker of that deployment generates before it takes the next share."""
    measure_deployment: str = ""
    """Deployment by which evaluations measure held-out losses and drift from the base, as
    measure-shard/gpu-eval; empty: in this process, which then loads the base."""
    promote_deployment: str = ""
    """Deployment that asks a person in Prefect's pages, as promote/cpu; empty: a version that needs
    one stays challenger, unless the promotion is itself a deployment's run."""
    approval_hours: float = Field(default=24.0, gt=0, le=8760)
    """How long a person may take to approve or reject; then the version stays challenger."""
    worker_patience_seconds: float = Field(default=3600.0, gt=0)
    """How long runs on a pool wait while no worker is there to take them."""
    lost_seconds: float = Field(default=300.0, ge=60, allow_inf_nan=False)
    """After how long without a sign of life a run on a pool is given up; at least twice
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the workers, which our deployments set to 30."""
    stage_hours: float = Field(default=168.0, gt=0, allow_inf_nan=False)
    """How long one run on a pool may take before it is cancelled, so that one that hangs does not
    hold the others up for ever; training saves a checkpoint then."""
    gpu_slots: str = ""
    """Prefect's concurrency limit of the GPUs of this machine, where workers of several pools share
    them: each run holds one slot while it uses a GPU, training one for each of its processes here.
    Empty: nobody waits for anybody."""
    gpu: str = ""
    """Kind of GPU that training will have, as H100 or A100-80: a recipe that cannot fit there is
    refused before anything is cached. Empty: the trainer looks at its own machine."""
    gpu_hour_price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """What one such GPU costs an hour, to say what a run will cost and what an adapter did."""
    pool_prices: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    """What a GPU costs an hour where it is another price, by work pool: {"gpu-train": 2.5}."""
    currency: str = Field(default="", max_length=20)
    """What prices are counted in, as EUR; shown behind them."""
    pool_gpus: int = Field(default=0, ge=0)
    """GPUs that the work pool reserves for each of its runs, which are paid for, used or not;
    `cogvx deploy` writes it. 0: runs share a machine's GPUs, and hold those that they use."""
    machines: int = Field(default=1, ge=1, le=1024)
    """Machines that train one run together; `train.processes` counts those of all of them."""
    machine_rank: int = Field(default=0, ge=0)
    """Which of them this is; number 0 leads, and the others run `cogvx train RECIPE --join`. Where
    there are several, JOB_COMPLETION_INDEX stands in, which Kubernetes gives a Job's pods."""
    main_address: str = ""
    """Name or address under which the others reach machine 0."""
    main_port: int = Field(default=29500, ge=1, le=65535)
    """Port on which machine 0 listens for them."""
    stop_seconds: float = Field(default=GRACE_SECONDS, gt=0, allow_inf_nan=False)
    """How long training that is stopped may take to save a checkpoint before it is killed; it can
    save after each micro-batch. Whoever stops it from outside must be as patient."""
    disk_cache_gib: float = Field(default=50.0, ge=0)
    """Most GiB of records and videos from S3 kept on this disk for the next run; 0 for none."""
    s3_endpoint_url: str | None = None
    """Endpoint of an S3-compatible server; empty means AWS."""
    s3_access_key: SecretStr | None = None
    s3_secret_key: SecretStr | None = None
    s3_region: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _rank_of_pod(cls, given: dict[str, Any]) -> dict[str, Any]:
        """A pod of an indexed Job knows its number by another name."""
        index = os.environ.get("JOB_COMPLETION_INDEX")  # noqa: TID251 - this is the place
        if index is None or "machine_rank" in given or str(given.get("machines", 1)) == "1":
            return given
        return {**given, "machine_rank": index}

    @property
    def mlflow_uri(self) -> str:
        """Tracking URI, the embedded database by default."""
        return self.tracking_uri or f"sqlite:///{(self.home / 'mlflow.db').resolve()}"

    @property
    def is_tracked(self) -> bool:
        """Whether MLflow may know anything: a server, or a database that something made."""
        return bool(self.tracking_uri) or (self.home / "mlflow.db").is_file()

    @property
    def mlflow_artifacts(self) -> Path | None:
        """Artifact folder of an MLflow without a server; a server has its own."""
        served = self.tracking_uri.startswith(("http://", "https://"))
        return None if served else (self.home / "mlflow-artifacts").resolve()

    @property
    def work(self) -> Path:
        """Scratch folder for fetched clips and videos; may be deleted at any time."""
        return self.home / "work"

    @property
    def disk_cache(self) -> Path:
        """Copies of what was read from S3; may be deleted at any time."""
        return self.home / "disk-cache"

    @property
    def file_hashes(self) -> Path:
        """What the files of base models hashed to; may be deleted at any time."""
        return self.home / "file-hashes.json"

    def run_folder(self, run: str) -> Path:
        """Where the trainer of this run works; machines may share a home, but no run folder."""
        rank = f"-{self.machine_rank}" if self.machine_rank else ""
        return self.home / "runs" / f"{run[:16]}{rank}"

    def report_folder(self, run: str) -> Path:
        """Where a person finds this run's report."""
        return self.home / "reports" / run[:16]

    def dataset_folder(self, identity: str) -> Path:
        """Where a person finds the page of a dataset."""
        return self.home / "datasets" / identity[:16]


@cache
def settings() -> Settings:
    """The settings of this process, read once.

    In a process that a worker started, our loggers speak from then on: Prefect hands their lines on
    to its pages, but gives them no level, so that only warnings would be seen there. And it lives
    on to tell of its end when that worker dies. What it was given in secret is logged nowhere.

    Raises:
        ConfigError: A variable holds what no setting can be.
    """
    for name, value in os.environ.items():  # noqa: TID251 - this is the place
        if is_secret(name):
            hold(value)
    watch_logs()
    if (worker := worker_pid()) is not None:
        outlive(worker)
        for name in EVERYWHERE["PREFECT_LOGGING_EXTRA_LOGGERS"].split(","):
            logging.getLogger(name).setLevel(logging.INFO)
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            Problem("COGVX_" + str(detail["loc"][0]).upper(), detail["input"], detail["msg"])
            for detail in error.errors()
        ]
        raise ConfigError("settings", problems) from error
    except SettingsError as error:  # of what should be JSON; its cause may hold more than a name
        raise ConfigError(f"settings: {error}; it is written as JSON") from None


def worker_pid() -> int | None:
    """The Prefect worker that started this process for a flow run; None where a person did."""
    is_engine = "PREFECT__FLOW_RUN_ID" in os.environ  # noqa: TID251 - this is the place
    return _STARTED_BY if is_engine else None


def visible_gpus() -> tuple[str, ...] | None:
    """The GPUs that whoever started this process left to it; None where nothing was said."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")  # noqa: TID251 - this is the place
    return None if said is None else tuple(each.strip() for each in said.split(",") if each.strip())


def flow_run_of_process() -> str:
    """The flow run that a worker started this process for; empty where a person did."""
    return os.environ.get("PREFECT__FLOW_RUN_ID", "")  # noqa: TID251 - this is the place


def prepare_process() -> None:
    """Set the defaults that Prefect, MLflow and the hub read when they are imported.

    What the environment already says wins. Telemetry is off; Prefect's database lies with
    everything else; our loggers reach the Prefect UI, and its own lines stay out of the terminal.

    Raises:
        ConfigError: The home folder cannot be written.
    """
    home = settings().home.resolve()
    try:
        # Prefect's server waits forever for a database whose folder is not there.
        (home / "prefect").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"COGVX_HOME = {home} cannot be written: {error.strerror}") from error
    defaults = {
        **EVERYWHERE,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - this is the place
    # diffusers imports it where it is; on some CPUs it warns of a kernel that is not used here
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

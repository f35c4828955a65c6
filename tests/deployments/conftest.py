"""A Prefect server of its own for what is deployed, and a catalog that uses everything."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.catalog import CATALOG, load_catalog
from deployments.rows import Desired, desired
from tests.fixtures.servers import prefect_server

FULL = """
[pools.cpu]
queues.urgent = {priority = 1}
queues.default = {priority = 2}
queues.idle = {priority = 7, concurrency = 1}

[pools.gpu-cache]
concurrency = 4
env = {COGVX_GPU_SLOTS = "cogvx-gpus"}

[pools.gpu-train]
type = "kubernetes"
image = "registry/cogvx-worker:1"
gpus = 1
shm = "64Gi"
stop_seconds = 120
tolerations = [{key = "nvidia.com/gpu", effect = "NoSchedule"}]
node_selector = {gpu = "h100"}

[pools.gpu-eval]
type = "docker"
image = "cogvx-worker:1"
gpus = 1

[[recipes]]
file = "ships.toml"
cron = "30 3 * * 1-5"
timezone = "Europe/Berlin"
on_arrival = true
queue = "urgent"
tags = ["team:harbour"]

[[recipes]]
file = "trains.toml"
cron = "0 5 * * *"
on_arrival = true
paused = true
collision = "CANCEL_NEW"

[watch]
every = 600

[retention]
cron = "0 4 * * 0"
keep_days = 60

[limits]
cogvx-gpus = 8

[notify]
block = "slack-webhook/ops"

[zombies]
within_seconds = 120
"""


@pytest.fixture(scope="module")
def deployed_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a server on which nothing is deployed yet."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture(scope="module")
def client(deployed_url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: deployed_url}), get_client(sync_client=True) as found:
        yield found


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[str], Desired]:
    """The rows of a catalog's text; beside it stand the recipes `ships` and `trains`."""
    recipe = (CATALOG.parent / "recipes" / "nano-demo.toml").read_text()
    for name in ("ships", "trains"):
        (tmp_path / f"{name}.toml").write_text(recipe.replace("nano-demo", name))

    def made(text: str) -> Desired:
        (tmp_path / "catalog.toml").write_text(text)
        return desired(load_catalog(tmp_path / "catalog.toml"))

    return made

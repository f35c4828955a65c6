"""Make work pools and deployments of what runs in shards: `python -m deployments.apply`.

On the server that PREFECT_API_URL names; run again, it brings deployments up to date and leaves
pools alone that are there. A worker needs this project installed; its settings are its own.
"""

from typing import Any

import typer
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from flows.encode import encode_shard
from flows.generate import generate_shard
from flows.promote import promote
from flows.train import train
from tasks.settings import EVERYWHERE

POOL = "gpu-cache"
TRAIN_POOL = "gpu-train"
GENERATE_POOL = "gpu-eval"
PEOPLE_POOL = "cpu"


def apply(
    client: SyncPrefectClient, flow: Flow[..., Any] = encode_shard, *, pool: str = POOL
) -> str:
    """Make or update a pool and the deployment on it; returns the name for the settings."""
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=pool, type=ProcessWorker.type, base_job_template=template)
        )
    client.create_deployment(
        flow_id=client.create_flow(flow),
        name=pool,
        work_pool_name=pool,
        # A module rather than a file: found wherever the project is installed.
        entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
        # Runs in the worker's own folder. Without a step Prefect would copy that folder first.
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": "."}}],
        # The variable `command` stays unset: it would change how a cancelled run is stopped.
        job_variables={"working_dir": ".", "env": EVERYWHERE},
        parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        description=flow.description,
    )
    return f"{flow.name}/{pool}"


def main() -> None:
    """Apply to the server of this environment, and say what to do next."""
    with get_client(sync_client=True) as client:
        encode = apply(client)
        generate = apply(client, generate_shard, pool=GENERATE_POOL)
        teach = apply(client, train, pool=TRAIN_POOL)
        ask = apply(client, promote, pool=PEOPLE_POOL)
        typer.echo(f"applied {encode}, {teach}, {generate} and {ask} to {client.api_url}")
    for pool in (POOL, TRAIN_POOL, GENERATE_POOL):
        typer.echo(
            f"start workers:  prefect worker start --pool {pool} --limit 1   # 1 for each GPU"
        )
    # Without a limit: a worker that has one may fail when a suspended run comes back at once.
    typer.echo(f"                prefect worker start --pool {PEOPLE_POOL}   # no GPU")
    typer.echo(f"use them:       COGVX_ENCODE_DEPLOYMENT={encode} cogvx cache RECIPE")
    typer.echo(
        f"                COGVX_GENERATE_DEPLOYMENT={generate} cogvx generate --into-store NAME"
    )
    typer.echo(f"                COGVX_PROMOTE_DEPLOYMENT={ask} cogvx retrain RECIPE")


if __name__ == "__main__":
    main()

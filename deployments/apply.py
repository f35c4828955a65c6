"""Make the work pool and the deployment by which shards are encoded: `python -m deployments.apply`.

On the server that PREFECT_API_URL names; run again, it brings the deployment up to date and leaves
a pool alone that is there. The worker needs this project installed; its settings are its own.
"""

import typer
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from flows.encode import encode_shard
from tasks.settings import EVERYWHERE

POOL = "gpu-cache"


def apply(client: SyncPrefectClient) -> str:
    """Make or update everything; returns the deployment's name for COGVX_ENCODE_DEPLOYMENT."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template)
        )
    client.create_deployment(
        flow_id=client.create_flow(encode_shard),
        name=POOL,
        work_pool_name=POOL,
        # A module rather than a file: found wherever the project is installed.
        entrypoint=f"{encode_shard.fn.__module__}.{encode_shard.fn.__name__}",
        # Runs in the worker's own folder. Without a step Prefect would copy that folder first.
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": "."}}],
        # The variable `command` stays unset: it would change how a cancelled run is stopped.
        job_variables={"working_dir": ".", "env": EVERYWHERE},
        parameter_openapi_schema=parameter_schema(encode_shard).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        description=encode_shard.description,
    )
    return f"{encode_shard.name}/{POOL}"


def main() -> None:
    """Apply to the server of this environment, and say what to do next."""
    with get_client(sync_client=True) as client:
        name = apply(client)
        typer.echo(f"applied {name} to {client.api_url}")
    typer.echo(f"start workers:  prefect worker start --pool {POOL} --limit 1   # 1 for each GPU")
    typer.echo(f"use them:       COGVX_ENCODE_DEPLOYMENT={name} cogvx cache RECIPE")


if __name__ == "__main__":
    main()

"""Take part in a run that another machine leads."""

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from cogvx.errors import ConfigError
from cogvx.recipe import Recipe
from tasks.clients.launch import join_training
from tasks.clients.machines import Machines
from tasks.clients.pool import address_of, asking
from tasks.clients.slots import gpu_slots
from tasks.settings import flow_run_of_process
from tasks.training.finished import finished_run
from tasks.training.prepare_run import prepare_run
from tasks.training.train import require_room
from tasks.workbench import Workbench


def led_recipe() -> Recipe:
    """The recipe of the flow run that the first pod of this job executes.

    Raises:
        ConfigError: No worker started this process for such a run.
        TransientError: Prefect's server did not answer.
    """
    run = flow_run_of_process()
    if not run:
        raise ConfigError(
            "PREFECT__FLOW_RUN_ID is not set, so this is no pod of a flow run; use "
            "`cogvx train RECIPE --join`"
        )
    with get_client(sync_client=True) as client, asking("find the flow run to join"):
        try:
            given = client.read_flow_run(UUID(run)).parameters
        except (ObjectNotFound, ValueError) as error:
            where = address_of(client)
            raise ConfigError(f"there is no flow run {run} at {where}") from error
    if "recipe" not in given:
        raise ConfigError(f"flow run {run} has no recipe, so it trains nothing")
    return Recipe.model_validate(given["recipe"])


def join_run(bench: Workbench) -> str:
    """Train with the machine that leads, until it ends there; returns the run's name.

    Everything but the checkpoint, which the leader hands over, comes from the store.

    Raises:
        ConfigError: This machine is none that joins, or the clips have not been cached yet.
        RecordsLost: Records must be encoded again first.
        CogvxError: Training failed on this machine.
    """
    machines = Machines.of(bench.settings, bench.recipe.train.processes)
    if machines.is_first:
        raise ConfigError(
            "COGVX_MACHINE_RANK = 0 is the machine that leads; use `cogvx train RECIPE` there, and "
            "set COGVX_MACHINES and COGVX_MACHINE_RANK on the machines that join it"
        )
    manifest = bench.latest_manifest()
    run = bench.run_identity(manifest)
    if finished_run(bench, run) is None:
        require_room(bench)
        folder = prepare_run(bench, manifest, run)
        processes = bench.recipe.train.processes
        with gpu_slots(bench.settings, machines.share(processes)):
            join_training(
                folder.root,
                processes=processes,
                machines=machines,
                log=folder.root / "trainer.log",
                grace=bench.settings.stop_seconds,
            )
    return run

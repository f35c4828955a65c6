"""Take part in a run that another machine leads."""

from cogvx.errors import ConfigError
from tasks.clients.launch import join_training
from tasks.clients.machines import Machines
from tasks.train import finished_run, prepare_run
from tasks.workbench import Workbench


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
        folder = prepare_run(bench, manifest, run)
        join_training(
            folder.root,
            processes=bench.recipe.train.processes,
            machines=machines,
            log=folder.root / "trainer.log",
            grace=bench.settings.stop_seconds,
        )
    return run

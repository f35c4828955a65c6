"""Train one adapter: fill the run folder, launch the trainer, relay its words, keep the result."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.data.manifest import Manifest
from cogvx.errors import ConfigError
from cogvx.runs.carry import bring_checkpoint, newest_in
from cogvx.runs.folder import RunFolder, TrainOutcome
from cogvx.runs.lock import hold
from tasks.caching.dataset_page import log_dataset
from tasks.clients.launch import launch_training
from tasks.clients.machines import Machines, machine_tags, require_gpus
from tasks.clients.registry import Registry
from tasks.clients.slots import gpu_slots, require_slots
from tasks.documents import TrainReport
from tasks.ended import ending
from tasks.lineage import run_tags
from tasks.pages.labels import label_run
from tasks.pools.afar import elsewhere
from tasks.pools.fan_out import Elsewhere
from tasks.pools.metering import metered
from tasks.registry.adapter_refs import adapter_key
from tasks.settings import worker_pid
from tasks.training.finished import fetch_adapter, finished_run, keep_run, mlflow_run
from tasks.training.first_batch import show_first_batch
from tasks.training.prepare_run import prepare_run
from tasks.training.relay import Relay
from tasks.training.unfinished import warn_of_unfinished
from tasks.training.uploads import uploading
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


@task(name="train adapter", cache_policy=NO_CACHE)
def train_adapter(bench: Workbench) -> TrainReport:
    """Train on the newest manifest, or find that this very adapter exists already.

    The result is kept in the store, the outcome last. What a killed run left is taken up again: its
    newest checkpoint, in its folder here or in the store.

    Raises:
        ConfigError: The clips have not been cached yet.
        IntegrityError: The newest checkpoint is damaged; the message says what to remove.
        TransientError: It was stopped, or something did not answer; started again it goes on.
        RecordsLost: Records must be encoded again first.
        TrainingDiverged: The loss stopped being finite.
    """
    machines = _machines_of(bench)
    if not machines.is_first:
        raise ConfigError(
            f"COGVX_MACHINE_RANK = {machines.rank} does not lead; use `cogvx train RECIPE --join` "
            "on this machine"
        )
    manifest = bench.latest_manifest()
    run = bench.run_identity(manifest)
    label_run(bench, run)
    known = finished_run(bench, run)
    if known is not None:
        return _report(bench, run, known, trained=False)
    require_room(bench)
    folder = prepare_run(bench, manifest, run)
    with hold(folder.lock):
        step = bring_checkpoint(bench.store, folder, run)
    if step is not None:
        logger.info("fetched the checkpoint of step %d from %s", step, bench.store.url)
    if newest_in(folder) is None:
        warn_of_unfinished(bench, folder.read_spec())
    outcome = _launch(bench, folder, run, manifest)
    keep_run(bench, folder, run, outcome)
    return _report(bench, run, outcome, trained=True)


def trained_elsewhere(bench: Workbench) -> Elsewhere[TrainReport] | None:
    """Where adapters are trained, if the settings do not leave it to this process.

    Their reports name the adapter's place in the store: its path is one of another machine.
    """
    here, store = bench.settings, bench.store
    found = elsewhere(here.train_deployment, TrainReport, store, here)
    if found is None:
        return None

    def report(run: str) -> TrainReport:
        told = found.report(run)
        place = f"{store.url}/{adapter_key(told.adapter_sha256)}"
        return told.model_copy(update={"adapter": place})

    return replace(found, report=report)


def require_room(bench: Workbench) -> None:
    """Refuse to train where GPUs or slots of them are lacking, before anything is fetched.

    Raises:
        ConfigError: There are fewer GPUs than processes, or no such slots as the settings name.
    """
    machines, processes = _machines_of(bench), bench.recipe.train.processes
    require_gpus(bench.settings, machines, processes)
    require_slots(bench.settings, machines.share(processes))


def _launch(bench: Workbench, folder: RunFolder, run: str, manifest: Manifest) -> TrainOutcome:
    """Run the trainer with an MLflow run open, which ends the way the trainer ends."""
    recipe, machines = bench.recipe, _machines_of(bench)
    processes = recipe.train.processes
    registry = Registry(bench.settings.mlflow_uri, bench.settings.mlflow_artifacts)
    run_id = mlflow_run(bench, registry, run)
    registry.reopen_run(run_id)
    log_dataset(bench, registry, run_id, manifest=manifest)
    registry.set_run_tags(run_id, run_tags(bench, folder) | machine_tags(machines))
    with (
        ending(registry, run_id),
        Relay(registry, run_id, folder) as relay,
        uploading(folder, bench.store, keep=recipe.train.keep_checkpoints) as uploads,
    ):

        def hear(event: Mapping[str, Any]) -> None:
            if event["kind"] == "checkpoint":
                uploads.offer(event["folder"])
            relay(event)

        with gpu_slots(bench.settings, machines.share(processes)):
            # it decodes on a GPU where there is one, so it waits for one as well
            show_first_batch(bench, folder, manifest=manifest, runs=registry, run_id=run_id)
            count = machines.count
            with metered(
                bench.store, "train", model=recipe.name, devices=processes, machines=count
            ):
                outcome = launch_training(
                    folder.root,
                    processes=processes,
                    on_event=hear,
                    log=folder.root / "trainer.log",
                    machines=machines,
                    worker=worker_pid(),
                    grace=bench.settings.stop_seconds,
                )
        if outcome.measured is not None:
            registry.set_run_tags(run_id, {"cogvx.device": outcome.measured.device or "cpu"})
        return outcome


def _machines_of(bench: Workbench) -> Machines:
    return Machines.of(bench.settings, bench.recipe.train.processes)


def _report(bench: Workbench, run: str, outcome: TrainOutcome, *, trained: bool) -> TrainReport:
    return TrainReport(
        run=run,
        trained=trained,
        steps=outcome.step,
        best_step=outcome.best_step,
        resumed_from=outcome.resumed_from,
        train_loss=outcome.train_loss,
        heldout_before=outcome.heldout_before,
        heldout_after=outcome.heldout_after,
        measured=outcome.measured,
        adapter=str(fetch_adapter(bench, outcome)),
        adapter_sha256=outcome.adapter_sha256 or "",
    )

"""Train one adapter: fill the run folder, launch the trainer, relay its words, keep the result."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx import files
from cogvx.adapters.card import ADAPTER_FILE
from cogvx.cache.index import index_cache
from cogvx.cache.plan import record_paths
from cogvx.data.manifest import Manifest
from cogvx.digest import canonical_json, sha256_file
from cogvx.errors import ConfigError, IntegrityError
from cogvx.model.identity import commit_of
from cogvx.runs.carry import bring_checkpoint, newest_in
from cogvx.runs.folder import Fork, RunFolder, RunSpec, TrainOutcome
from cogvx.runs.lock import hold
from tasks.afar import elsewhere
from tasks.clients.launch import launch_training
from tasks.clients.machines import Machines, machine_tags, require_gpus
from tasks.clients.registry import Point, Registry
from tasks.clients.runs import RUN_TAG
from tasks.clients.slots import gpu_slots, require_slots
from tasks.curves import Curves
from tasks.dataset_page import log_dataset
from tasks.documents import TrainReport
from tasks.ended import ending
from tasks.fan_out import Elsewhere
from tasks.first_batch import show_first_batch
from tasks.fork import bring_fork
from tasks.labels import label_run
from tasks.lineage import run_tags
from tasks.metering import metered
from tasks.records import bring_records
from tasks.relay import Relay
from tasks.settings import worker_pid
from tasks.speeds import keep_speed
from tasks.unfinished import warn_of_unfinished
from tasks.uploads import uploading
from tasks.workbench import Workbench, code_version, read_stored

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
    _keep(bench, folder, run, outcome)
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
        place = f"{store.url}/{_adapter_key(told.adapter_sha256)}"
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


def finished_run(bench: Workbench, run: str) -> TrainOutcome | None:
    """The outcome of a run whose adapter is in the store."""
    if bench.store.info(_outcome_key(run)) is None:
        return None
    return read_stored(bench.store, _outcome_key(run), TrainOutcome)


def fetch_adapter(bench: Workbench, outcome: TrainOutcome) -> Path:
    """The adapter file of a finished run on this machine, verified.

    Raises:
        IntegrityError: The file is not the one that the run made.
    """
    sha256 = outcome.adapter_sha256 or ""
    path = bench.store.fetch(_adapter_key(sha256), bench.work / "adapters")
    if sha256_file(path) != sha256:
        raise IntegrityError(f"{path} is not the adapter {sha256} that was trained")
    return path


def mlflow_run(bench: Workbench, registry: Registry, run: str) -> str:
    """MLflow's id of our run, started if MLflow does not know it yet."""
    name = bench.recipe.name
    run_id = registry.find_run(name, run)
    if run_id is None:
        run_id = registry.start_run(name, f"{name} {run[:8]}", tags={RUN_TAG: run})
        registry.log_params(run_id, bench.recipe.model_dump(mode="json"))
    return run_id


def recall_run(bench: Workbench, registry: Registry, run: str, outcome: TrainOutcome) -> str:
    """MLflow's id of a finished run; told again to an MLflow that does not know it.

    That happens after a move to a new server, or when a recipe was given a new name.
    """
    known = registry.find_run(bench.recipe.name, run)
    if known is not None:
        return known
    run_id = mlflow_run(bench, registry, run)
    log_dataset(bench, registry, run_id, manifest=bench.latest_manifest())
    folder = RunFolder(bench.settings.run_folder(run))
    registry.set_run_tags(run_id, run_tags(bench, folder))
    curves = Curves(registry, run_id, folder.events)
    while curves.send():
        pass
    if folder.first_batch.is_dir():
        registry.log_artifact(run_id, folder.first_batch, folder=folder.first_batch.name)
    if not folder.events.is_file():  # it was trained elsewhere: what its outcome says is left
        registry.log_metrics(run_id, _last_points(outcome))
    registry.end_run(run_id, "FINISHED")
    return run_id


def _last_points(outcome: TrainOutcome) -> list[Point]:
    told = [
        ("train/loss", outcome.step, outcome.train_loss),
        ("heldout/loss_all", 0, outcome.heldout_before),
        ("heldout/loss_all", outcome.best_step or outcome.step, outcome.heldout_after),
    ]
    return [Point(name, value, step=step) for name, step, value in told if value is not None]


def _outcome_key(run: str) -> str:
    return f"runs/{run}/outcome.json"


def _adapter_key(sha256: str) -> str:
    return f"adapters/{sha256}/{ADAPTER_FILE}"


def prepare_run(bench: Workbench, manifest: Manifest, run: str) -> RunFolder:
    """Write the run's document and bring its records to this machine.

    Raises:
        Held: Another process is training this run here, from the document that is there.
        IntegrityError: The folder belongs to another run.
        RecordsLost: Records must be encoded again first.
    """
    folder = RunFolder(bench.settings.run_folder(run))
    spec = _spec(bench, manifest, run)
    folder.root.mkdir(parents=True, exist_ok=True)
    with hold(folder.lock):
        if folder.spec.is_file() and files.read_document(folder.spec, RunSpec).run != run:
            raise IntegrityError(f"{folder.root} belongs to another run; move it away")
        if bench.settings.machine_rank == 0:  # the one that leads hands the weights over
            spec = spec.model_copy(update={"fork": _fork(bench, folder, run)})
        files.write_document(folder.spec, spec)
    # Before the records are fetched: from now on pruning keeps them. Also where it says so already,
    # as a run that nobody went on with for long is one that may leave.
    bench.store.write(f"runs/{run}/{folder.spec.name}", canonical_json(spec))
    wanted = record_paths((*spec.train, *spec.heldout), spec.empty_prompt)
    bring_records(bench, wanted, folder.records, what="fetch records")
    return folder


def _fork(bench: Workbench, folder: RunFolder, run: str) -> Fork | None:
    """The weights that a new run begins with, brought to its folder."""
    wanted = bench.recipe.train.fork_of
    if wanted is None:
        return None
    finished = finished_run(bench, wanted)
    adapter = None if finished is None else fetch_adapter(bench, finished)
    return bring_fork(bench, folder, run, adapter=adapter)


def _spec(bench: Workbench, manifest: Manifest, run: str) -> RunSpec:
    index = index_cache(manifest, bench.recipe, facts=bench.facts, ids=bench.ids)
    return RunSpec(
        run=run,
        recipe=bench.recipe,
        manifest=index.manifest,
        base_folder=str(bench.base.resolve()),
        base_fingerprint=bench.base_fingerprint,
        base_revision=commit_of(bench.base),
        file_hashes=str(bench.settings.file_hashes.resolve()),
        code_version=code_version(),
        train=index.train,
        heldout=index.heldout,
        empty_prompt=index.empty_prompt,
        warnings=bench.warnings,
    )


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
            with metered(bench.store, "train", model=recipe.name, devices=processes):
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


def _keep(bench: Workbench, folder: RunFolder, run: str, outcome: TrainOutcome) -> None:
    """Put the adapter into the store, and then the outcome, which says that it is there."""
    sha256 = sha256_file(folder.adapter_file)
    if sha256 != outcome.adapter_sha256:
        raise IntegrityError(f"{folder.adapter_file} is not the adapter that the trainer reported")
    bench.store.upload(folder.adapter_file, _adapter_key(sha256))
    keep_speed(bench.store, bench.facts, run, outcome.measured)
    bench.store.write(_outcome_key(run), canonical_json(outcome))


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

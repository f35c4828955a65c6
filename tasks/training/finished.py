"""Runs that have finished: what of them the store and MLflow keep.

runs/<run>/outcome.json     TrainOutcome, written last: the adapter that it names is there
adapters/<sha256>/          the adapter
"""

from pathlib import Path

from cogvx.digest import canonical_json, sha256_file
from cogvx.errors import IntegrityError
from cogvx.runs.folder import RunFolder, TrainOutcome
from tasks.caching.dataset_page import log_dataset
from tasks.clients.registry import Point, Registry
from tasks.clients.runs import RUN_TAG
from tasks.lineage import run_tags
from tasks.registry.adapter_refs import adapter_key
from tasks.training.curves import Curves
from tasks.training.speeds import keep_speed
from tasks.workbench import Workbench, read_stored


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
    path = bench.store.fetch(adapter_key(sha256), bench.work / "adapters")
    if sha256_file(path) != sha256:
        raise IntegrityError(f"{path} is not the adapter {sha256} that was trained")
    return path


def keep_run(bench: Workbench, folder: RunFolder, run: str, outcome: TrainOutcome) -> None:
    """Put the adapter into the store, and then the outcome, which says that it is there."""
    sha256 = sha256_file(folder.adapter_file)
    if sha256 != outcome.adapter_sha256:
        raise IntegrityError(f"{folder.adapter_file} is not the adapter that the trainer reported")
    bench.store.upload(folder.adapter_file, adapter_key(sha256))
    keep_speed(bench.store, bench.facts, run, outcome.measured)
    bench.store.write(_outcome_key(run), canonical_json(outcome))


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

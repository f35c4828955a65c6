"""A run's folder as its trainer finds it: its document, its records, the weights it begins with."""

from cogvx import files
from cogvx.cache.index import index_cache
from cogvx.cache.plan import record_paths
from cogvx.data.manifest import Manifest
from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError
from cogvx.model.identity import commit_of
from cogvx.runs.folder import Fork, RunFolder, RunSpec
from cogvx.runs.lock import hold
from tasks.caching.records import bring_records
from tasks.training.finished import fetch_adapter, finished_run
from tasks.training.fork import bring_fork
from tasks.workbench import Workbench, code_version


def prepare_run(bench: Workbench, manifest: Manifest, run: str) -> RunFolder:
    """Write the run's document and bring its records to this machine.

    Raises:
        Held: Another process is training this run here, from the document that is there.
        IntegrityError: The folder belongs to another run.
        RecordsLost: Records must be encoded again first.
    """
    folder = RunFolder(bench.settings.run_folder(run))
    spec = spec_of(bench, manifest, run)
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


def spec_of(bench: Workbench, manifest: Manifest, run: str) -> RunSpec:
    """All that decides what the trainer does, but for the weights that it begins with."""
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

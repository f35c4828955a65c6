"""Show a person the first batch before training begins: decoded, and kept with the MLflow run."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cogvx.data.manifest import Manifest
from cogvx.data.scratch import scratch_folder
from cogvx.errors import CogvxError, IntegrityError, TransientError
from cogvx.files import write_document
from cogvx.runs.folder import RunFolder
from tasks.clients.runs import Runs
from tasks.workbench import Workbench

if TYPE_CHECKING:
    from cogvx.training.proof import ProofOrder

logger = logging.getLogger(__name__)

_MODULE = "cogvx.training.proof"
_MOST_SECONDS = 900.0
# So many decode within seconds on any CPU. A process of its own takes longer than that to load, but
# can be ended, so it gets what is more.
_FEW_PIXELS = 2**19


def show_first_batch(
    bench: Workbench, folder: RunFolder, *, manifest: Manifest, runs: Runs, run_id: str
) -> None:
    """Decode the first batch of a run, unless that was done, and keep it as `first_batch`.

    Looking is no reason not to train: what goes wrong here is said, and training begins all the
    same. If records are damaged, it will say so itself. It ends in time: either there is little to
    decode, or a process of its own does it, which is ended when its time is over.

    Args:
        bench: Of the run's recipe.
        folder: With run.json and records.
        manifest: That the run is trained on.
        runs: Where MLflow's run is.
        run_id: MLflow's.
    """
    try:
        if not folder.first_batch.is_dir():
            _make(bench, folder, manifest)
            logger.info("first batch: %s", folder.first_batch / "index.html")
        runs.log_artifact(run_id, folder.first_batch, folder=folder.first_batch.name)
    except (CogvxError, OSError, RuntimeError) as error:
        # a disk may be full, and a CPU's memory ends as a RuntimeError of torch
        logger.warning("the first batch is not shown: %s", error)


def _make(bench: Workbench, folder: RunFolder, manifest: Manifest) -> None:
    from cogvx.training.proof import (  # noqa: PLC0415 - loads torch
        ProofOrder,
        Source,
        first_samples,
        make_proof,
    )

    spec = folder.read_spec()
    with scratch_folder(bench.work / "clips", "first-batch") as scratch:
        sources = {}
        for number in first_samples(spec):
            clip = manifest.train[number]  # an index has a run's samples in the manifest's order
            path = _fetched(bench, clip.key, scratch / str(number))
            if path is not None:
                sources[spec.train[number].latents] = Source(clip=clip, path=path.resolve())
        device = "cuda" if bench.device == "cuda" else "cpu"
        order = ProofOrder(device=device, fps=spec.recipe.video.fps, sources=sources)
        sizes = [spec.train[number].size for number in first_samples(spec)]
        if device == "cpu" and sum(size.frames * size.pixels for size in sizes) <= _FEW_PIXELS:
            make_proof(folder, order)
        else:
            _make_apart(folder, order)


def _make_apart(folder: RunFolder, order: "ProofOrder") -> None:
    """In a process of its own: what it had of the GPU is free again when training begins.

    Raises:
        CogvxError: It failed, in its own words, or took too long.
    """
    write_document(folder.proof_order, order)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", _MODULE, str(folder.root.resolve())],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CogvxError(
            f"decoding it took longer than {_MOST_SECONDS:g} s and was ended"
        ) from error
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"]
        raise CogvxError(lines[-1])


def _fetched(bench: Workbench, key: str, scratch: Path) -> Path | None:
    """The clip's file, or None where it cannot be had: the page says so."""
    scratch.mkdir()
    try:
        return bench.dataset.fetch(key, scratch)
    except (IntegrityError, TransientError) as error:
        logger.info("the first batch is shown without a source: %s", error)
        return None

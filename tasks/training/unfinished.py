"""Runs that were begun and never finished: nobody should start over without being told of them."""

import logging
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from cogvx.errors import IntegrityError
from cogvx.files import read_document
from cogvx.runs.carry import latest_key, newest_in
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.runs.origin import changes_of, in_words
from cogvx.runs.saved import Pointer, step_of
from cogvx.store import ObjectStore
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)

_SHOWN = 3
_SHORT = 12


def warn_of_unfinished(bench: Workbench, spec: RunSpec) -> None:
    """Say which unfinished runs a new one leaves behind, what differs, and how to go on with them.

    Those of the same name count, in the folders of this machine and in the store.
    """
    found = {other.run: (other, step) for other, step in _stored(bench.store)}
    found |= {other.run: (other, step) for other, step in _local(bench.settings.home / "runs")}
    left = sorted(
        (
            (other, step)
            for other, step in found.values()
            if other.recipe.name == spec.recipe.name
            and other.run != spec.run
            and bench.store.info(f"runs/{other.run}/outcome.json") is None
        ),
        key=lambda run_and_step: -run_and_step[1],
    )
    for other, step in left[:_SHOWN]:
        changed = in_words(changes_of(other, spec)) or "which sizes are encoded in tiles"
        logger.warning(
            "run %s of %s is unfinished at step %d of %d, and this begins run %s at step 0, since "
            "they differ: %s. To go on with that one, put this back; to begin with its weights, "
            'set train.fork_of = "%s"',
            other.run[:_SHORT],
            other.recipe.name,
            step,
            other.recipe.train.steps,
            spec.run[:_SHORT],
            changed,
            other.run,
        )
    if len(left) > _SHOWN:
        logger.warning("%d more runs of this name are unfinished", len(left) - _SHOWN)


def _local(runs: Path) -> Iterator[tuple[RunSpec, int]]:
    """Runs below a folder with a checkpoint and no result, and how far they are."""
    for root in sorted(runs.iterdir()) if runs.is_dir() else ():
        folder = RunFolder(root)
        newest = newest_in(folder)
        if newest is None or not folder.spec.is_file():
            continue
        try:
            spec, finished = read_document(folder.spec, RunSpec), folder.completed()
        except IntegrityError:
            continue  # another version's: nothing that this one could go on with
        if finished is None:
            yield spec, step_of(newest)


def _stored(store: ObjectStore) -> Iterator[tuple[RunSpec, int]]:
    """Runs whose checkpoints were put into the store and never removed."""
    keys = {entry.key for entry in store.entries("runs/")}
    for run in sorted({key.split("/")[1] for key in keys}):
        if latest_key(run) not in keys:
            continue
        try:
            spec = RunSpec.model_validate_json(store.read(f"runs/{run}/run.json"))
            pointer = Pointer.model_validate_json(store.read(latest_key(run)))
        except (IntegrityError, ValidationError):
            continue  # as above; or removed since they were listed
        yield spec, pointer.step

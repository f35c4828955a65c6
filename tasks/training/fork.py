"""The weights that a new run begins with when its recipe names another run: `train.fork_of`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvx.adapters.card import AdapterCard, read_card
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, IntegrityError, Problem, as_toml
from cogvx.files import read_document
from cogvx.runs.carry import bring_checkpoint, latest_key, newest_in
from cogvx.runs.folder import Fork, RunFolder, RunSpec
from cogvx.runs.saved import STATE_FILE, CheckpointState
from tasks.workbench import Workbench, read_stored

_SHAPE = ("rank", "alpha", "targets")


def bring_fork(
    bench: Workbench, folder: RunFolder, run: str, *, adapter: Path | None
) -> Fork | None:
    """Put the named run's newest weights into a new run's folder; None if none is named.

    A finished run gives what it exported, which may be a mean or its best; another one its newest
    checkpoint, from its folder here or from the store. What was brought once stays: a later try of
    the new run begins with the same, however far the other run is by then.

    Args:
        bench: Of the new run.
        folder: Of the new run.
        run: The new run's name. Where it has a checkpoint, it needs no other weights.
        adapter: What the named run exported, if it has finished.

    Raises:
        ConfigError: There is no such run, or its weights do not fit this recipe.
        IntegrityError: Its weights are damaged.
    """
    wanted = bench.recipe.train.fork_of
    if wanted is None:
        return None
    known = _known(bench, folder, run)
    if known is not None and known.run == wanted:
        return known
    source = RunFolder(bench.settings.run_folder(wanted))
    if adapter is None and source.completed() is not None:
        adapter = source.adapter_file  # it had no time to reach the store
    if adapter is not None:
        return _from_adapter(bench, folder, adapter)
    bring_checkpoint(bench.store, source, wanted)
    newest = newest_in(source)
    if newest is None:
        raise ConfigError(
            f'train.fork_of = "{wanted}" names no run with weights: neither an adapter nor a '
            f"checkpoint of it is in {bench.store.url} or {source.root}; use the full digest of a "
            'run, as its run.json has it under "run"'
        )
    return _from_checkpoint(bench, folder, source.checkpoints / newest)


def _known(bench: Workbench, folder: RunFolder, run: str) -> Fork | None:
    """What an earlier try brought, if it is still there or not needed any more."""
    begun = bench.store.info(latest_key(run)) is not None or newest_in(folder) is not None
    if folder.spec.is_file():
        fork = read_document(folder.spec, RunSpec).fork
        if fork is not None and (begun or _is_whole(folder, fork)):
            return fork
    key = f"runs/{run}/{folder.spec.name}"
    if not begun or bench.store.info(key) is None:
        return None
    return read_stored(bench.store, key, RunSpec).fork


def _is_whole(folder: RunFolder, fork: Fork) -> bool:
    return folder.fork.is_file() and sha256_file(folder.fork) == fork.sha256


def _from_adapter(bench: Workbench, folder: RunFolder, adapter: Path) -> Fork:
    from cogvx.training.fork import weights_of_adapter, write_fork  # noqa: PLC0415 - loads torch

    card = read_card(adapter)
    if card is None or card.run is None or card.steps is None:
        raise IntegrityError(f"{adapter} was not trained here, so nobody knows how far it went")
    _require_fitting(bench, _shape_of_card(card), card.base_fingerprint)
    weights = weights_of_adapter(adapter, card)
    return write_fork(folder, weights, run=card.run, step=card.steps)


def _from_checkpoint(bench: Workbench, folder: RunFolder, checkpoint: Path) -> Fork:
    from cogvx.training.fork import weights_of_checkpoint, write_fork  # noqa: PLC0415 - loads torch

    state = read_document(checkpoint / STATE_FILE, CheckpointState)
    origin = state.origin
    _require_fitting(bench, origin.settings["lora"], origin.base_fingerprint)
    weights = weights_of_checkpoint(checkpoint, state)
    return write_fork(folder, weights, run=state.run, step=state.progress.step)


def _shape_of_card(card: AdapterCard) -> dict[str, Any]:
    return {"rank": card.rank, "alpha": card.alpha, "targets": list(card.targets)}


def _require_fitting(
    bench: Workbench, was: Mapping[str, Any], base_fingerprint: str | None
) -> None:
    """Refuse weights of another shape or strength, or of another base model, with all reasons."""
    now = bench.recipe.lora.model_dump(mode="json", include=set(_SHAPE))
    problems = [
        Problem(f"lora.{name}", now[name], "is not what that run has", f"use {as_toml(was[name])}")
        for name in _SHAPE
        if now[name] != was[name]
    ]
    if bench.base_fingerprint != base_fingerprint:
        problems.append(
            Problem(
                "base.path",
                bench.recipe.base.path,
                f"holds other weights ({bench.base_fingerprint[:12]}) than that run was trained on "
                f"({base_fingerprint[:12] if base_fingerprint else 'nobody knows which'})",
                "use the same base model",
            )
        )
    if problems:
        raise ConfigError(f'train.fork_of = "{bench.recipe.train.fork_of}" does not fit', problems)

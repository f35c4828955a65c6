"""A new run takes another run's newest weights, and nothing that does not fit or is not there."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cogvx.adapters.export import export_adapter
from cogvx.errors import ConfigError, IntegrityError
from cogvx.files import write_document
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.model.lora import lora_state
from cogvx.runs.carry import put_checkpoint
from cogvx.runs.events import history
from cogvx.runs.folder import Fork, RunFolder
from cogvx.training.attempt import adapter_card
from cogvx.training.loop import train
from cogvx.training.stop import Stop
from tasks.training.fork import bring_fork
from tasks.training.unfinished import warn_of_unfinished
from tasks.workbench import Workbench
from tests.fixtures.training_runs import make_recipe, make_run, open_trainer
from tests.tasks.test_survey import bench

__all__ = ["bench"]

OLD, NEW = "a" * 64, "b" * 64
SHORT: dict[str, Any] = {"steps": 4, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def trained(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the checkpoints of steps 2 and 4, and the adapter that they ended in."""
    torch.set_num_threads(1)
    root = make_run(tmp_path_factory.mktemp("old") / "run", nano_base, heldout=0, **SHORT)
    folder = RunFolder(root)
    rename(root, OLD)
    trainer = open_trainer(root)
    with trainer.learner.feed:
        train(trainer.learner, trainer.journal, Stop())
    card = adapter_card(folder.read_spec(), steps=4)
    export_adapter(trainer.transformer, folder.adapter, card=card)
    return root


def rename(root: Path, run: str, **changes: Any) -> None:
    folder = RunFolder(root)
    write_document(folder.spec, folder.read_spec().model_copy(update={"run": run, **changes}))


@pytest.fixture
def forking(bench: Workbench, nano_base: Path) -> Workbench:
    """The workbench of a recipe that forks from the old run."""
    return replace(
        bench,
        recipe=make_recipe(nano_base, fork_of=OLD, **SHORT),
        base=nano_base,
        base_fingerprint=fingerprint(nano_base, BASE_PARTS),
    )


def with_lora(bench: Workbench, **lora: Any) -> Workbench:
    changed = bench.recipe.lora.model_copy(update=lora)
    return replace(bench, recipe=bench.recipe.model_copy(update={"lora": changed}))


def folder_of(bench: Workbench, run: str) -> RunFolder:
    return RunFolder(bench.settings.run_folder(run))


def begin(bench: Workbench, fork: Fork, *, base: Path) -> RunFolder:
    """Make the new run's folder as the task does, with what was brought in it."""
    folder = folder_of(bench, NEW)
    make_run(folder.root, base, heldout=0, fork_of=OLD, **SHORT)
    rename(folder.root, NEW, fork=fork)
    return folder


def test_an_unfinished_runs_newest_checkpoint_is_what_the_new_run_begins_with(
    trained: Path, forking: Workbench, nano_base: Path
) -> None:
    shutil.copytree(trained, folder_of(forking, OLD).root)
    fork = bring_fork(forking, folder_of(forking, NEW), NEW, adapter=None)
    assert fork is not None
    assert (fork.run, fork.step) == (OLD, 4)

    folder = begin(forking, fork, base=nano_base)
    trainer = open_trainer(folder.root)
    weights = load_file(trained / "checkpoints" / "step-00000004" / "lora.safetensors")
    begun = lora_state(trainer.transformer)
    assert all(torch.equal(begun[name], tensor) for name, tensor in weights.items())
    assert max(float(tensor.abs().max()) for name, tensor in begun.items() if "_B" in name) > 0
    assert (trainer.journal.step, trainer.resumed_from) == (0, None)
    assert not trainer.learner.optimiser.state
    (told,) = (event for event in history(folder.events) if event["kind"] == "forked")
    assert (told["run"], told["step"]) == (OLD, 4)


def test_a_mean_of_weights_begins_with_the_forked_ones(
    trained: Path, forking: Workbench, nano_base: Path
) -> None:
    shutil.copytree(trained, folder_of(forking, OLD).root)
    fork = bring_fork(forking, folder_of(forking, NEW), NEW, adapter=None)
    assert fork is not None
    folder = folder_of(forking, NEW)
    make_run(folder.root, nano_base, heldout=0, fork_of=OLD, ema_decay=0.9, **SHORT)
    rename(folder.root, NEW, fork=fork)
    trainer = open_trainer(folder.root)
    assert trainer.learner.ema is not None
    mean = trainer.learner.ema.state()
    for name, tensor in lora_state(trainer.transformer).items():
        assert torch.equal(mean[name], tensor)


def test_a_finished_run_gives_what_it_exported_without_alpha_in_it(
    trained: Path, forking: Workbench
) -> None:
    folder = folder_of(forking, NEW)
    adapter = RunFolder(trained).adapter_file
    fork = bring_fork(forking, folder, NEW, adapter=adapter)
    assert fork is not None
    assert (fork.run, fork.step) == (OLD, 4)
    weights = load_file(trained / "checkpoints" / "step-00000004" / "lora.safetensors")
    brought = load_file(folder.fork)
    assert brought.keys() == weights.keys()
    assert all(torch.equal(brought[name], tensor) for name, tensor in weights.items())


def test_checkpoints_in_the_store_are_found_when_this_machine_has_none(
    trained: Path, forking: Workbench
) -> None:
    put_checkpoint(RunFolder(trained), "step-00000002", forking.store, keep=2)
    fork = bring_fork(forking, folder_of(forking, NEW), NEW, adapter=None)
    assert fork is not None
    assert fork.step == 2


def test_a_later_try_begins_with_what_the_first_one_brought(
    trained: Path, forking: Workbench, nano_base: Path
) -> None:
    put_checkpoint(RunFolder(trained), "step-00000002", forking.store, keep=2)
    first = bring_fork(forking, folder_of(forking, NEW), NEW, adapter=None)
    assert first is not None
    folder = begin(forking, first, base=nano_base)
    put_checkpoint(RunFolder(trained), "step-00000004", forking.store, keep=2)
    assert bring_fork(forking, folder, NEW, adapter=None) == first

    folder.fork.unlink()  # lost before the first checkpoint: nothing was done with it
    again = bring_fork(forking, folder, NEW, adapter=None)
    assert again is not None
    assert again.step == 4

    forking.store.write(f"runs/{NEW}/run.json", folder.spec.read_bytes())
    forking.store.write(f"runs/{NEW}/latest.json", b"{}")  # it has begun, on another machine
    shutil.rmtree(folder.root)
    assert bring_fork(forking, folder, NEW, adapter=None) == first


def test_a_run_that_nobody_knows_is_named(forking: Workbench) -> None:
    with pytest.raises(ConfigError, match=rf'train\.fork_of = "{OLD}" names no run with weights'):
        bring_fork(forking, folder_of(forking, NEW), NEW, adapter=None)


def test_what_does_not_fit_is_spelt_out_at_once(trained: Path, forking: Workbench) -> None:
    other = replace(with_lora(forking, rank=8, alpha=8, targets=("to_q",)), base_fingerprint="x")
    shutil.copytree(trained, folder_of(forking, OLD).root)
    refusals = []
    for adapter in (RunFolder(trained).adapter_file, None):
        with pytest.raises(ConfigError) as refusal:
            bring_fork(other, folder_of(forking, NEW), NEW, adapter=adapter)
        refusals.append(str(refusal.value))
    assert refusals[0] == refusals[1]
    assert refusals[0] == (
        f'train.fork_of = "{OLD}" does not fit: 4 problem(s)\n'
        "  - lora.rank = 8 is not what that run has; use 4\n"
        "  - lora.alpha = 8 is not what that run has; use 2\n"
        '  - lora.targets = ["to_q"] is not what that run has; '
        'use ["to_q", "to_k", "to_v", "to_out.0"]\n'
        f'  - base.path = "{forking.base}" holds other weights (x) than that run was trained on '
        f"({forking.base_fingerprint[:12]}); use the same base model"
    )


def test_damaged_weights_are_not_begun_with(trained: Path, forking: Workbench) -> None:
    source = folder_of(forking, OLD)
    shutil.copytree(trained, source.root)
    (source.checkpoints / "step-00000004" / "lora.safetensors").write_bytes(b"torn")
    with pytest.raises(IntegrityError, match=r"lora\.safetensors is not what was written; remove"):
        bring_fork(forking, folder_of(forking, NEW), NEW, adapter=None)


def test_the_trainer_wants_the_weights_that_were_brought(
    trained: Path, forking: Workbench, nano_base: Path
) -> None:
    fork = bring_fork(
        forking, folder_of(forking, NEW), NEW, adapter=RunFolder(trained).adapter_file
    )
    assert fork is not None
    folder = begin(forking, fork, base=nano_base)
    rename(folder.root, NEW, fork=None)
    with pytest.raises(ConfigError, match=r"names no weights to begin with; start the run with"):
        open_trainer(folder.root)
    rename(folder.root, NEW, fork=fork)
    folder.fork.write_bytes(b"others")
    with pytest.raises(IntegrityError, match=r"does not hold the weights of step 4"):
        open_trainer(folder.root)


def test_a_new_run_tells_of_unfinished_ones_and_what_differs(
    trained: Path, forking: Workbench, nano_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = RunFolder(make_run(folder_of(forking, NEW).root, nano_base, learning_rate=1e-4, **SHORT))
    rename(new.root, NEW)
    warn_of_unfinished(forking, new.read_spec())
    assert caplog.messages == []

    old = folder_of(forking, OLD)
    shutil.copytree(trained, old.root)
    put_checkpoint(old, "step-00000004", forking.store, keep=2)  # counts once
    forking.store.write(f"runs/{OLD}/run.json", old.spec.read_bytes())
    warn_of_unfinished(forking, new.read_spec())
    (said,) = caplog.messages
    assert said == (
        "run aaaaaaaaaaaa of toy is unfinished at step 4 of 4, and this begins run bbbbbbbbbbbb at "
        "step 0, since they differ: train.learning_rate was 0.001 and is 0.0001; the clips were 4 "
        "windows and 0 held out and are 4 windows and 2 held out: 2 added. To go on with that one, "
        f'put this back; to begin with its weights, set train.fork_of = "{OLD}"'
    )
    shutil.rmtree(old.root)
    warn_of_unfinished(forking, new.read_spec())
    assert caplog.messages == [said, said]

    other = new.read_spec().recipe.model_copy(update={"name": "another"})
    warn_of_unfinished(forking, new.read_spec().model_copy(update={"recipe": other}))
    forking.store.write(f"runs/{OLD}/outcome.json", b"{}")
    warn_of_unfinished(forking, new.read_spec())
    assert len(caplog.messages) == 2

"""The best weights by held-out loss: found, kept over any end, exported, and stopped for."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvx.adapters.card import read_card
from cogvx.adapters.export import bake
from cogvx.adapters.layout import PREFIX
from cogvx.errors import IntegrityError
from cogvx.files import read_document, write_document
from cogvx.runs.events import history
from cogvx.runs.folder import RunFolder, TrainOutcome
from cogvx.runs.saved import Best, Pointer
from cogvx.training.__main__ import main
from cogvx.training.early_stop import Patience
from cogvx.training.stop import EXIT_STOPPED
from tests.fixtures.training_runs import adapter_bits
from tests.training.stops import stop_after

NewRun = Callable[..., Path]
# a rate so high that the loss leaps up again after its first fall
SETTINGS: dict[str, Any] = {
    "clips": 2,
    "heldout": 1,
    "steps": 14,
    "micro_batch": 2,
    "learning_rate": 0.1,
    "caption_dropout": 0.2,
    "checkpoint_every": 2,
    "keep_checkpoints": 99,
    "heldout_every": 2,
    "heldout_strata": 1,
    "ema_decay": 0.5,
    "log_every": 4,
}


@pytest.fixture(autouse=True)
def _process_state_comes_back() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def stopped(new_run: NewRun) -> Path:
    root = new_run(**SETTINGS, early_stop_patience=2)
    assert main([str(root)]) == 0
    return root


def outcome_of(root: Path) -> TrainOutcome:
    return read_document(RunFolder(root).outcome, TrainOutcome)


def measured(root: Path) -> dict[int, float]:
    """Held-out losses by step; one that came twice must have come out the same."""
    found: dict[int, float] = {}
    for event in history(RunFolder(root).events):
        if event["kind"] == "heldout":
            assert found.setdefault(event["step"], event["loss"]) == event["loss"]
    return found


def tensors(root: Path, step: int, name: str) -> dict[str, Tensor]:
    path = RunFolder(root).checkpoints / f"step-{step:08d}" / f"{name}.safetensors"
    return load_file(path)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def facts_of(root: Path) -> tuple[object, ...]:
    outcome = outcome_of(root)
    names = ("status", "step", "stopped_early_at", "best_step", "train_loss", "heldout_after")
    return (*(getattr(outcome, name) for name in names), outcome.adapter_sha256)


def test_it_ends_after_as_many_measurements_without_a_new_best(stopped: Path) -> None:
    outcome, losses = outcome_of(stopped), measured(stopped)
    assert outcome.status == "completed"
    assert outcome.steps == 14
    trained = {step: loss for step, loss in losses.items() if step}
    best = min(trained, key=lambda step: trained[step])
    assert outcome.best_step == best
    assert outcome.heldout_after == trained[best]
    assert outcome.step == outcome.stopped_early_at == best + 4 < 14
    assert sorted(trained) == list(range(2, best + 5, 2))


def test_the_best_weights_are_the_ones_that_are_exported(stopped: Path) -> None:
    outcome = outcome_of(stopped)
    assert outcome.best_step is not None
    # the weights that were measured are the mean's, where there is one
    mean = tensors(stopped, outcome.best_step, "ema")
    mean.pop("updates")
    assert same(tensors(stopped, outcome.step, "best"), mean)
    exported = load_file(RunFolder(stopped).adapter_file)
    card = read_card(RunFolder(stopped).adapter_file)
    assert card is not None
    assert card.steps == outcome.best_step
    assert same(exported, {PREFIX + n: t for n, t in bake(mean, card.scale).items()})
    assert not same(tensors(stopped, outcome.step, "lora"), mean)


def test_without_patience_it_trains_on_and_keeps_nothing(stopped: Path, new_run: NewRun) -> None:
    root = new_run(**{**SETTINGS, "keep_checkpoints": 1, "steps": 6})
    assert main([str(root)]) == 0
    outcome = outcome_of(root)
    assert (outcome.step, outcome.stopped_early_at, outcome.best_step) == (6, None, None)
    files = {path.name for path in (RunFolder(root).checkpoints / "step-00000006").iterdir()}
    assert files == {"lora.safetensors", "optimiser.safetensors", "ema.safetensors", "state.json"}
    # what is exported then is the mean
    mean = tensors(root, 6, "ema")
    mean.pop("updates")
    exported = load_file(RunFolder(root).adapter_file)
    assert same(exported, {PREFIX + name: tensor for name, tensor in bake(mean, 0.5).items()})
    assert outcome.heldout_after == measured(root)[6]
    assert {step: loss for step, loss in measured(root).items() if step < 6}.items() <= (
        measured(stopped).items()
    )


@pytest.mark.parametrize("after_best", [0, 2, 4])
def test_a_kill_after_any_checkpoint_ends_with_the_same_bits(
    after_best: int, stopped: Path, tmp_path: Path
) -> None:
    """What a kill leaves: the checkpoint, and none of the measurements that came after it."""
    whole = outcome_of(stopped)
    assert whole.best_step is not None
    killed_at = whole.best_step + after_best
    root = shutil.copytree(stopped, tmp_path / "run")
    folder = RunFolder(root)
    folder.outcome.unlink()
    shutil.rmtree(folder.adapter)
    for path in folder.checkpoints.glob("step-*"):
        if int(path.name.removeprefix("step-")) > killed_at:
            shutil.rmtree(path)
    write_document(folder.latest, Pointer(step=killed_at, folder=f"step-{killed_at:08d}"))
    events = history(folder.events)
    kept = [event for event in events if event.get("step", 0) <= killed_at]
    folder.events.write_text("".join(json.dumps(event) + "\n" for event in kept))

    assert main([str(root)]) == 0
    assert facts_of(root) == facts_of(stopped)
    assert adapter_bits(root) == adapter_bits(stopped)
    assert measured(root) == measured(stopped)


def test_a_stop_between_two_measurements_costs_no_patience(
    stopped: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_run(**SETTINGS, early_stop_patience=2)
    whole = outcome_of(stopped)
    assert whole.best_step is not None
    for step in (whole.best_step + 1, whole.best_step + 3):
        with monkeypatch.context() as patch:
            stop_after(step, patch)
            assert main([str(root)]) == EXIT_STOPPED
    assert main([str(root)]) == 0
    assert facts_of(root) == facts_of(stopped)


def patience_of(*losses: float, patience: int = 2) -> Patience:
    found = Patience(patience, best=None, weights={})
    for number, loss in enumerate(losses, start=1):
        found.note(number, loss, weights=lambda number=number: {"w": torch.tensor(number)})
    return found


def test_only_a_lower_loss_is_a_new_best_and_patience_begins_anew_with_it() -> None:
    assert not patience_of(3, 3).is_over
    assert patience_of(3, 3, 3).is_over
    assert patience_of(3, 4, 2, 5).best == Best(step=3, loss=2, measured=4, worse=1)
    assert patience_of(3, 4, 2, 5).weights["w"].item() == 3
    assert not patience_of(3, 4, 2, 5).is_over
    assert patience_of(3, 4, 2, 5, 2).is_over


def test_a_measurement_that_is_repeated_counts_once_and_the_bare_base_not_at_all() -> None:
    found = patience_of(3, 4)
    found.note(2, 4, weights=dict)
    assert not found.is_over
    found = Patience(1, best=None, weights={})
    found.note(0, 1, weights=dict)
    assert found.best is None


def test_without_patience_no_weights_are_copied() -> None:
    def never() -> dict[str, Tensor]:
        raise AssertionError

    found = Patience(0, best=None, weights={})
    found.note(1, 1, weights=never)
    assert not found.is_over


def test_the_best_weights_must_be_there_when_they_are_named() -> None:
    with pytest.raises(IntegrityError, match="lacks the best weights, those of step 3"):
        Patience(1, best=Best(step=3, loss=1, measured=3), weights={})

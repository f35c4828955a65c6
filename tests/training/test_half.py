"""float16 as on a GPU: autocast and a scaler that is at work, on a CPU that is told to mix."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cogvx.objective import precision
from cogvx.runs.events import history
from cogvx.runs.folder import RunFolder
from cogvx.training.__main__ import main
from cogvx.training.loop import accumulate, train, update
from cogvx.training.prepare import Trainer
from cogvx.training.stop import EXIT_STOPPED, Stop
from tests.fixtures.training_runs import adapter_bits, open_trainer
from tests.training.stops import stop_after

NewRun = Callable[..., Path]
SETTINGS: dict[str, Any] = {"dtype": "float16", "heldout": 0, "log_every": 1, "steps": 6}


@pytest.fixture(autouse=True)
def _this_cpu_mixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_MIXING", {"cpu"})


def grow_at(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """Let new scalers grow after so few good updates, so that short runs see it."""
    defaults = torch.amp.GradScaler.__init__.__defaults__
    assert defaults is not None
    few = tuple(updates if value == 2000 else value for value in defaults)
    monkeypatch.setattr(torch.amp.GradScaler.__init__, "__defaults__", few)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_adapters_multiply_in_the_precision_of_the_base(dtype: str, new_run: NewRun) -> None:
    trainer = open_trainer(new_run(**{**SETTINGS, "dtype": dtype}))
    seen: set[torch.dtype] = set()
    for name, module in trainer.transformer.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))
    with trainer.learner.feed:
        accumulate(trainer.learner, 0)
    assert seen == {getattr(torch, dtype)}
    assert trainer.learner.scaler.is_enabled() == (dtype == "float16")
    assert all(parameter.dtype == torch.float32 for parameter in trainer.learner.parameters)


def test_an_update_that_overflows_is_skipped_and_halves_the_scale(new_run: NewRun) -> None:
    trainer = open_trainer(new_run(**SETTINGS, ema_decay=0.5))
    learner = trainer.learner
    learner.scaler.load_state_dict({**learner.scaler.state_dict(), "scale": 2.0**100})
    before = [parameter.detach().clone() for parameter in learner.parameters]
    with learner.feed:
        accumulate(learner, 0)
    assert not update(learner, 0).isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters, strict=True))
    assert not learner.optimiser.state
    assert learner.scaler.get_scale() == 2.0**99


def test_gradients_are_those_of_the_loss_whatever_its_scale(new_run: NewRun) -> None:
    norms = []
    for scale in (2.0**4, 2.0**10):
        learner = open_trainer(new_run(**SETTINGS)).learner
        learner.scaler.load_state_dict({**learner.scaler.state_dict(), "scale": scale})
        with learner.feed:
            accumulate(learner, 1)
        norms.append(float(update(learner, 1)))
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


def test_a_kill_keeps_the_scale_and_the_updates_until_it_grows(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow_at(monkeypatch, 4)
    roots = [new_run(**SETTINGS) for _ in range(2)]
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        assert main([str(roots[1])]) == EXIT_STOPPED
    half_way = open_trainer(roots[1]).learner.scaler.state_dict()
    assert half_way["_growth_tracker"] > 0
    for root in roots:
        assert main([str(root)]) == 0
    one, other = (open_trainer(root).learner.scaler.state_dict() for root in roots)
    assert one == other
    assert one["scale"] != half_way["scale"]
    assert adapter_bits(roots[0]) == adapter_bits(roots[1])
    assert skipped(roots[0]) == skipped(roots[1])


def skipped(root: Path) -> set[int]:
    events = [event for event in history(RunFolder(root).events) if event["kind"] == "skipped"]
    return {update["step"] for event in events for update in event["updates"]}


def test_a_scaler_goes_into_a_checkpoint_and_comes_back(new_run: NewRun) -> None:
    root = new_run(**SETTINGS)
    trainer = open_trainer(root)
    run_to(trainer, 2)
    scaler = trainer.learner.scaler
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**7, "_growth_tracker": 5})
    run_to(trainer, 3)
    trainer.journal.checkpoint()
    state = scaler.state_dict()
    assert (state["scale"], state["_growth_tracker"]) == (2.0**7, 6)
    assert open_trainer(root).learner.scaler.state_dict() == state


def run_to(trainer: Trainer, step: int) -> None:
    for number in range(trainer.journal.step, step):
        scores = accumulate(trainer.learner, number)
        trainer.journal.record(number + 1, scores, update(trainer.learner, number))


def test_it_trains(new_run: NewRun) -> None:
    trainer = open_trainer(new_run(**SETTINGS))
    before = [parameter.detach().clone() for parameter in trainer.learner.parameters]
    with trainer.learner.feed:
        train(trainer.learner, trainer.journal, Stop())
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.learner.parameters, strict=True)]
    assert any(moved)

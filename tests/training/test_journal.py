"""What is written down: the same after an interruption, and without a trace in what is trained."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogvx.preflight.flops import pass_flops
from cogvx.recipe_sections import LoraConfig
from cogvx.runs.events import Event, history
from cogvx.runs.folder import RunFolder
from cogvx.training.gauges import Gauges
from cogvx.training.loop import accumulate, update
from cogvx.training.prepare import Trainer
from tests.fixtures.training_runs import open_trainer

NewRun = Callable[..., Path]
# seven steps, of which a log line takes three, and checkpoints fall between them
WINDOWS = {"steps": 7, "log_every": 3, "checkpoint_every": 2, "heldout_every": 3}


def go_on(trainer: Trainer, until: int) -> None:
    for step in range(trainer.journal.step, until):
        scores = accumulate(trainer.learner, step)
        trainer.journal.expect(step + 1)
        trainer.journal.record(step + 1, scores, update(trainer.learner, step))


def logged(root: Path, kind: str = "metrics") -> list[Event]:
    return [event for event in history(RunFolder(root).events) if event["kind"] == kind]


def test_log_lines_after_interruptions_have_the_numbers_of_an_uninterrupted_run(
    new_run: NewRun,
) -> None:
    whole, cut = new_run(**WINDOWS), new_run(**WINDOWS)
    go_on(open_trainer(whole), 7)
    for until in (1, 2, 4, 5, 7):
        trainer = open_trainer(cut)
        go_on(trainer, until)
        trainer.journal.checkpoint()
    lines = logged(cut)
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert [line["values"] for line in lines] == [line["values"] for line in logged(whole)]
    assert logged(cut, "heldout")[0]["loss"] == logged(whole, "heldout")[0]["loss"]


def test_a_run_beyond_its_last_update_is_done(new_run: NewRun) -> None:
    journal = open_trainer(new_run(**WINDOWS)).journal
    for step, done in ((6, False), (7, True), (8, True)):
        journal.step = step
        assert journal.is_done is done


def test_a_log_line_says_what_its_updates_were(new_run: NewRun) -> None:
    root = new_run(**WINDOWS)
    trainer = open_trainer(root)
    weights = [parameter.detach().clone() for parameter in trainer.learner.parameters]
    losses, norms = [], []
    for step in range(3):
        before = [parameter.detach().clone() for parameter in trainer.learner.parameters]
        scores = accumulate(trainer.learner, step)
        trainer.journal.expect(step + 1)
        norm = update(trainer.learner, step)
        trainer.journal.record(step + 1, scores, norm)
        losses += scores.loss_b.tolist()
        norms.append(float(norm))
    (line,) = logged(root)
    values, now = line["values"], [parameter.detach() for parameter in trainer.learner.parameters]
    assert values["loss"] == pytest.approx(sum(losses) / len(losses))
    assert values["grad_norm"] == pytest.approx(sum(norms) / 3)
    assert values["grad_norm_max"] == max(norms)
    assert values["update_norm"] == pytest.approx(distance(now, before), rel=1e-5)
    assert values["weight_norm"] == pytest.approx(distance(now, [0 * w for w in now]), rel=1e-5)
    assert 0 < values["update_norm"] < distance(now, weights)
    assert (values["learning_rate"], values["epoch"], values["skipped"]) == (1e-3, 1.5, 0)
    assert set(line["system"]) == {
        *("samples_per_second", "tokens_per_second", "data_wait_share", "memory_gib")
    }
    assert 0 <= line["system"]["data_wait_share"] <= 1


def distance(some: list[Any], others: list[Any]) -> float:
    squares = (float((a - b).double().square().sum()) for a, b in zip(some, others, strict=True))
    return float(sum(squares) ** 0.5)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_measuring_held_out_clips_leaves_no_trace(new_run: NewRun, ema_decay: float) -> None:
    trainer = open_trainer(new_run(ema_decay=ema_decay))
    go_on(trainer, 1)
    accumulate(trainer.learner, 1)  # gradients are there, and must stay what they are
    for _ in range(5):  # threads that other tests left may draw from Python's generator meanwhile
        before = state_of(trainer)
        assert trainer.journal.measure_heldout() is not None
        after = state_of(trainer)
        assert before.keys() == after.keys()
        changed = [name for name in before if not same(before[name], after[name])]
        if changed != ["python"]:
            break
    assert changed == []


def state_of(trainer: Trainer) -> dict[str, Any]:
    model, optimiser = trainer.transformer, trainer.learner.optimiser
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002 - whoever uses the old one
        "grad enabled": torch.is_grad_enabled(),
    }
    state |= {f"mode of {name}": module.training for name, module in model.named_modules()}
    state |= {f"weight {name}": value.clone() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state[f"learns {name}"] = parameter.requires_grad
        if parameter.requires_grad:
            state[f"gradient of {name}"] = parameter.grad.clone()
            moments = optimiser.state[parameter]
            state |= {f"{slot} of {name}": value.clone() for slot, value in moments.items()}
    return state


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def test_speed_is_of_training_alone_and_of_what_the_model_computes(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("cogvx.training.gauges.time.monotonic", lambda: now[0])
    trainer = open_trainer(new_run(buckets=("5x32x32",)))
    batches, lora = trainer.journal.watch.batches, LoraConfig(rank=4, alpha=2, allow_unusual=True)
    gauges = Gauges(batches, lora, processes=2, peak_flops=1e9)
    now[0] += 8.0
    with gauges.aside():
        now[0] += 50.0
    told = gauges.read(range(4), waited=2.0, memory_gib=3.0)
    facts = batches.objective.facts
    sizes = [batches.samples[batches.sampler.clip(step, 0)].size for step in range(4)]
    assert len(set(sizes)) == 2
    tokens = [facts.tokens(size) for size in sizes]
    flops = [
        pass_flops(facts, lora, tokens=count, clips=2, checkpointing="none").total
        for count in tokens
    ]
    assert told == {
        "samples_per_second": pytest.approx(1.0),
        "tokens_per_second": pytest.approx(2 * sum(tokens) / 8),
        "data_wait_share": pytest.approx(0.25),
        "memory_gib": 3.0,
        "mfu": pytest.approx(sum(flops) / 8 / 2e9),
    }
    now[0] += 1.0
    assert gauges.read(range(4, 5), waited=0.0, memory_gib=3.0)["samples_per_second"] == 2.0

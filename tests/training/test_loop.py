"""One update in this process: gradients, precision, divergence, and that the loss falls."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogvx.errors import ConfigError, DataError, IntegrityError, TrainingDiverged
from cogvx.files import read_document, write_document
from cogvx.objective.batch import Batch
from cogvx.runs.events import history
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.training.loop import accumulate, train, update
from cogvx.training.prefetch import Feed
from cogvx.training.stop import Stop
from tests.fixtures.training_runs import open_trainer
from tests.training.test_optimiser import EIGHT_BIT

NewRun = Callable[..., Path]


def gradients(root: Path, step: int = 0) -> tuple[Tensor, float]:
    trainer = open_trainer(root)
    for parameter in trainer.learner.parameters:  # B starts at zero, and then A has no gradient
        parameter.data += 0.01
    scores = accumulate(trainer.learner, step)
    flat = torch.cat([parameter.grad.flatten() for parameter in trainer.learner.parameters])
    return flat, scores.loss_b.mean().item()


def test_four_micro_batches_of_one_equal_one_of_four(new_run: NewRun) -> None:
    apart, loss_apart = gradients(new_run(global_batch=4, micro_batch=1))
    joined, loss_joined = gradients(new_run(global_batch=4, micro_batch=4))
    assert loss_apart == pytest.approx(loss_joined, rel=1e-6)
    assert (apart - joined).norm() < 1e-6 * joined.norm()
    assert joined.norm() > 0


def test_recomputing_activations_changes_no_gradient(new_run: NewRun) -> None:
    kept, _ = gradients(new_run(compute={"checkpointing": "none"}))
    recomputed, _ = gradients(new_run(compute={"checkpointing": "full"}))
    assert torch.equal(kept, recomputed)


def test_only_the_adapter_learns_and_it_is_float32_over_a_half_precision_base(
    new_run: NewRun,
) -> None:
    trainer = open_trainer(new_run(dtype="bfloat16"))
    base = {
        name: tensor.clone()
        for name, tensor in trainer.transformer.state_dict().items()
        if "lora" not in name
    }
    for step in range(2):
        assert accumulate(trainer.learner, step).loss_b.isfinite().all()
        assert update(trainer.learner, step).isfinite()
    after = trainer.transformer.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in base.items())
    assert all(tensor.dtype == torch.bfloat16 for tensor in base.values())
    assert {parameter.dtype for parameter in trainer.learner.parameters} == {torch.float32}
    moments = [state["exp_avg"] for state in trainer.learner.optimiser.state.values()]
    assert {moment.dtype for moment in moments} == {torch.float32}
    assert max(float(moment.abs().max()) for moment in moments) > 0


def test_the_gradient_is_clipped_once_over_the_whole_update(new_run: NewRun) -> None:
    trainer = open_trainer(new_run(global_batch=4, micro_batch=1, max_grad_norm=1e-6))
    accumulate(trainer.learner, 0)
    squares = sum(float(p.grad.double().square().sum()) for p in trainer.learner.parameters)
    norm = update(trainer.learner, 0)
    assert float(norm) == pytest.approx(squares**0.5, rel=1e-5)
    moments = [state["exp_avg"] for state in trainer.learner.optimiser.state.values()]
    clipped = sum(float((moment.double() / 0.1).square().sum()) for moment in moments) ** 0.5
    assert clipped == pytest.approx(1e-6, rel=1e-3)


def test_the_loss_falls_on_two_clips(new_run: NewRun) -> None:
    root = new_run(
        clips=2,
        heldout=0,
        steps=60,
        global_batch=2,
        micro_batch=2,
        learning_rate=1e-2,
        log_every=15,
        checkpoint_every=60,
        caption_dropout=0,
    )
    trainer = open_trainer(root)
    train(trainer.learner, trainer.journal, Stop())
    events = history(RunFolder(root).events)
    losses = [event["values"]["loss"] for event in events if event["kind"] == "metrics"]
    assert len(losses) == 4
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize(
    ("optimiser", "rate"),
    [pytest.param("adamw8bit", 1e-3, marks=EIGHT_BIT.marks), ("prodigy", 1.0)],
)
def test_a_run_goes_on_bit_for_bit_with_every_optimiser(
    optimiser: str, rate: float, new_run: NewRun
) -> None:
    settings = {"optimiser": optimiser, "learning_rate": rate, "warmup_steps": 1, "steps": 5}
    whole, halved = (new_run(**settings, ema_decay=0.9, heldout=0) for _ in range(2))
    trained = open_trainer(whole)
    with trained.learner.feed:
        train(trained.learner, trained.journal, Stop())
    first = open_trainer(halved)
    with first.learner.feed:
        for step in range(2):
            scores = accumulate(first.learner, step)
            first.journal.record(step + 1, scores, update(first.learner, step))
    second = open_trainer(halved)
    assert second.resumed_from == 2
    with second.learner.feed:
        train(second.learner, second.journal, Stop())
    for name in ("lora", "optimiser", "ema"):
        ours, theirs = (
            (RunFolder(root).checkpoints / "step-00000005" / f"{name}.safetensors").read_bytes()
            for root in (halved, whole)
        )
        assert ours == theirs
    assert type(trained.learner.optimiser).__name__.lower() == optimiser


def test_weights_that_are_no_numbers_are_never_saved_and_the_last_checkpoint_stays(
    new_run: NewRun,
) -> None:
    root = new_run(steps=8, checkpoint_every=2, log_every=2, heldout=0)
    trainer = open_trainer(root)
    learner = trainer.learner
    for step in range(2):
        scores = accumulate(learner, step)
        trainer.journal.record(step + 1, scores, update(learner, step))
    with torch.no_grad():
        learner.parameters[-1].fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match=r"lora_B\.weight is not finite after step 4; the"):
        train(learner, trainer.journal, Stop())
    folders = [path.name for path in RunFolder(root).checkpoints.glob("step-*")]
    assert folders == ["step-00000002"]


def test_events_tell_what_a_person_follows(new_run: NewRun) -> None:
    root = new_run(steps=4, heldout_every=2)
    trainer = open_trainer(root)
    trainer.journal.begin()
    train(trainer.learner, trainer.journal, Stop())
    lines = RunFolder(root).events.read_text().splitlines()
    events = [json.loads(line) for line in lines]
    kinds = [(event["kind"], event.get("step")) for event in events]
    assert kinds == [
        *(("phase", None), ("fit", None)),
        *(("heldout", 0), ("heldout_all", 0)),
        *(("metrics", 2), ("progress", 2), ("checkpoint", 2), ("heldout", 2)),
        *(("metrics", 4), ("progress", 4), ("checkpoint", 4)),
    ]
    values = events[4]["values"]
    assert {"loss", "grad_norm", "learning_rate", "epoch"} < set(values)
    assert values["epoch"] == 1.0
    progress = events[5]
    assert (progress["steps"], progress["eta_seconds"] > 0) == (4, True)
    assert events[2]["clips"] == 2
    assert set(events[2]["by_timestep"]) == {"250", "750"}


def test_a_stop_is_obeyed_before_the_next_micro_batch_and_nothing_of_the_update_stays(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = open_trainer(new_run(global_batch=4, micro_batch=1))
    stop, take = Stop(), Feed.take
    taken: list[tuple[int, int]] = []

    def and_ask(self: Feed, step: int, micro: int) -> Batch:
        taken.append((step, micro))
        if (step, micro) == (1, 1):
            stop.ask()
        return take(self, step, micro)

    monkeypatch.setattr(Feed, "take", and_ask)
    train(trainer.learner, trainer.journal, stop)
    assert taken == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert trainer.journal.step == 1
    assert all(parameter.grad is None for parameter in trainer.learner.parameters)
    taken.clear()
    train(trainer.learner, trainer.journal, stop)
    assert taken == []


def test_a_run_that_cannot_be_trained_is_refused_before_the_base_is_loaded(
    new_run: NewRun,
) -> None:
    with pytest.raises(ConfigError, match=r"train\.processes = 2 but 1 were started"):
        open_trainer(new_run(processes=2))
    with pytest.raises(DataError, match="no clip is left to train on"):
        open_trainer(new_run(clips=0))
    root = new_run()
    folder = RunFolder(root)
    spec = read_document(folder.spec, RunSpec)
    write_document(folder.spec, spec.model_copy(update={"empty_prompt": "gone"}))
    with pytest.raises(IntegrityError, match=r"lacks 1 record.*gone; materialise"):
        open_trainer(root)

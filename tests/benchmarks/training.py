"""What the trainer costs over the bare arithmetic, on the CPU, with a toy and a mid-size model.

    python -m tests.benchmarks.training [--updates 48] [--threads 2]

Bare is what nobody can leave out: forward, backward, clipping and AdamW, on batches that lie ready
in memory. Both arms share one transformer and take turns in one process, so that what else the
machine does hits both. It ends with 1 when it misses what it promises:

    step      one update of the trainer over a bare one: at most 1.05
    wait      share of its time that the trainer waits for batches: under 0.02
    aside     share that events, checkpoints and points of the held-out curve take together at a
              real recipe's intervals: under 0.02
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import nn
from torch.optim import AdamW

from cogvx.files import read_document, write_document
from cogvx.objective.batch import Batch
from cogvx.recipe_sections import TrainConfig
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.training.loop import accumulate, update
from cogvx.training.prepare import Trainer
from tests.fixtures.training_runs import make_run, open_trainer

NANO = Path("cogvx/model/nano/weights").resolve()
MID = {"num_layers": 12, "num_attention_heads": 8, "attention_head_dim": 64, "time_embed_dim": 128}
# A recipe's defaults; the mid-size model has the batch of deployments/recipes/cogvideox-5b.toml.
# Ten clips are held out, as of a dataset of a hundred.
HELDOUT = 10
DEFAULTS = TrainConfig(steps=1)
INTERVALS = {
    "log_every": DEFAULTS.log_every,
    "checkpoint_every": DEFAULTS.checkpoint_every,
    "heldout_every": DEFAULTS.heldout_every,
    "heldout_clips": DEFAULTS.heldout_clips,
    "heldout_strata": DEFAULTS.heldout_strata,
}
STEP, SHARE = 1.05, 0.02
BLOCK = 2


@dataclass(frozen=True)
class Took:
    """Seconds that passed, and that processors worked, which a busy machine disturbs less."""

    wall: float
    cpu: float


@dataclass
class Arms:
    """Single updates of each arm."""

    bare: list[Took] = field(default_factory=list)
    ours: list[Took] = field(default_factory=list)
    waited: float = 0.0

    def ratio(self, clock: str) -> float:
        """The median over blocks that ran one after the other."""
        blocks = range(0, len(self.ours), BLOCK)
        return median(
            sum(getattr(took, clock) for took in self.ours[at : at + BLOCK])
            / sum(getattr(took, clock) for took in self.bare[at : at + BLOCK])
            for at in blocks
        )

    @property
    def wait(self) -> float:
        return self.waited / sum(took.wall for took in self.ours)


@dataclass(frozen=True)
class Ready:
    """A batch whose noise is added and whose target is known."""

    inputs: dict[str, Any]
    target_bfchw: torch.Tensor

    @classmethod
    def of(cls, batch: Batch, trainer: Trainer) -> "Ready":
        objective = trainer.learner.objective
        where = {"noise_bfchw": batch.noise_bfchw, "timesteps_b": batch.timesteps_b}
        inputs = {
            "hidden_states": objective.schedule.add_noise(batch.latents_bfchw, **where),
            "encoder_hidden_states": batch.prompts_bsd,
            "timestep": batch.timesteps_b,
            "image_rotary_emb": objective.rotary(batch.latents_bfchw),
            "return_dict": False,
        }
        return cls(inputs, objective.schedule.velocity(batch.latents_bfchw, **where))


def mid_base(folder: Path) -> Path:
    """The toy model's folder with a transformer of about 50 million random parameters."""
    shutil.copytree(NANO, folder)
    config = CogVideoXTransformer3DModel.load_config(folder / "transformer")
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel.from_config({**config, **MID})
    shutil.rmtree(folder / "transformer")
    transformer.save_pretrained(folder / "transformer")
    return folder


def new_trainer(folder: Path, base: Path, *, global_batch: int, micro_batch: int) -> Trainer:
    sizes = {"global_batch": global_batch, "micro_batch": micro_batch}
    settings = {"steps": 30_030, "compute": {}, **sizes, **INTERVALS}
    root = make_run(folder, base, clips=18, heldout=HELDOUT, **settings)
    spec = read_document(RunFolder(root).spec, RunSpec)
    lora = spec.recipe.lora.model_copy(update={"rank": 64, "alpha": 32})
    recipe = spec.recipe.model_copy(update={"lora": lora})
    write_document(RunFolder(root).spec, spec.model_copy(update={"recipe": recipe}))
    return open_trainer(root)


def bare_update(transformer: nn.Module, parts: list[Ready], optimiser: AdamW) -> None:
    for ready in parts:
        predicted_bfchw = transformer(**ready.inputs)[0]
        loss = nn.functional.mse_loss(predicted_bfchw, ready.target_bfchw) / len(parts)
        torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def our_update(trainer: Trainer, step: int, arms: Arms) -> None:
    """One turn of `loop.train`, without what is due at intervals."""
    scores = accumulate(trainer.learner, step)
    norm = update(trainer.learner, step)
    trainer.journal.readings.add(scores, norm)
    arms.waited += scores.waited_seconds


def race(trainer: Trainer, updates: int) -> Arms:
    """Blocks of updates in turn: bare, ours, ours, bare, and so on."""
    learner, batches, cpu = trainer.learner, trainer.journal.watch.batches, torch.device("cpu")
    ready = [
        [
            Ready.of(batches.draw(step, micro=micro, rank=0, device=cpu), trainer)
            for micro in range(learner.train.accumulation)
        ]
        for step in range(BLOCK)
    ]
    optimiser = AdamW(learner.parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=1e-4)
    arms = Arms()
    for turn in range(-1, updates // BLOCK):
        if turn == 0:
            arms = Arms()  # the first block chose kernels and made the optimisers' state
        for arm in ("bare", "ours") if turn % 2 else ("ours", "bare"):
            for number in range(BLOCK):
                step = (turn + 1) * BLOCK + number
                if arm == "bare":
                    took = timed(partial(bare_update, learner.model, ready[number], optimiser))
                else:
                    took = timed(partial(our_update, trainer, step, arms))
                getattr(arms, arm).append(took)
    return arms


def timed(work: Callable[[], object]) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def aside(trainer: Trainer, step_seconds: float) -> dict[str, float]:
    """Processor time of what is due at intervals, as shares of a run's, by the interval's name."""
    journal, learner = trainer.journal, trainer.learner
    found: dict[str, list[float]] = {"log_every": [], "heldout_every": [], "checkpoint_every": []}
    for turn in range(3):
        step = 20_000 + 20 * turn  # past those of the race
        journal.step = step - 1
        scores = accumulate(learner, step - 1)
        expecting = timed(partial(journal.expect, step)).cpu
        norm = update(learner, step - 1)
        recording = timed(partial(journal.record, step, scores, norm)).cpu
        found["log_every"].append(expecting + recording)
        found["heldout_every"].append(timed(journal.measure_heldout).cpu)
        found["checkpoint_every"].append(timed(journal.checkpoint).cpu)
    return {name: median(each) / (INTERVALS[name] * step_seconds) for name, each in found.items()}


def measure(name: str, trainer: Trainer, updates: int) -> bool:
    """Print one model's figures; whether they are as promised."""
    size = sum(parameter.numel() for parameter in trainer.transformer.parameters())
    with trainer.learner.feed:
        arms = race(trainer, updates)
        ours, bare = (median(took.wall for took in arm) for arm in (arms.ours, arms.bare))
        shares = aside(trainer, median(took.cpu for took in arms.ours))
    print(f"{name}: {size / 1e6:.1f} M parameters, {trainer.fit.why}")
    print(f"  bare {bare * 1e3:.1f} ms, ours {ours * 1e3:.1f} ms")
    ratio = arms.ratio("wall")
    print(f"  step     {ratio:.3f}   at most {STEP}; in processor time {arms.ratio('cpu'):.3f}")
    print(f"  wait     {arms.wait:.4f}  under {SHARE}")
    together = sum(shares.values())
    parts = ", ".join(f"{name} {share:.4f}" for name, share in shares.items())
    print(f"  aside    {together:.4f}  under {SHARE}: {parts}", flush=True)
    return ratio <= STEP and max(arms.wait, together) < SHARE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nano = new_trainer(folder / "nano", NANO, global_batch=4, micro_batch=4)
        base = mid_base(folder / "base")
        mid = new_trainer(folder / "mid", base, global_batch=2, micro_batch=1)
        kept = [measure("toy", nano, 2 * asked.updates), measure("mid-size", mid, asked.updates)]
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()

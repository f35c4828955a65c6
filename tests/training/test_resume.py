"""A run that is ended at any moment, and started again, ends with the bits it would have had.

One run is ended twenty times in succession, ten times by kill -9 and ten times by SIGTERM: while
it loads, between updates, and while it writes a checkpoint. It trains on two sizes, adds up
micro-batches, keeps a mean and its best weights, and measures held-out clips; everything that it
leaves is compared with what a run leaves that nobody disturbed.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cogvx.files import ASIDE, is_aside, read_document, write_document
from cogvx.runs.events import EventTail, history
from cogvx.runs.folder import RunFolder, TrainOutcome
from cogvx.runs.saved import folder_name, step_of
from cogvx.shapes import VideoSize
from cogvx.training.checkpoint import BEST
from cogvx.training.stop import EXIT_STOPPED
from tests.fixtures.forks import Forks
from tests.fixtures.training_runs import adapter_bits, make_run
from tests.training.ranks import TRAINER, Ranks, newest_step, start, until

STEPS, ENDS = 33, 20
KILLED, TERMINATED = -signal.SIGKILL, -signal.SIGTERM
RECIPE: dict[str, Any] = {
    "steps": STEPS,
    "global_batch": 4,
    "micro_batch": 1,
    "warmup_steps": 3,
    "learning_rate": 1e-4,
    "lr_schedule": "cosine",
    "size": VideoSize(9, 16, 16),
    "buckets": ("9x16x32",),
    "keep_checkpoints": 1000,
    "heldout_every": 5,
    "heldout_strata": 2,
    "log_every": 2,
    "ema_decay": 0.9,
    "early_stop_patience": 50,
}
WITHIN = "tests.training.ranks:stopped_within"
MOMENTS = ("loading", "writing", "between", "between")


@dataclass(frozen=True)
class End:
    """When and how one start is ended."""

    number: signal.Signals
    moment: str
    step: int
    delay: float


def plan(seed: int) -> list[End]:
    """Ten of each kind in a chance order, spread over the updates."""
    chance = random.Random(seed)
    numbers = [signal.SIGKILL, signal.SIGTERM] * (ENDS // 2)
    chance.shuffle(numbers)
    return [
        End(
            number=number,
            moment=chance.choice(MOMENTS),
            step=1 + place * (STEPS - 4) // ENDS,
            delay=chance.uniform(0, 0.1),
        )
        for place, number in enumerate(numbers)
    ]


@pytest.fixture(scope="module")
def make(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def build(**train: Any) -> Path:
        root = tmp_path_factory.mktemp("resumed") / "run"
        return make_run(root, nano_base, clips=6, heldout=2, **{**RECIPE, **train})

    return build


@pytest.fixture(scope="module")
def undisturbed(trainers: Forks, make: Callable[..., Path]) -> Callable[[int], Path]:
    """A run that nobody disturbed, with a checkpoint after every update."""
    known: dict[int, Path] = {}

    def run(processes: int) -> Path:
        if processes not in known:
            root = make(processes=processes, checkpoint_every=1)
            start(trainers, TRAINER, str(root), processes=processes, cwd=root).succeed()
            known[processes] = root
        return known[processes]

    return run


def end(ranks: Ranks, root: Path, wish: End, chance: random.Random) -> tuple[int, ...]:
    """End one start of the trainer, as the wish says; returns how its processes ended."""
    folder, began, saved = RunFolder(root), seen(root), 0

    def has_loaded() -> bool:
        return seen(root) > began  # from then on every process listens for SIGTERM

    def writes() -> bool:
        found = folder.checkpoints.iterdir() if folder.checkpoints.is_dir() else ()
        # or has just written: on a fast disk it may take less than a look
        return any(is_aside(path) for path in found) or len(checkpoints(folder)) > saved

    def is_far_enough() -> bool:
        return newest_step(root) >= wish.step and has_loaded()

    if wish.number == signal.SIGTERM:
        until(has_loaded, "the first event of a start")
    if wish.moment != "loading":
        until(is_far_enough, f"step {wish.step}")
    if wish.moment == "writing":
        saved = len(checkpoints(folder))
        until(writes, "a checkpoint being written")
    else:
        time.sleep(wish.delay)
    first = chance.randrange(len(ranks.jobs))
    ranks.send(wish.number, to=slice(first, first + 1))
    time.sleep(chance.uniform(0, 0.02))
    ranks.send(wish.number)
    return ranks.wait()


def checkpoints(folder: RunFolder) -> list[Path]:
    return list(folder.checkpoints.glob("step-*"))


def seen(root: Path) -> int:
    return len(list(EventTail(RunFolder(root).events).read()))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_ended_twenty_times_leaves_the_bits_of_one_that_nobody_disturbed(
    processes: int,
    trainers: Forks,
    make: Callable[..., Path],
    undisturbed: Callable[[int], Path],
) -> None:
    root = make(processes=processes, checkpoint_every=3)
    seed = 23 + processes  # chosen for three kills while a checkpoint is written
    chance = random.Random(seed)
    told = []
    for wish in plan(seed):
        ranks = start(trainers, TRAINER, str(root), processes=processes, cwd=root)
        codes = end(ranks, root, wish, chance)
        torn = [path.name for path in RunFolder(root).checkpoints.glob(f"{ASIDE}*")]
        told.append(f"{wish} at step {newest_step(root)}: {codes}, left {torn}")
        story = "\n".join([f"seed {seed}", *told, ranks.printed()])
        if wish.number == signal.SIGKILL:
            assert set(codes) == {KILLED}, story
        else:
            assert set(codes) == {EXIT_STOPPED}, story
            outcome = read_document(RunFolder(root).outcome, TrainOutcome)
            assert (outcome.status, outcome.stopped_for) == ("stopped", "signal"), story
    start(trainers, TRAINER, str(root), processes=processes, cwd=root).succeed()

    story = "\n".join([f"seed {seed}", *told])
    whole = undisturbed(processes)
    assert adapter_bits(root) == adapter_bits(whole), story
    files = sorted(RunFolder(root).checkpoints.glob("step-*/*.safetensors"))
    assert len(files) >= 4 * STEPS // 3
    for path in files:
        assert path.read_bytes() in same_tensors(whole, path), f"{path}\n{story}"
    assert curves(root) == curves(whole), story


def test_a_stop_that_one_of_two_processes_hears_within_an_update_changes_no_bit(
    trainers: Forks, make: Callable[..., Path], undisturbed: Callable[[int], Path]
) -> None:
    root = make(processes=2, checkpoint_every=STEPS)
    for rank, step in (("1", 3), ("0", 8)):
        call = [WITHIN, str(root), rank, step, 0]
        ranks = start(trainers, *call, processes=2, cwd=root)
        assert ranks.wait() == (EXIT_STOPPED, EXIT_STOPPED), ranks.printed()
        outcome = read_document(RunFolder(root).outcome, TrainOutcome)
        assert (outcome.status, outcome.step) == ("stopped", step)
    start(trainers, TRAINER, str(root), processes=2, cwd=root).succeed()
    whole = undisturbed(2)
    assert adapter_bits(root) == adapter_bits(whole)
    assert curves(root) == curves(whole)


def same_tensors(whole: Path, path: Path) -> Iterator[bytes]:
    """What the other run has in the place of a checkpoint's file.

    When a stop comes after a held-out measurement, its checkpoint knows of it already; the one of
    that very update, taken before, does not; before the first measurement there is none at all.
    """
    folder, step = RunFolder(whole).checkpoints, step_of(path.parent.name)
    own = folder / path.parent.name / path.name
    if own.is_file():
        yield own.read_bytes()
    if path.stem == BEST and step % RECIPE["heldout_every"] == 0:
        yield (folder / folder_name(step + 1) / path.name).read_bytes()


def curves(root: Path) -> dict[tuple[str, int], Any]:
    """What was logged, without what tells of time, and without what was undone.

    A held-out loss may be told twice, when a kill came between it and the next checkpoint.
    """
    return {
        (event["kind"], event["step"]): event.get("values") or event.get("by_timestep")
        for event in history(RunFolder(root).events)
        if event["kind"] in ("metrics", "heldout")
    }


def test_more_processes_go_on_with_the_same_samples_and_noise(
    trainers: Forks, make: Callable[..., Path], undisturbed: Callable[[int], Path]
) -> None:
    root = make(processes=1, checkpoint_every=3)
    folder, whole = RunFolder(root), undisturbed(1)
    ranks = start(trainers, TRAINER, str(root), processes=1, cwd=root)
    until(lambda: newest_step(root) >= 4, "step 4")
    ranks.send(signal.SIGTERM)
    assert ranks.wait() == (EXIT_STOPPED,)

    spec = folder.read_spec()
    train = spec.recipe.train.model_copy(update={"processes": 2})
    recipe = spec.recipe.model_copy(update={"train": train})
    write_document(folder.spec, spec.model_copy(update={"recipe": recipe}))
    start(trainers, TRAINER, str(root), processes=2, cwd=root).succeed()
    (warning,) = (event for event in history(folder.events) if event["kind"] == "warning")
    assert "the same clips, noise and timesteps follow in the same order" in warning["text"]
    assert "train.processes was 1 and is 2" in warning["text"]
    name = f"step-{STEPS:08d}/lora.safetensors"
    alone, together = (load_file(RunFolder(place).checkpoints / name) for place in (whole, root))
    apart = max(float((alone[name] - together[name]).abs().max()) for name in alone)
    assert apart < 1e-6

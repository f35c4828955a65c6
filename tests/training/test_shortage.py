"""Memory that runs out: the error names what is not used yet, in the order of what it costs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from cogvx.errors import ConfigError
from cogvx.files import read_document
from cogvx.runs.folder import RunFolder, TrainOutcome
from cogvx.training.__main__ import main
from cogvx.training.shortage import out_of_memory
from tests.fixtures.training_runs import make_recipe

# As torch says it, in one line.
WORDS = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB of "
    "which 9.00 MiB is free. Including non-PyTorch memory, this process has 79.08 GiB in use."
)
CHECKPOINTING, WEIGHTS = "compute.checkpointing", "compute.base_weights"
BATCH, PRESET = "train.micro_batch", "compute.preset"


@pytest.mark.parametrize(
    ("compute", "micro_batch", "named"),
    [
        ({"checkpointing": "none"}, 4, [CHECKPOINTING, WEIGHTS, BATCH, PRESET]),
        ({"checkpointing": "selective"}, 1, [CHECKPOINTING, WEIGHTS, PRESET]),
        ({"checkpointing": "full"}, 2, [WEIGHTS, BATCH, PRESET]),
        ({"checkpointing": "full", "base_weights": "as_is"}, 2, [WEIGHTS, BATCH]),
        ({"checkpointing": "full", "base_weights": "int8"}, 2, [BATCH]),
        ({"preset": "small"}, 2, [BATCH]),
    ],
)
def test_what_is_in_use_already_is_not_named(
    nano_base: Path, compute: dict[str, Any], micro_batch: int, named: list[str]
) -> None:
    recipe = make_recipe(nano_base, compute=compute, global_batch=4, micro_batch=micro_batch)
    error = out_of_memory(recipe, None, torch.device("cpu"), torch.OutOfMemoryError(WORDS))
    assert [problem.where for problem in error.problems] == named
    assert "(CUDA out of memory. Tried to allocate 20.00 MiB)" in str(error)


def test_with_everything_in_use_only_the_work_can_shrink(nano_base: Path) -> None:
    recipe = make_recipe(nano_base, compute={"preset": "small"}, micro_batch=1)
    error = out_of_memory(recipe, None, torch.device("cpu"), torch.OutOfMemoryError(WORDS))
    assert error.problems == ()
    assert "use fewer frames, a smaller size, a smaller lora.rank, or a larger GPU" in str(error)


def test_a_smaller_micro_batch_divides_the_one_that_is_used(nano_base: Path) -> None:
    recipe = make_recipe(nano_base, global_batch=18, micro_batch=9)
    error = out_of_memory(recipe, None, torch.device("cpu"), torch.OutOfMemoryError(WORDS))
    assert "train.micro_batch = 9 clips are in memory at once; use 3" in str(error)


@pytest.fixture
def scarce() -> Iterator[None]:
    """The third pass that is to be gone back through does not get its memory."""
    passes = 0

    def refuse(module: nn.Module, _inputs: object) -> None:
        nonlocal passes
        passes += isinstance(module, CogVideoXTransformer3DModel) and torch.is_grad_enabled()
        if passes == 3:
            raise torch.OutOfMemoryError(WORDS)

    hook = register_module_forward_pre_hook(refuse)
    yield
    hook.remove()


def test_the_outcome_says_it_in_our_words(
    new_run: Callable[..., Path], scarce: None, capfd: pytest.CaptureFixture[str]
) -> None:
    root = new_run()
    assert main([str(root)]) == ConfigError.exit_code
    outcome = read_document(RunFolder(root).outcome, TrainOutcome)
    assert (outcome.status, outcome.error_kind) == ("failed", "ConfigError")
    told = outcome.error or ""
    assert told.startswith("this machine ran out of memory (CUDA out of memory. Tried to")
    assert 'compute.checkpointing = "none" keeps everything; use "selective"' in told
    assert told in capfd.readouterr().err

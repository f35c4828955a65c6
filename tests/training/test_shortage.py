"""Memory that runs out: the error names what is not used yet, in the order of what it costs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
# As torch hands on what cuBLAS, the driver and the CPU's allocator say.
OTHER_WORDS = (
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you",
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


@contextmanager
def failing(error: RuntimeError) -> Iterator[None]:
    """The third pass that is to be gone back through does not get its memory."""
    passes = 0

    def refuse(module: nn.Module, _inputs: object) -> None:
        nonlocal passes
        passes += isinstance(module, CogVideoXTransformer3DModel) and torch.is_grad_enabled()
        if passes == 3:
            raise error

    hook = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


def told_of(root: Path, error: RuntimeError) -> str:
    """What the outcome says, of a kind that a person can mend."""
    with failing(error):
        assert main([str(root)]) == ConfigError.exit_code
    outcome = read_document(RunFolder(root).outcome, TrainOutcome)
    assert (outcome.status, outcome.error_kind) == ("failed", "ConfigError")
    return outcome.error or ""


def test_the_outcome_says_it_in_our_words(
    new_run: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    told = told_of(new_run(), torch.OutOfMemoryError(WORDS))
    assert told.startswith("this machine ran out of memory (CUDA out of memory. Tried to")
    assert 'compute.checkpointing = "none" keeps everything; use "selective"' in told
    assert told in capfd.readouterr().err


@pytest.mark.parametrize("words", OTHER_WORDS)
def test_memory_that_runs_out_elsewhere_is_told_the_same_way(
    new_run: Callable[..., Path], words: str
) -> None:
    told = told_of(new_run(), RuntimeError(words))
    assert told.startswith(f"this machine ran out of memory ({words.splitlines()[0][:99]}")
    assert "); one of these helps, the first costs least: 3 problem(s)\n" in told
    assert "CUDA kernel errors" not in told


def test_another_error_of_torch_is_no_lack_of_memory(new_run: Callable[..., Path]) -> None:
    root, words = new_run(), "CUDA error: an illegal memory access was encountered"
    with failing(RuntimeError(words)), pytest.raises(RuntimeError, match=words):
        main([str(root)])
    outcome = read_document(RunFolder(root).outcome, TrainOutcome)
    assert (outcome.error_kind, outcome.error) == ("CogvxError", f"RuntimeError: {words}")

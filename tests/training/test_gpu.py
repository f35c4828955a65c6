"""What only a GPU can show."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from cogvx.runs.folder import RunFolder
from cogvx.training.loop import accumulate, update
from cogvx.training.prepare import prepare
from cogvx.training.stop import Stop


@pytest.mark.gpu
def test_an_update_waits_for_nothing(new_run: Callable[..., Path]) -> None:
    folder = RunFolder(new_run(dtype="bfloat16"))
    trainer = prepare(folder, folder.read_spec(), accelerator=Accelerator(), stop=Stop())
    learner = trainer.learner
    with learner.feed:
        accumulate(learner, 0)  # makes the tables of positions
        update(learner, 0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            accumulate(learner, 1)
            update(learner, 1)
        finally:
            torch.cuda.set_sync_debug_mode("default")

"""A run folder of the toy model with made-up records: all that the trainer needs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.training.runs import make_run


@pytest.fixture(scope="session")
def new_run(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a fresh run folder; keywords change the recipe's training section."""

    def build(**train: object) -> Path:
        return make_run(tmp_path_factory.mktemp("run") / "run", nano_base, **train)

    return build


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)

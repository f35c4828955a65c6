"""Trainers in this process: one thread, and nothing of theirs is left behind."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _determinism_ends() -> Iterator[None]:
    """The entry point owns its process, and makes torch deterministic."""
    yield
    torch.use_deterministic_algorithms(False)

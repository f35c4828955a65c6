"""A run folder of the toy model with made-up records: all that the trainer needs."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.fixtures.forks import Forks, forking
from tests.training.runs import make_run


@pytest.fixture(scope="session")
def new_run(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a fresh run folder; keywords change the recipe's training section, or the toy base."""

    def build(base: Path = nano_base, **train: object) -> Path:
        return make_run(tmp_path_factory.mktemp("run") / "run", base, **train)

    return build


@pytest.fixture(scope="session")
def trainers(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A parent of trainer processes; see `tests.training.ranks`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = tmp_path_factory.mktemp("trainers")
    with forking(folder, environment, nano_base, warm="warm_training") as parent:
        yield parent


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _process_state_comes_back() -> Iterator[None]:
    """The entry point owns its process: signals and determinism are put back here."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.use_deterministic_algorithms(False)

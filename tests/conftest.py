"""What every test may use: the toy model, a small dataset, and the S3 server's fixtures."""

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from cogvx.model.nano.build import build_nano
from cogvx.model.nano.world import render_world
from tests.fixtures.order import longest_first
from tests.fixtures.start import QUICK

# A suite that a shell started in the background ignores Ctrl-C, and so would all that it starts.
_HANDLERS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.getsignal(signal.SIGTERM),
}
signal.signal(signal.SIGINT, signal.default_int_handler)

# What an example takes is the machine's affair, which may be busy.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

# For the servers and commands that tests start as they are.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [QUICK, os.environ.get("PYTHONPATH")]))

pytest_plugins = [
    "tests.fixtures.tables",
    "tests.fixtures.family",
    "tests.fixtures.trainers",
    "tests.fixtures.s3",
    "tests.fixtures.radosgw",
    "tests.fixtures.proxy",
]


def pytest_configure(config: pytest.Config) -> None:
    """xdist would give out the files with most tests first, and so the longest ones last."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin first, or one worker would wait for another's last file."""
    items.sort(key=lambda item: longest_first(item.path))


def pytest_collection_finish() -> None:
    """What importing the tests has made stays, and need not be looked through again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _signals_as_at_the_start() -> Iterator[None]:
    """A trainer's entry point owns its process and takes the signals; fixtures of a module too."""
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)
    yield
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _loggers_as_at_the_start() -> Iterator[None]:
    """A command that runs in the test's own process shows its lines on a terminal from then on."""
    loggers = [logging.getLogger(name) for name in ("cogvx", "tasks", "flows")]
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture(scope="session")
def nano_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy CogVideoX as a diffusers folder; do not change it."""
    folder = tmp_path_factory.mktemp("nano") / "base"
    build_nano(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def world_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve captioned clips in the videofolder form; do not change them."""
    folder = tmp_path_factory.mktemp("world") / "clips"
    render_world(folder, clips=12, seed=1)
    return folder

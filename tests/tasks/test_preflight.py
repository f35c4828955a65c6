"""The flow's first step refuses in seconds what the pool's GPU cannot hold."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cogvx.errors import ConfigError
from cogvx.preflight.compare import Measured
from cogvx.recipe import Recipe
from cogvx.store import MemoryStore
from cogvx.variants import PUBLISHED
from flows import retrain, train
from tasks.settings import settings
from tasks.training.curves import points_of
from tasks.training.preflight import preflight
from tasks.training.speeds import keep_speed, known_utilisation
from tests.preflight.toys import recipe

FACTS = PUBLISHED["CogVideoX-5b"]
Set = Callable[[str, str], None]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Set]:
    """Sets a variable of ours; the home is fresh."""

    def change(name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        settings.cache_clear()

    change("COGVX_HOME", str(tmp_path / "home"))
    yield change
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def made(tmp_path: Path) -> Recipe:
    """Of a base that is not on this machine, and clips that are."""
    (tmp_path / "clips").mkdir()
    suite = Path("deployments/suites/nano.toml").resolve()
    return recipe(
        "CogVideoX-5b",
        dataset={"uri": str(tmp_path / "clips")},
        evaluation={"suite": str(suite)},
    )


def test_what_fits_is_estimated(environment: Set, made: Recipe) -> None:
    environment("COGVX_GPU", "H100")
    environment("COGVX_GPU_HOUR_PRICE", "2.5")
    found = preflight.fn(made)
    assert found is not None
    assert found.device == "H100"
    assert found.cost == pytest.approx((found.hours or 0) * 2.5)
    assert not found.is_measured


def test_what_cannot_fit_is_refused_in_seconds(environment: Set, made: Recipe) -> None:
    environment("COGVX_GPU", "T4")
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        preflight.fn(made)
    assert time.monotonic() - began < 5
    assert [problem.where for problem in caught.value.problems] == [
        "base.dtype",
        "compute.preset",
    ]


def test_other_problems_come_with_those_of_the_gpu(
    environment: Set, made: Recipe, tmp_path: Path
) -> None:
    environment("COGVX_GPU", "T4")
    (tmp_path / "clips").rmdir()
    with pytest.raises(ConfigError) as caught:
        preflight.fn(made)
    assert "dataset.uri" in [problem.where for problem in caught.value.problems]
    assert "compute.preset" in [problem.where for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("COGVX_GPU", "A100", 'COGVX_GPU = "A100" is no GPU that the table knows; use A100-80'),
        ("COGVX_GPU_HOUR_PRICE", "-1", "COGVX_GPU_HOUR_PRICE"),
        ("COGVX_GPU_HOUR_PRICE", "nan", "COGVX_GPU_HOUR_PRICE"),
    ],
)
def test_a_setting_that_cannot_be_is_a_sentence(
    environment: Set, made: Recipe, name: str, value: str, says: str
) -> None:
    environment(name, value)
    with pytest.raises(ConfigError, match=says):
        preflight.fn(made)


def test_without_a_name_nothing_is_refused_and_no_time_is_told(
    environment: Set, made: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tasks")
    found = preflight.fn(made)
    assert found is not None
    assert found.seconds_a_step is None
    assert "GiB on a GPU; 132.12 M parameters, 1096 TFLOP a step" in caplog.text


def test_it_is_the_first_that_flows_do() -> None:
    for flow in (train.train, retrain.retrain):
        names = flow.fn.__code__.co_names
        assert names.index("preflight") < names.index("open_workbench")


def test_a_measured_run_is_what_the_next_estimate_reckons_with(
    environment: Set, made: Recipe
) -> None:
    environment("COGVX_GPU", "H100")
    assumed = preflight.fn(made)
    assert assumed is not None
    store = MemoryStore()
    measured = Measured(
        on_gpu=True,
        device="H100",
        checkpointing="selective",
        compiles=False,
        memory_gib=24.0,
        utilisation=0.3,
        estimated_gib=25.0,
        estimated_seconds=2.8,
    )
    keep_speed(store, FACTS, "run", measured)
    assert known_utilisation(store, FACTS, "H100", "selective", compiles=False) == 0.3
    assert known_utilisation(store, FACTS, "H100", "selective", compiles=True) is None
    assert known_utilisation(store, FACTS, "A100-80", "selective", compiles=False) is None

    from tasks.clients.stores import open_record_store

    keep_speed(open_record_store(settings()), FACTS, "run", measured)
    found = preflight.fn(made)
    assert found is not None
    assert found.is_measured
    assert found.seconds_a_step == pytest.approx((assumed.seconds_a_step or 0) * 1.5)


def test_a_run_on_a_cpu_leaves_no_speed() -> None:
    store = MemoryStore()
    measured = Measured(
        on_gpu=False,
        device=None,
        checkpointing="none",
        compiles=False,
        memory_gib=1.0,
        estimated_gib=0.1,
        estimated_seconds=None,
    )
    keep_speed(store, FACTS, "run", measured)
    keep_speed(store, FACTS, "run", None)
    assert list(store.entries()) == []


def test_both_reach_mlflow_under_their_own_names() -> None:
    for kind in ("estimate", "measured"):
        event = {"kind": kind, "time": 1.0, "step": 3, "values": {"memory_gib": 2.5}}
        (point,) = points_of(event)
        assert (point.name, point.value, point.step) == (f"{kind}/memory_gib", 2.5, 3)

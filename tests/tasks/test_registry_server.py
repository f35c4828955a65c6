"""The same registry behind an MLflow server: nothing but the address differs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx.shapes import VideoSize
from tasks.clients.registry import CHALLENGER, CHAMPION, Point, Registry, Serving
from tests.adapters.toys import toy_adapter
from tests.fixtures.servers import mlflow_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


def test_a_server_registers_promotes_and_gives_the_bytes_back(
    server: str, nano_base: Path, tmp_path: Path
) -> None:
    registry = Registry(server)
    adapter = toy_adapter(nano_base, tmp_path / "adapter")
    run_id = registry.start_run("style", "training", tags={"cogvx.run": "run-1"})
    registry.log_params(run_id, {"steps": 3})
    registry.log_metrics(run_id, [Point("loss", 0.5, step) for step in range(3)])
    assert registry.find_run("style", "run-1") == run_id
    serving = Serving(
        base="zai-org/CogVideoX-5b",
        revision=None,
        dtype="bfloat16",
        size=VideoSize(9, 48, 48),
        fps=8,
        sampler="dpm",
        steps=2,
        guidance=6.0,
    )
    version = registry.register("style", adapter, run_id=run_id, serving=serving)
    assert registry.register("style", adapter, run_id=run_id, serving=serving) == version
    made = registry.promote("style", version.version, expected_champion=None)
    assert made.aliases == (CHALLENGER, CHAMPION)
    fetched = registry.download("style", CHAMPION, tmp_path / "fetched")
    assert fetched.read_bytes() == adapter.read_bytes()
    assert registry.get_alias("unknown", CHAMPION) is None

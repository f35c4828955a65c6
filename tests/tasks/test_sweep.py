"""A sweep draws the base, then the challenger at each weight, on one seed of a suite of its own."""

from dataclasses import replace
from pathlib import Path

import pytest

from cogvx.cache.plan import Identities
from cogvx.errors import ConfigError
from cogvx.evaluation.render import Arm
from cogvx.inference.batch import AdapterAtWeight
from cogvx.store import MemoryStore
from cogvx.variants import published_facts
from tasks.evaluation.sweep import sweep_of
from tasks.settings import Settings
from tasks.workbench import Workbench
from tests.cache.toys import recipe

SUITE = Path(__file__).parents[2] / "deployments" / "suites" / "nano.toml"
ADAPTER = AdapterAtWeight("a" * 64, Path("adapter.safetensors"))
CHALLENGER = Arm("challenger v3", (ADAPTER, replace(ADAPTER, sha256="b" * 64, weight=0.5)))


def bench_of(sweep: dict[str, object] | None) -> Workbench:
    facts = published_facts("zai-org/CogVideoX-5b")
    assert facts is not None
    return Workbench(
        recipe=recipe(evaluation={"sweep": sweep}),
        settings=Settings(),
        store=MemoryStore(),
        dataset=MemoryStore(),
        base=Path("base"),
        base_fingerprint="0" * 64,
        facts=facts,
        ids=Identities(vae="0" * 64, text="1" * 64),
        warnings=(),
    )


def test_a_sweep_begins_with_the_base_and_scales_every_adapter() -> None:
    sweep = sweep_of(bench_of({"suite": str(SUITE), "weights": [1.0, 0.5]}), CHALLENGER)
    assert sweep is not None
    assert sweep.weights == (0.0, 0.5, 1.0)
    assert [arm.name for arm in sweep.arms] == [
        "base",
        "challenger v3 at 0.5",
        "challenger v3 at 1.0",
    ]
    weights = [[adapter.weight for adapter in arm.adapters] for arm in sweep.arms]
    assert weights == [[], [0.5, 0.25], [1.0, 0.5]]
    assert sweep.arms[-1].adapters == CHALLENGER.adapters
    assert len({prompt.id for prompt, _ in sweep.suite.shots}) == sweep.suite.videos


def test_weights_that_are_nearly_equal_are_two_arms() -> None:
    near = [0.1, 0.1000000001]
    sweep = sweep_of(bench_of({"suite": str(SUITE), "weights": near}), CHALLENGER)
    assert sweep is not None
    assert len({arm.name for arm in sweep.arms}) == 3


def test_without_a_sweep_in_the_recipe_there_is_none() -> None:
    assert sweep_of(bench_of(None), CHALLENGER) is None
    with pytest.raises(ConfigError, match="no such file"):
        sweep_of(bench_of({"suite": "absent.toml"}), CHALLENGER)

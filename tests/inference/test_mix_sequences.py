"""Whatever is done to a mix in whatever order, the model computes W + s * sum of w B A."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cogvx.errors import ConfigError, IntegrityError
from cogvx.inference.mix import AdapterMix
from cogvx.inference.pipelines import Pipeline
from tests.fixtures.family import MEMBERS, BaseOf
from tests.inference.mixes import (
    QUERIES,
    WIDER,
    Toy,
    bits,
    deltas,
    files_of,
    furthest,
    held,
    kinds,
    open_mix,
    predict,
    same_bits,
    weights_of,
)

TOYS = {
    "plain": Toy(rank=4, alpha=4, seed=1),
    "like it": Toy(rank=4, alpha=4, seed=2),
    "of another alpha": Toy(rank=4, alpha=3, seed=3),
    "of another rank": Toy(rank=6, alpha=1, seed=4),
    "wider": Toy(rank=3, alpha=6, seed=5, targets=WIDER),
    "of uneven ranks": Toy(rank=4, alpha=4, seed=6, ranks={"attn1.to_k": 2, "attn1.to_v": 7}),
    "broken": Toy(seed=7, size=float("nan")),
    "small": Toy(rank=2, alpha=2, seed=8, targets=QUERIES),
}
NAMES = ("one", "two", "three")
# Sums of three adapters of up to four times their strength, in float32 on weights of about 1.
ROUNDING = 1e-5

Weight = st.sampled_from([0.0, 1.0, -1.0]) | st.integers(-400, 400).map(lambda part: part / 100)
Name, File = st.sampled_from(NAMES), st.sampled_from([*TOYS])
Attach = st.tuples(st.just("attach"), Name, File)
Act = (
    Attach
    | st.tuples(st.just("swap"), Name, File)
    | st.tuples(st.just("use"), st.dictionaries(Name, Weight, max_size=3))
    | st.tuples(st.just("detach"), st.sampled_from(NAMES))
    | st.tuples(st.just("fuse"), Weight)
    | st.tuples(st.just("unfuse"))
)


@dataclass
class Said:
    """What was asked of a mix, and nothing else."""

    files: dict[str, str] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    fused_at: float | None = None

    def allows(self, act: str, *words: object) -> bool:
        """Whether an act makes sense after what was said."""
        if act == "use":
            return set(words[0]) <= self.files.keys()
        if act == "attach":
            return words[0] not in self.files and words[1] != "broken"
        if act == "swap":
            return words[0] in self.files and words[1] != "broken"
        return act != "detach" or words[0] in self.files

    def say(self, act: str, *words: object) -> None:
        if act in ("attach", "swap"):
            self.files[words[0]] = words[1]
        elif act == "use":
            self.weights = dict(words[0])
        elif act == "detach":
            del self.files[words[0]]
            self.weights.pop(words[0], None)
        else:
            self.fused_at = words[0] if words else None

    def weights_over(
        self, base: Mapping[str, np.ndarray], changes: Mapping[str, Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        scale = 1.0 if self.fused_at is None else self.fused_at
        wanted = dict(base)
        for name, file in self.files.items():
            for weight, delta in changes[file].items():
                wanted[weight] = wanted[weight] + scale * self.weights.get(name, 0.0) * delta
        return wanted


@dataclass(frozen=True)
class World:
    """One toy model for all sequences, which each of them must leave as it was."""

    base: Path
    pipeline: Pipeline
    mix: AdapterMix
    files: Mapping[str, Path]
    deltas: Mapping[str, Mapping[str, np.ndarray]]

    def do(self, act: str, *words: object) -> None:
        if act in ("attach", "swap"):
            words = (words[0], self.files[words[1]])
        getattr(self.mix, act)(*words)


@pytest.fixture(scope="module")
def world(base_of: BaseOf, tmp_path_factory: pytest.TempPathFactory) -> World:
    base = base_of(MEMBERS[1])
    folder = tmp_path_factory.mktemp("files")
    files = files_of(folder, base, TOYS.items())
    changes = {name: deltas(path, TOYS[name].alpha) for name, path in files.items()}
    return World(base, *open_mix(base), files, changes)


@given(first=st.lists(Attach, min_size=2, max_size=3), acts=st.lists(Act, min_size=10, max_size=16))
@settings(
    max_examples=40,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_mix_is_what_was_said_last(world: World, first: list[tuple], acts: list[tuple]) -> None:
    model = world.pipeline.transformer
    before, parts, base = bits(model), kinds(model), weights_of(model)
    said = Said()
    for act in [*first, *acts]:
        if said.allows(*act):
            world.do(*act)
            said.say(*act)
        else:
            with pytest.raises((ConfigError, IntegrityError)):
                world.do(*act)
        wanted = said.weights_over(base, world.deltas)
        assert furthest(weights_of(model), wanted) < ROUNDING, act
        assert world.mix.fused_at == said.fused_at
        assert list(world.mix.attached) == list(said.files)
        assert held(model) == (len(said.files) if said.fused_at is None else 0), act
        if said.fused_at is not None:
            assert kinds(model) == parts, "LoRA layers are in the way of a fused model"
            if not said.fused_at or not any(said.weights.values()):
                assert same_bits(bits(model), before), "nothing acts, but the base is not itself"
    for name in list(said.files):
        world.mix.detach(name)
    world.mix.use({})
    world.mix.unfuse()
    assert same_bits(bits(model), before)
    assert kinds(model) == parts


def dense(base: Path, folder: Path, weights: Mapping[str, np.ndarray]) -> Pipeline:
    """The base with these weights in place of its own."""
    shutil.copytree(base, folder)
    pipeline, _ = open_mix(folder)
    state = {name: torch.from_numpy(each).float() for name, each in weights.items()}
    pipeline.transformer.load_state_dict(state, strict=False)
    return pipeline


@pytest.mark.parametrize("fused_at", [None, 0.25, 1.0])
def test_predictions_are_those_of_a_model_with_such_weights(
    world: World, tmp_path: Path, fused_at: float | None
) -> None:
    said = Said(
        files={"one": "of another alpha", "two": "wider", "three": "of uneven ranks"},
        weights={"one": 0.7, "two": -0.4, "three": 1.3},
        fused_at=fused_at,
    )
    base = weights_of(world.pipeline.transformer)
    wanted = dense(world.base, tmp_path / "dense", said.weights_over(base, world.deltas))
    undo: list[Callable[[], object]] = []
    for name, file in said.files.items():
        world.do("attach", name, file)
        undo.append(lambda name=name: world.mix.detach(name))
    world.mix.use(said.weights)
    if fused_at is not None:
        world.mix.fuse(fused_at)
    ours, theirs = predict(world.pipeline, world.base), predict(wanted, world.base)
    for act in undo:
        act()
    world.mix.unfuse()
    plain = predict(world.pipeline, world.base)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert (plain - theirs).abs().max() > 0.01 * theirs.abs().max(), "they act"

"""Each trap of diffusers' adapters, first sprung by diffusers itself and then out of our reach.

When a new diffusers passes a test that says "stock", the trap is gone there, and the test may be.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from safetensors.torch import load_file, save_file

from cogvx.errors import ConfigError, IntegrityError
from cogvx.inference.mix import AdapterMix
from cogvx.inference.pipelines import Pipeline
from tests.adapters.toys import toy_card
from tests.fixtures.family import MEMBERS, BaseOf, pipeline_of
from tests.inference.mixes import (
    QUERIES,
    Toy,
    bits,
    deltas,
    files_of,
    furthest,
    open_mix,
    same_bits,
    weights_of,
    without_metadata,
    write,
)

HALF = Toy(rank=8, alpha=4, seed=1)
QUARTER = Toy(rank=8, alpha=2, seed=2)
FEW = Toy(rank=8, alpha=8, seed=3, targets=QUERIES)
ROUNDING = 1e-6
LOST = 1e-3  # far above rounding, far below what the toys add


@pytest.fixture(scope="module")
def base(base_of: BaseOf) -> Path:
    return base_of(MEMBERS[1])


@pytest.fixture(scope="module")
def files(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    toys = {"half": HALF, "quarter": QUARTER, "few": FEW}
    return files_of(tmp_path_factory.mktemp("files"), base, toys.items())


@pytest.fixture
def stock(base: Path) -> Pipeline:
    """diffusers alone."""
    return pipeline_of(base, MEMBERS[1])


@pytest.fixture
def ours(base: Path) -> tuple[Pipeline, AdapterMix]:
    return open_mix(base)


def load(pipeline: CogVideoXPipeline, file: Path, name: str, **how: object) -> None:
    pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name, **how)


def error(pipeline: Pipeline, base: Path, *parts: tuple[float, Path, Toy]) -> float:
    """How far a model is from the base plus these parts, by its weights."""
    wanted = weights_of(pipeline_of(base, MEMBERS[1]).transformer)
    for scale, file, toy in parts:
        for name, delta in deltas(file, toy.alpha).items():
            wanted[name] = wanted[name] + scale * delta
    return furthest(weights_of(pipeline.transformer), wanted)


def test_fusing_twice_at_a_half_is_a_half(base, files, stock, ours) -> None:
    load(stock, files["half"], "a")
    for _ in range(2):
        stock.fuse_lora(lora_scale=0.5)
        stock.unfuse_lora()
    assert error(stock, base, (0.25, files["half"], HALF)) < ROUNDING, "stock: 0.5 x 0.5 stays"
    pipeline, mix = ours
    mix.attach("a", files["half"])
    mix.use({"a": 1.0})
    for _ in range(2):
        mix.fuse(0.5)
        assert error(pipeline, base, (0.5, files["half"], HALF)) < ROUNDING
    mix.unfuse()
    assert error(pipeline, base, (1.0, files["half"], HALF)) < ROUNDING


def test_weights_may_change_while_fused(base, files, stock, ours) -> None:
    load(stock, files["half"], "a")
    stock.fuse_lora()
    stock.set_adapters("a", 2.0)
    assert error(stock, base, (1.0, files["half"], HALF)) < ROUNDING, "stock: 2.0 was ignored"
    stock.unfuse_lora()
    stock.unload_lora_weights()
    assert error(stock, base) > LOST, "stock: the base is corrupt"
    pipeline, mix = ours
    before = bits(pipeline.transformer)
    mix.attach("a", files["half"])
    mix.use({"a": 1.0})
    mix.fuse()
    mix.use({"a": 2.0})
    assert error(pipeline, base, (2.0, files["half"], HALF)) < ROUNDING
    mix.detach("a")
    mix.unfuse()
    assert same_bits(bits(pipeline.transformer), before)


def test_an_adapter_may_be_dropped_while_fused(base, files, stock, ours) -> None:
    load(stock, files["half"], "a")
    stock.fuse_lora()
    stock.delete_adapters("a")
    stock.unfuse_lora()
    assert error(stock, base, (1.0, files["half"], HALF)) < ROUNDING, "stock: it stays for ever"
    pipeline, mix = ours
    before = bits(pipeline.transformer)
    mix.attach("a", files["half"])
    mix.use({"a": 1.0})
    mix.fuse()
    mix.detach("a")
    assert same_bits(bits(pipeline.transformer), before)


def test_a_second_file_leaves_the_first_acting(base, files, stock, ours) -> None:
    load(stock, files["half"], "a")
    load(stock, files["few"], "b")
    assert error(stock, base, (1.0, files["few"], FEW)) < ROUNDING, "stock: only the second acts"
    pipeline, mix = ours
    mix.attach("a", files["half"])
    mix.use({"a": 1.0})
    mix.attach("b", files["few"])
    assert error(pipeline, base, (1.0, files["half"], HALF)) < ROUNDING
    mix.use({"a": 1.0, "b": 0.5})
    wanted = ((1.0, files["half"], HALF), (0.5, files["few"], FEW))
    assert error(pipeline, base, *wanted) < ROUNDING


def test_what_is_left_acts_no_more_than_before(base, files, stock, ours) -> None:
    load(stock, files["half"], "a")
    load(stock, files["quarter"], "b")
    stock.delete_adapters("b")
    assert error(stock, base, (1.0, files["half"], HALF)) < ROUNDING, "stock: the other one wakes"
    pipeline, mix = ours
    for name, file in (("a", "half"), ("b", "quarter")):
        mix.attach(name, files[file])
    mix.use({"b": 1.0})
    mix.detach("b")
    assert error(pipeline, base) == 0.0


def test_a_weight_means_the_new_file_after_a_swap(base, files, stock, ours) -> None:
    load(stock, files["half"], "a")
    load(stock, files["quarter"], "a", hotswap=True)
    assert error(stock, base, (1.0, files["quarter"], QUARTER)) < ROUNDING
    stock.set_adapters("a", 1.0)
    wrong = error(stock, base, (2.0, files["quarter"], QUARTER))
    assert wrong < ROUNDING, "stock: alpha / rank of the old file"
    pipeline, mix = ours
    mix.attach("a", files["half"])
    mix.use({"a": 1.0})
    mix.swap("a", files["quarter"])
    for weight in (1.0, 0.3):
        mix.use({"a": weight})
        assert error(pipeline, base, (weight, files["quarter"], QUARTER)) < ROUNDING


def test_a_swap_may_adapt_other_layers(base, files, stock, ours) -> None:
    load(stock, files["few"], "a")
    with pytest.raises(RuntimeError):
        load(stock, files["half"], "a", hotswap=True)
    pipeline, mix = ours
    mix.attach("a", files["few"])
    mix.use({"a": 1.0})
    mix.swap("a", files["half"])
    assert error(pipeline, base, (1.0, files["half"], HALF)) < ROUNDING


def test_a_swap_that_fails_leaves_the_old_one_acting(base, files, stock, ours, tmp_path) -> None:
    load(stock, files["few"], "a")
    with pytest.raises(RuntimeError):
        load(stock, files["half"], "a", hotswap=True)
    assert error(stock, base) == 0.0, "stock: the one that was there is gone"
    pipeline, mix = ours
    mix.attach("a", files["few"])
    mix.use({"a": 1.0})
    wide = {name: torch.cat([each] * 2) for name, each in load_file(files["few"]).items()}
    save_file(wide, tmp_path / "wide.safetensors", _metadata(files["few"]))
    with pytest.raises(IntegrityError, match="does not fit the base model"):
        mix.swap("a", tmp_path / "wide.safetensors")
    assert error(pipeline, base, (1.0, files["few"], FEW)) < ROUNDING


def test_a_swap_may_come_while_fused(base, files, stock, ours) -> None:
    load(stock, files["half"], "a")
    stock.fuse_lora()
    with pytest.raises(ValueError, match="merged"):
        load(stock, files["quarter"], "a", hotswap=True)
    pipeline, mix = ours
    mix.attach("a", files["half"])
    mix.use({"a": 1.0})
    mix.fuse()
    mix.swap("a", files["quarter"])
    assert error(pipeline, base, (1.0, files["quarter"], QUARTER)) < ROUNDING
    mix.unfuse()
    assert error(pipeline, base, (1.0, files["quarter"], QUARTER)) < ROUNDING


def test_half_precision_comes_back_bit_for_bit(base, files) -> None:
    stock = pipeline_of(base, MEMBERS[1]).to(torch.bfloat16)
    before = bits(stock.transformer)
    load(stock, files["half"], "a")
    stock.fuse_lora()
    stock.unfuse_lora()
    stock.unload_lora_weights()
    assert not same_bits(bits(stock.transformer), before), "stock: W + D - D is not W"
    pipeline, mix = open_mix(base, dtype="bfloat16")
    before = bits(pipeline.transformer)
    mix.attach("a", files["half"])
    mix.use({"a": 1.0})
    mix.fuse()
    assert not same_bits(bits(pipeline.transformer), before)
    mix.unfuse()
    mix.detach("a")
    assert same_bits(bits(pipeline.transformer), before)


def test_a_scale_of_zero_is_the_base(base, files, stock, ours) -> None:
    load(stock, files["half"], "a")
    stock.fuse_lora(lora_scale=0.0)
    stock.unfuse_lora()
    assert error(stock, base) == 0.0, "stock: it never acts again"
    pipeline, mix = ours
    before = bits(pipeline.transformer)
    mix.attach("a", files["half"])
    mix.use({"a": 1.0})
    mix.fuse(0.0)
    assert same_bits(bits(pipeline.transformer), before)
    mix.unfuse()
    assert error(pipeline, base, (1.0, files["half"], HALF)) < ROUNDING


def test_names_without_a_prefix_are_no_adapter_that_does_nothing(
    base, files, stock, ours, tmp_path
) -> None:
    bare = {name.removeprefix("transformer."): it for name, it in load_file(files["half"]).items()}
    save_file(bare, tmp_path / "bare.safetensors", {"format": "pt"})
    load(stock, tmp_path / "bare.safetensors", "a")
    assert error(stock, base) == 0.0, "stock: nothing is loaded, and nothing raised"
    _, mix = ours
    with pytest.raises(IntegrityError, match=r"not in diffusers' form.*cogvx adapter convert"):
        mix.attach("a", tmp_path / "bare.safetensors")
    assert not mix.attached


def test_a_file_that_lost_its_alpha_is_not_guessed_at(base, files, stock, ours, tmp_path) -> None:
    lost = without_metadata(files["half"], tmp_path / "lost.safetensors")
    load(stock, lost, "a")
    wrong = error(stock, base, (2.0, files["half"], HALF))
    assert wrong < ROUNDING, "stock: rank 8 and alpha 4 act at 1, twice as trained"
    _, mix = ours
    with pytest.raises(IntegrityError, match=r"does not record its alpha.*cogvx adapter convert"):
        mix.attach("a", lost)


def test_settings_that_this_peft_does_not_know_are_no_obstacle(base, stock, ours, tmp_path) -> None:
    told = {"r": 8, "lora_alpha": 4, "rank_pattern": {}, "of_the_future": True}
    prefixed = json.dumps({f"transformer.{key}": value for key, value in told.items()})
    file = write(
        tmp_path / "new.safetensors",
        Toy(rank=8, alpha=4, seed=5, metadata={"lora_adapter_metadata": prefixed}),
        base,
    )
    with pytest.raises(TypeError, match="LoraConfig"):
        load(stock, file, "a")
    pipeline, mix = ours
    mix.attach("a", file)
    mix.use({"a": 1.0})
    assert error(pipeline, base, (1.0, file, HALF)) < ROUNDING


def test_a_name_that_is_taken_says_what_to_do(base, files, stock, ours) -> None:
    load(stock, files["half"], "a")
    with pytest.raises(ValueError, match="already in use"):
        load(stock, files["quarter"], "a")
    _, mix = ours
    mix.attach("a", files["half"])
    with pytest.raises(ConfigError, match='"a" is already attached; detach or swap it'):
        mix.attach("a", files["quarter"])


@pytest.mark.parametrize("beside_another", [False, True])
def test_numbers_that_are_none_are_refused(
    base, files, stock, ours, tmp_path, beside_another
) -> None:
    tensors = load_file(files["half"])
    tensors[max(tensors)][0, 0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors", _metadata(files["half"]))
    load(stock, tmp_path / "nan.safetensors", "a")
    assert not all(np.isfinite(each).all() for each in weights_of(stock.transformer).values())
    pipeline, mix = ours
    if beside_another:
        mix.attach("good", files["few"])
        mix.use({"good": 1.0})
    with pytest.raises(IntegrityError, match="1 layers are not finite"):
        mix.attach("a", tmp_path / "nan.safetensors")
    parts = [(1.0, files["few"], FEW)] if beside_another else []
    assert error(pipeline, base, *parts) < ROUNDING


def test_an_adapter_of_another_base_with_the_same_shapes_is_refused(
    base, files, stock, tmp_path
) -> None:
    card = toy_card(rank=8, alpha=4, base_path="zai-org/CogVideoX1.5-5B", base_fingerprint="a" * 64)
    metadata = {**_metadata(files["half"]), "cogvx_card": card.model_dump_json()}
    save_file(load_file(files["half"]), tmp_path / "other.safetensors", metadata)
    load(stock, tmp_path / "other.safetensors", "a")
    assert error(stock, base, (1.0, files["half"], HALF)) < ROUNDING, "stock: it acts"
    _, mix = open_mix(base, fingerprint="b" * 64)
    with pytest.raises(IntegrityError, match=r"CogVideoX1.5-5B \(a{12}\), .*b{12}"):
        mix.attach("a", tmp_path / "other.safetensors")


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.metadata()

"""Adapters do what the paper's formula says, in any precision of the base, from a seed alone."""

from pathlib import Path

import peft
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from cogvx.errors import ConfigError, IntegrityError
from cogvx.model.load import load_transformer
from cogvx.model.lora import attach_lora, lora_state, set_lora_state
from cogvx.model.rotary import rotary_tables
from cogvx.recipe_sections import LoraConfig
from cogvx.variants import read_facts

LORA = LoraConfig(rank=64, alpha=32)


def predict(transformer: CogVideoXTransformer3DModel, base: Path) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    facts = read_facts(base)
    return transformer(
        hidden_states=torch.randn(1, 3, 8, 12, 12, generator=generator).to(transformer.dtype),
        encoder_hidden_states=torch.randn(1, 16, 64, generator=generator).to(transformer.dtype),
        timestep=torch.tensor([500]),
        image_rotary_emb=rotary_tables(facts, facts.sample_size, "cpu"),
    ).sample


def trained_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same adapter with B away from zero."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.1 if "lora_B" in name else tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize("targets", [("to_q",), ("to_q", "to_k", "to_v", "to_out.0")])
def test_every_target_of_every_layer_gets_two_float32_tensors(
    nano_base: Path, targets: tuple[str, ...]
) -> None:
    transformer = load_transformer(nano_base, dtype="bfloat16")
    parameters = attach_lora(transformer, LORA.model_copy(update={"targets": targets}), seed=0)
    layers = read_facts(nano_base).layers
    assert len(parameters) == len(lora_state(transformer)) == layers * len(targets) * 2
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    trainable = [part for part in transformer.parameters() if part.requires_grad]
    assert {id(part) for part in trainable} == {id(part) for part in parameters}
    names = lora_state(transformer)
    assert names["transformer_blocks.0.attn1.to_q.lora_A.weight"].shape == (64, 192)
    assert names["transformer_blocks.5.attn1.to_q.lora_B.weight"].shape == (192, 64)


def test_a_fresh_adapter_changes_nothing(nano_base: Path) -> None:
    transformer = load_transformer(nano_base, dtype="float32")
    before = predict(transformer, nano_base)
    attach_lora(transformer, LORA, seed=0)
    assert torch.equal(predict(transformer, nano_base), before)


def test_a_trained_adapter_is_alpha_over_rank_times_b_a(nano_base: Path) -> None:
    adapted = load_transformer(nano_base, dtype="float32")
    attach_lora(adapted, LORA, seed=0)
    set_lora_state(adapted, trained_state(lora_state(adapted)))
    merged = load_transformer(nano_base, dtype="float32")
    state = lora_state(adapted)
    for name in (name for name in state if ".lora_A." in name):
        layer = merged.get_submodule(name.removesuffix(".lora_A.weight"))
        product = state[name.replace("lora_A", "lora_B")] @ state[name]
        layer.weight.data += 32 / 64 * product
    difference = predict(adapted, nano_base) - predict(merged, nano_base)
    effect = predict(adapted, nano_base) - predict(
        load_transformer(nano_base, dtype="float32"), nano_base
    )
    assert effect.abs().max() > 0.05
    assert difference.abs().max() < 1e-5


def test_the_start_is_drawn_as_peft_draws_it(nano_base: Path) -> None:
    transformer = load_transformer(nano_base, dtype="float32")
    attach_lora(transformer, LORA, seed=0)
    ours = lora_state(transformer)
    reference = load_transformer(nano_base, dtype="float32")
    reference.add_adapter(peft.LoraConfig(r=64, lora_alpha=32, target_modules=list(LORA.targets)))
    theirs = peft.get_peft_model_state_dict(reference)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.std().item() == pytest.approx(theirs[name].std().item(), rel=0.05)
        assert tensor.abs().max() <= 192**-0.5


def test_the_start_depends_on_the_seed_alone(nano_base: Path) -> None:
    def start(seed: int, dtype: str, elsewhere: int) -> dict[str, Tensor]:
        torch.manual_seed(elsewhere)
        before = torch.random.get_rng_state()
        transformer = load_transformer(nano_base, dtype=dtype)
        attach_lora(transformer, LORA, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        return lora_state(transformer)

    one, same, other = start(7, "float32", 1), start(7, "bfloat16", 2), start(8, "float32", 1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    first = "transformer_blocks.0.attn1.to_q.lora_A.weight"
    assert not torch.equal(one[first], other[first])
    assert not torch.equal(one[first], one[first.replace("to_q", "to_k")])


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_a_float32_adapter_through_a_bfloat16_base(
    nano_base: Path, autocast: bool
) -> None:
    transformer = load_transformer(nano_base, dtype="bfloat16")
    parameters = attach_lora(transformer, LORA, seed=0)
    set_lora_state(transformer, trained_state(lora_state(transformer)))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = predict(transformer, nano_base)
    output.float().square().mean().backward()
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.abs().max() > 0


def test_a_state_that_is_put_back_is_the_same_bits_and_a_copy(nano_base: Path) -> None:
    transformer = load_transformer(nano_base, dtype="float32")
    (first, *_) = attach_lora(transformer, LORA, seed=0)
    kept = lora_state(transformer)
    state = trained_state(kept)
    set_lora_state(transformer, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in lora_state(transformer).items())
    with torch.no_grad():
        first.zero_()
    assert kept["transformer_blocks.0.attn1.to_q.lora_A.weight"].abs().max() > 0


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(
    nano_base: Path, fault: str
) -> None:
    transformer = load_transformer(nano_base, dtype="float32")
    attach_lora(transformer, LORA, seed=0)
    kept = lora_state(transformer)
    state = trained_state(kept)
    last = list(state)[-1]
    if fault == "missing":
        del state[last]
    elif fault == "unexpected":
        state["transformer_blocks.6.attn1.to_q.lora_A.weight"] = state[last]
    else:
        state[last] = state[last][:, :8]
    with pytest.raises(IntegrityError, match=f"1 fault.*{'not' if fault == 'shape' else fault}"):
        set_lora_state(transformer, state)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in lora_state(transformer).items())


def test_a_target_that_matches_nothing_is_named(nano_base: Path) -> None:
    transformer = load_transformer(nano_base, dtype="float32")
    wrong = LoraConfig(rank=64, alpha=64, targets=("to_q", "to_ot.0"))
    with pytest.raises(ConfigError, match=r'lora.targets\[1\] = "to_ot.0" matches no linear layer'):
        attach_lora(transformer, wrong, seed=0)

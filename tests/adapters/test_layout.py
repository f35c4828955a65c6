"""Which modules a target selects agrees with peft and with the real transformer."""

import peft
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch import nn

from cogvx.adapters.layout import adapted_modules, linear_modules, target_fault

LAYERS = 3


def transformer(patch_t: int | None) -> CogVideoXTransformer3DModel:
    with torch.random.fork_rng(devices=[]):
        return CogVideoXTransformer3DModel(
            num_attention_heads=1,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=8,
            num_layers=LAYERS,
            sample_width=4,
            sample_height=4,
            sample_frames=9,
            max_text_seq_length=4,
            use_rotary_positional_embeddings=True,
            patch_size_t=patch_t,
        )


def ends(model: nn.Module) -> list[str]:
    """Every end of every module's name: all that a target could sensibly say."""
    names = [name for name, _ in model.named_modules() if name]
    return sorted({name.split(".", at)[-1] for name in names for at in range(name.count(".") + 1)})


@pytest.mark.parametrize("patch_t", [None, 2])
def test_the_linear_layers_are_those_of_the_real_transformer(patch_t: int | None) -> None:
    real = {n for n, part in transformer(patch_t).named_modules() if isinstance(part, nn.Linear)}
    assert set(linear_modules(LAYERS, patch_t=patch_t)) == real


@pytest.mark.parametrize("patch_t", [None, 2])
def test_a_target_is_right_exactly_when_peft_finds_linear_layers_only(patch_t: int | None) -> None:
    model = transformer(patch_t)
    modules = {name: part for name, part in model.named_modules() if name}
    for target in [*ends(model), "to_z", "o_q", "to_q.", ""]:
        config = peft.LoraConfig(target_modules=[target])
        found = {
            name
            for name in modules
            if peft.tuners.tuners_utils.check_target_module_exists(config, name)
        }
        fine = bool(found) and all(isinstance(modules[name], nn.Linear) for name in found)
        fault = target_fault(target, layers=LAYERS, patch_t=patch_t)
        assert (fault is None) == fine, (target, fault)
        if fine:
            assert set(adapted_modules(LAYERS, (target,), patch_t=patch_t)) == found


@pytest.mark.parametrize("target", ["0", "2", "transformer_blocks.0", "norm_out"])
def test_peft_refuses_what_is_called_a_fault(target: str) -> None:
    assert "which is no linear layer" in str(target_fault(target, layers=LAYERS, patch_t=None))
    with pytest.raises(ValueError, match="is not supported"):
        transformer(None).add_adapter(peft.LoraConfig(target_modules=[target]))


def test_a_layer_named_in_full_is_adapted_alone() -> None:
    name = "transformer_blocks.0.attn1.to_q"
    assert target_fault(name, layers=LAYERS, patch_t=None) is None
    model = transformer(None)
    model.add_adapter(peft.LoraConfig(target_modules=[name]))
    adapted = {n for n, part in model.named_modules() if isinstance(part, peft.tuners.lora.Linear)}
    assert adapted == {name} == set(adapted_modules(LAYERS, (name,), patch_t=None))

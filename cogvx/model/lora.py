"""Low-rank adapters inside a frozen transformer: attach, read out, put back.

The adapter is float32 whatever the base's precision: in bfloat16, updates of a small learning rate
would round to nothing. peft casts at the border of every adapted layer.
"""

import math
from collections.abc import Mapping

import peft
import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn

from cogvx.errors import ConfigError, IntegrityError, Problem
from cogvx.recipe_sections import LoraConfig

ADAPTER = "default"


def attach_lora(
    transformer: CogVideoXTransformer3DModel, lora: LoraConfig, *, seed: int
) -> tuple[nn.Parameter, ...]:
    """Put a fresh adapter into the transformer and freeze everything else.

    `h = W x + (alpha / rank) B A x`, with B zero, so that the start equals the base. A is drawn in
    float32 on the CPU from `seed` alone: the same on every device, for every precision of the base,
    and without touching the caller's random state.

    Args:
        transformer: On its device, without adapters; changed in place.
        lora: Rank, alpha and targets.
        seed: Decides A.

    Returns:
        The trainable parameters, float32, in the order of their names' appearance: A before B.

    Raises:
        ConfigError: A target matches no module.

    Source: arXiv:2106.09685; initialisation as in peft `LoraLayer.reset_lora_parameters`.
    """
    _require_targets(transformer, lora.targets)
    transformer.requires_grad_(requires_grad=False)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.targets),
        init_lora_weights=True,
    )
    on_gpu = [transformer.device] if transformer.device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_gpu):
        transformer.add_adapter(config, adapter_name=ADAPTER)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in _lora_parameters(transformer).items():
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            drawn = torch.empty(parameter.shape, dtype=torch.float32)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(drawn)
    return tuple(_lora_parameters(transformer).values())


def lora_state(transformer: CogVideoXTransformer3DModel) -> dict[str, Tensor]:
    """Copies of the adapter's tensors on the CPU, alpha not baked in.

    Names are those of the transformer's modules: `transformer_blocks.0.attn1.to_q.lora_A.weight`.
    """
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in _lora_parameters(transformer).items()
    }


def set_lora_state(transformer: CogVideoXTransformer3DModel, state: Mapping[str, Tensor]) -> None:
    """Put back what `lora_state` gave, into an attached adapter of the same shape.

    Raises:
        IntegrityError: A tensor is missing, unexpected or of another shape; nothing is changed.
    """
    parameters = _lora_parameters(transformer)
    faults = [f"{name} is missing" for name in parameters if name not in state]
    faults += [f"{name} is unexpected" for name in state if name not in parameters]
    faults += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in state and state[name].shape != parameter.shape
    ]
    if faults:
        raise IntegrityError(
            f"an adapter's weights do not fit, {len(faults)} fault(s): {'; '.join(faults[:3])}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def _lora_parameters(transformer: CogVideoXTransformer3DModel) -> dict[str, nn.Parameter]:
    """The adapter's parameters under their names without the adapter's own name."""
    return {
        name.replace(f".{ADAPTER}.", "."): parameter
        for name, parameter in transformer.named_parameters()
        if f".{ADAPTER}." in name and ".lora_" in name
    }


def _require_targets(transformer: CogVideoXTransformer3DModel, targets: tuple[str, ...]) -> None:
    """Refuse a target that matches nothing: peft would leave it out without a word."""
    linears = [name for name, part in transformer.named_modules() if isinstance(part, nn.Linear)]
    problems = [
        Problem(f"lora.targets[{number}]", target, "matches no linear layer of the transformer")
        for number, target in enumerate(targets)
        if not any(name == target or name.endswith(f".{target}") for name in linears)
    ]
    if problems:
        raise ConfigError("the adapter cannot be attached", problems)

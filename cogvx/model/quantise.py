"""The frozen base in 8 bits: half the memory of bfloat16, brought back layer by layer to multiply.

The linear layers of the blocks are stored, 99 % of the weights; norms, biases and everything around
the blocks stay as they are. On the toy model float8 moves the output by 1.6 % and int8 by 0.5 %,
which is what bfloat16 does; modulations are stored too, since they add less than a tenth to that.
Each row of weights has a scale of its own, without which most of CogVideoX's small weights would
fall where float8 has hardly a digit.

Libraries do this too, for inference: after the forward pass diffusers' layerwise casting and
torchao both leave the unpacked weights of every layer in autograd's hands, so that a base stored in
8 bits takes 24. Here the backward pass unpacks again.
"""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional

from cogvx.recipe_sections import BaseWeights

_STORED_AS: dict[BaseWeights, torch.dtype] = {
    "float8": torch.float8_e4m3fn,
    "int8": torch.int8,
}
_LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
_SMALLEST_SCALE = 1e-30  # of a row of zeros


class StoredLinear(nn.Linear):
    """A frozen linear layer whose weight is stored in 8 bits.

    Attributes:
        weight: `(outputs, inputs)`, in float8 or int8.
        scale: `(outputs, 1)`, float32; a row of the weight is this times what is stored.
        dtype: What it multiplies in.
    """

    scale: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, linear: nn.Linear, stored_as: torch.dtype) -> "StoredLinear":
        """Round the weight of `linear`, which is left as it was."""
        bias = linear.bias is not None
        made = cls(linear.in_features, linear.out_features, bias=bias, device="meta")
        stored, scale = quantise(linear.weight.detach(), stored_as)
        made.weight = nn.Parameter(stored, requires_grad=False)
        made.bias = linear.bias
        made.register_buffer("scale", scale, persistent=False)
        made.dtype = linear.weight.dtype
        return made.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Linear gives it
        """As `nn.Linear` does, in `dtype` whatever the input's."""
        multiply: Any = _Linear.apply  # torch gives it no types
        output: Tensor = multiply(input.to(self.dtype), self.weight, self.scale, self.bias)
        return output


class _Linear(torch.autograd.Function):
    """`x W^T + b`, keeping W in 8 bits between the passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stored: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(stored, scale)
        return functional.linear(x, dequantise(stored, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        stored, scale = ctx.saved_tensors
        return gradient @ dequantise(stored, scale, gradient.dtype), None, None, None


def quantise(weight: Tensor, stored_as: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round each row to its largest number's share: what to store, and the scale of each row."""
    largest = _LARGEST[stored_as]
    exact = weight.float()
    scale = (exact.abs().amax(1, keepdim=True) / largest).clamp_min(_SMALLEST_SCALE)
    shares = (exact / scale).clamp(-largest, largest)
    return (shares.round() if stored_as == torch.int8 else shares).to(stored_as), scale


def dequantise(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight again, rounded once."""
    return stored.float().mul_(scale).to(dtype)


def store_base(transformer: CogVideoXTransformer3DModel, base_weights: BaseWeights) -> None:
    """Store the large linear layers in 8 bits, in place; names stay as they are.

    An adapter may be attached before or after. What the CPU holds is rounded there, so that a GPU
    never sees the larger form.

    Args:
        transformer: Frozen, as it was loaded.
        base_weights: "as_is" does nothing.
    """
    if base_weights == "as_is":
        return
    for parent, name, linear in list(_stored_layers(transformer)):
        setattr(parent, name, StoredLinear.of(linear, _STORED_AS[base_weights]))


def stored_weights(transformer: CogVideoXTransformer3DModel) -> BaseWeights:
    """How the base is stored, as a recipe says it."""
    for part in transformer.modules():
        if isinstance(part, StoredLinear):
            return next(name for name, dtype in _STORED_AS.items() if dtype == part.weight.dtype)
    return "as_is"


def _stored_layers(
    transformer: CogVideoXTransformer3DModel,
) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for path, parent in transformer.transformer_blocks.named_modules():
        for name, part in parent.named_children():
            if type(part) is nn.Linear and ".lora_" not in f".{path}.{name}":
                yield parent, name, part

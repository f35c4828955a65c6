"""A base stored in 8 bits: what it rounds, what it computes, what it keeps in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cogvx.model.blocks import recompute
from cogvx.model.quantise import StoredLinear
from cogvx.variants import BLOCK_LINEARS
from tests.model.steps import Model, Step, flat_gradients, new_model

STORED = ("float8", "int8")


def rounded_by_hand(weight: Tensor, stored_as: str) -> Tensor:
    """Each row to the nearest of its 255 or 253 levels, found by looking at all of them."""
    if stored_as == "int8":
        levels = np.arange(-127, 128, dtype=np.float64)
    else:  # sign, 4 bits of exponent with bias 7, 3 of mantissa; 0x7f is no number
        halves = [
            (m / 8) * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)
            for e in range(16)
            for m in range(8)
            if (e, m) != (15, 7)
        ]
        levels = np.array(sorted({*halves, *(-half for half in halves)}))
    exact = weight.double().numpy()
    rows = np.abs(exact).max(1, keepdims=True) / levels.max()
    above = np.searchsorted(levels, exact / rows).clip(1, len(levels) - 1)
    low, high = levels[above - 1], levels[above]
    nearest = np.where(exact / rows - low < high - exact / rows, low, high)
    return torch.from_numpy(nearest * rows).to(weight.dtype)


def by_hand(base: Path, stored_as: str, dtype: Any) -> Model:
    """The toy model with plain layers, whose weights were rounded and brought back."""
    model = new_model(base, dtype=dtype)
    for name, part in model.transformer.transformer_blocks.named_modules():
        if isinstance(part, nn.Linear) and ".lora_" not in name:
            part.weight.data = rounded_by_hand(part.weight.data, stored_as)
    return model


@pytest.mark.parametrize(
    ("stored_as", "checkpointing"),
    [("float8", "none"), ("float8", "selective"), ("float8", "full"), ("int8", "none")],
)
def test_gradients_equal_those_over_weights_that_were_rounded_by_hand(
    nano_base: Path, stored_as: Any, checkpointing: Any
) -> None:
    wanted = flat_gradients(by_hand(nano_base, stored_as, "float32"), Step())
    model = new_model(nano_base, base_weights=stored_as)
    recompute(model.transformer, checkpointing)
    found = flat_gradients(model, Step())
    # a few weights lie in the middle between two levels, up to the last bit of a float32
    assert (found - wanted).norm() < 2e-4 * wanted.norm()
    plain = flat_gradients(new_model(nano_base), Step())
    assert 2e-3 < (plain - wanted).norm() / wanted.norm() < 0.2  # it does round


@pytest.mark.parametrize("stored_as", STORED)
def test_gradients_over_a_half_precision_base_differ_by_its_rounding_only(
    nano_base: Path, stored_as: Any
) -> None:
    wanted = flat_gradients(by_hand(nano_base, stored_as, "bfloat16"), Step())
    found = flat_gradients(new_model(nano_base, dtype="bfloat16", base_weights=stored_as), Step())
    assert found.dtype == torch.float32
    assert (found - wanted).norm() < 0.03 * wanted.norm()


@pytest.mark.parametrize("stored_as", STORED)
def test_the_blocks_linear_layers_are_stored_and_nothing_else(
    nano_base: Path, stored_as: Any
) -> None:
    model = new_model(nano_base, dtype="bfloat16", base_weights=stored_as)
    plain = new_model(nano_base, dtype="bfloat16")
    stored = {
        name.removesuffix(".base_layer").split(".", 2)[2]
        for name, part in model.transformer.named_modules()
        if isinstance(part, StoredLinear)
    }
    assert stored == set(BLOCK_LINEARS)
    eight_bits = {torch.float8_e4m3fn, torch.int8}
    for name, tensor in plain.transformer.state_dict().items():
        twin = model.transformer.state_dict()[name]
        if twin.dtype not in eight_bits:
            assert torch.equal(twin, tensor), name
    assert model.transformer.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters} == {torch.float32}
    layers = [part for part in model.transformer.modules() if isinstance(part, StoredLinear)]
    was = sum(layer.weight.numel() * 2 for layer in layers)
    now = sum(layer.weight.nbytes + layer.scale.nbytes for layer in layers)
    print(f"{stored_as}: {was} bytes of weights became {now}")
    assert now < 0.53 * was


@pytest.mark.parametrize("stored_as", STORED)
def test_no_unpacked_weight_outlives_its_layers_forward_pass(
    nano_base: Path, stored_as: Any
) -> None:
    plain = new_model(nano_base, dtype="bfloat16").saved_bytes(Step())
    stored = new_model(nano_base, dtype="bfloat16", base_weights=stored_as).saved_bytes(Step())
    assert stored <= plain


@torch.no_grad()
def test_rows_of_zeros_and_large_numbers_survive() -> None:
    linear = nn.Linear(4, 3)
    linear.weight.copy_(torch.tensor([[0.0] * 4, [1e4, -1e4, 1.0, 0.0], [1e-6, 0, 0, 0]]))
    for dtype in (torch.float8_e4m3fn, torch.int8):
        stored = StoredLinear.of(linear, dtype)
        back = stored(torch.eye(4)) - linear.bias
        assert torch.allclose(back.T, linear.weight, rtol=1e-5, atol=100)
        assert back.T[2, 0] == pytest.approx(1e-6, rel=1e-2, abs=1e-7)
        assert stored.weight.requires_grad is False

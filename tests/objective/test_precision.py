"""Where autocast is on, and where the loss is scaled."""

import pytest
import torch

from cogvx.objective import precision
from cogvx.objective.precision import casting, is_mixed, is_scaled, scaler_of

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("dtype", "device", "mixed", "scaled"),
    [
        (F32, "cuda", False, False),
        (BF16, "cuda", True, False),
        (F16, "cuda", True, True),
        (F32, "cpu", False, False),
        (BF16, "cpu", False, False),
        (F16, "cpu", False, False),
    ],
)
def test_a_gpu_mixes_and_float16_is_scaled_there(
    dtype: torch.dtype, device: str, mixed: bool, scaled: bool
) -> None:
    assert (is_mixed(dtype, device), is_scaled(dtype, device)) == (mixed, scaled)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_products_and_scales_are_as_the_table_says(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU that mixes shows what a GPU does."""
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with casting(dtype, "cpu"):
        assert layer(x).dtype == F32
    assert not scaler_of(dtype, "cpu").is_enabled()
    monkeypatch.setattr(precision, "_MIXING", {"cpu"})
    with casting(dtype, "cpu"):
        assert layer(x).dtype == dtype
    assert scaler_of(dtype, "cpu").is_enabled() == (dtype == F16)

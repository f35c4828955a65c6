"""In which numbers a step multiplies, decided by the base's precision and the kind of device.

On a GPU a half-precision base runs under autocast, so that the float32 adapter multiplies in half
precision too; on a CPU peft casts at each adapter's border, which is exact and slow. float16 holds
nothing below 6e-8, so its gradients are those of a loss that was scaled up.
"""

import torch

_MIXING = frozenset({"cuda"})


def is_mixed(dtype: torch.dtype, device: str) -> bool:
    """Whether a base in `dtype` runs under autocast on such a device, as "cuda"."""
    return device in _MIXING and dtype in (torch.float16, torch.bfloat16)


def is_scaled(dtype: torch.dtype, device: str) -> bool:
    """Whether the loss is scaled up before its gradient is made."""
    return device in _MIXING and dtype == torch.float16


def casting(dtype: torch.dtype, device: str) -> torch.autocast:
    """What the forward pass runs under."""
    mixed = is_mixed(dtype, device)
    return torch.autocast(device, dtype=dtype if mixed else None, enabled=mixed)


def scaler_of(dtype: torch.dtype, device: str) -> torch.amp.GradScaler:
    """What scales the loss; it leaves the loss alone where that is not needed."""
    return torch.amp.GradScaler(device, enabled=is_scaled(dtype, device))

"""Which of torch's attention kernels is used, and whether this machine has it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from cogvx.errors import ConfigError, Problem

Kernel = Literal["auto", "flash", "efficient", "cudnn", "math"]

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
_TOKENS = 64


@contextmanager
def attention(kernel: Kernel) -> Iterator[None]:
    """Attend with this kernel, in all threads, backward passes included; "auto" leaves it to torch.

    Whoever computes a block again must be inside too: another kernel would give other bits.
    """
    if kernel == "auto":
        yield
        return
    with sdpa_kernel(_BACKENDS[kernel]):
        yield


def require_attention(
    kernel: Kernel, *, head_dim: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Try the kernel forth and back on a few tokens.

    Raises:
        ConfigError: This device cannot, for heads of this width in this precision.
    """
    if kernel == "auto":
        return
    shape = (1, 1, _TOKENS, head_dim)
    query = torch.zeros(shape, dtype=dtype, device=device, requires_grad=True)
    try:
        # torch warns of everything that a kernel lacks, and then raises
        with warnings.catch_warnings(action="ignore"), attention(kernel):
            torch.autograd.backward(scaled_dot_product_attention(query, query, query).sum())
    except RuntimeError as error:
        name = str(dtype).removeprefix("torch.")
        wrong = f"cannot run on {_device_name(device)} with heads of {head_dim} in {name}"
        raise ConfigError(str(Problem("compute.attention", kernel, wrong, 'use "auto"'))) from error


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"

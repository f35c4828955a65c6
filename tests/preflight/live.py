"""What tensors a piece of code holds: those kept for a backward pass, and the most at once."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode


class Live(TorchDispatchMode):
    """Bytes of the storages that live, and the most that did; `known` ones do not count."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, Tensor):
                self._see(tensor)
        self.most = max(self.most, self.now)
        return found

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def kept_bytes(run: Callable[[], object], *, known: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps of what `run` computes, each storage once."""
    apart = {tensor.untyped_storage()._cdata for tensor in known}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in apart:
            kept[key] = tensor  # alive, so that no other takes its place in memory
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@contextmanager
def like_a_gpu(dtype: torch.dtype) -> Iterator[None]:
    """Autocast on the CPU with the one rule of a GPU's that it lacks: norms are in float32.

    Source: torch's documentation of autocast, "CUDA Ops that can autocast to float32".
    """
    norm = functional.layer_norm

    def in_float32(
        x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Tensor:
        parts = [None if part is None else part.float() for part in (weight, bias)]
        return norm(x.float(), shape, *parts, eps)

    functional.layer_norm = in_float32
    try:
        with torch.autocast("cpu", dtype=dtype):
            yield
    finally:
        functional.layer_norm = norm

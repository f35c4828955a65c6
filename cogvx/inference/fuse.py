"""Weights with adapters added into them, and the base's own bits to return to.

Nothing is ever subtracted: in half precision W + D - D is not W. What is changed was copied before,
and every change starts from the copy.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cogvx.adapters.weights import LoraPair, Pairs, fused_weight
from cogvx.errors import IntegrityError

Parts = list[tuple[float, LoraPair]]
"""What one layer's weight holds besides its own: pairs, and what each is multiplied with."""


class FusedLayers:
    """The layers of a model whose weights hold adapters, each with its own bits of before.

    The copies lie in main memory: 3.2 GB for 5b in bfloat16 and an adapter of its attention.
    """

    def __init__(self, model: nn.Module) -> None:
        """Change nothing yet."""
        self._model = model
        self._base: dict[str, Tensor] = {}
        self._added: dict[str, Parts] = {}

    @torch.no_grad()
    def add(self, adapters: Sequence[tuple[float, Pairs]]) -> None:
        """Make every weight the base's own plus these adapters; what was added before is gone.

        Weights are written into the tensors that are there, so a compiled model stays compiled;
        layers that hold what they should are left alone.

        Args:
            adapters: Each with what it is multiplied with; at zero it adds nothing.

        Raises:
            IntegrityError: A sum is not finite in the base's precision; weights of some layers may
                hold it, until `restore` or another `add`.
        """
        wanted: dict[str, Parts] = {}
        for weight, pairs in adapters:
            if weight:  # -0.0 + 0.0 is another zero
                for module, pair in pairs.items():
                    wanted.setdefault(module, []).append((weight, pair))
        self._restore([module for module in self._base if module not in wanted])
        for module, parts in wanted.items():
            if not _same(parts, self._added.get(module, [])):
                self._fuse(module, parts)

    def restore(self) -> None:
        """Give every layer the base's own bits again, and drop the copies."""
        self._restore(list(self._base))

    def keep(self) -> None:
        """Drop the copies, so that there is no way back."""
        self._base.clear()
        self._added.clear()

    def _fuse(self, module: str, parts: Parts) -> None:
        weight_oi = self._weight(module)
        if module not in self._base:
            self._base[module] = weight_oi.detach().to("cpu", copy=True)
        fused_oi = fused_weight(self._base[module], parts)
        if not fused_oi.isfinite().all():
            raise IntegrityError(
                f"{module} is not finite in {fused_oi.dtype} with its adapters; use them at"
                " smaller weights"
            )
        self._added.pop(module, None)  # half a copy is none of the two
        weight_oi.copy_(fused_oi)
        self._added[module] = parts

    @torch.no_grad()
    def _restore(self, modules: Sequence[str]) -> None:
        for module in modules:
            self._added.pop(module, None)
            self._weight(module).copy_(self._base[module])
            del self._base[module]

    def _weight(self, module: str) -> nn.Parameter:
        weight = self._model.get_submodule(module).weight
        assert isinstance(weight, nn.Parameter)
        return weight


def _same(first: Parts, second: Parts) -> bool:
    """Whether two sums are one: matrices are compared by who they are."""
    return len(first) == len(second) and all(
        weight == other and pair is other_pair
        for (weight, pair), (other, other_pair) in zip(first, second, strict=True)
    )

"""Adapters beside the base's weights, as diffusers' own loader puts them there.

diffusers loads them, as it does for everyone; what decides their strength is not left to it. It is
given matrices of strength 1 and of one rank, so that a weight is all that multiplies them.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch.nn import functional

from cogvx.adapters.layout import LORA_A, LORA_B, PREFIX
from cogvx.adapters.weights import LoraPair, Pairs
from cogvx.errors import IntegrityError
from cogvx.inference.pipelines import Pipeline


@dataclass(frozen=True, eq=False)
class _Loaded:
    """What the layers hold under a key."""

    key: str
    pairs: Pairs


class LoraLayers:
    """The LoRA layers of a pipeline's transformer, in the base's precision and on its device."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Without any yet."""
        self._pipeline = pipeline
        self._transformer = pipeline.transformer
        self._loaded: dict[str, _Loaded] = {}
        self._loads = 0
        self._acting: dict[str, float] | None = {}

    def hold(self, adapters: Mapping[str, Pairs], weights: Mapping[str, float]) -> None:
        """Hold exactly these adapters, acting with these weights; one without a weight has none.

        An adapter whose matrices are replaced by others of the same shapes is overwritten in
        place, so that a compiled model stays compiled. New layers are made before old ones go.

        Raises:
            IntegrityError: diffusers made other layers than it was given. After this or any other
                error, holding what was held before puts that back.
        """
        for name, pairs in adapters.items():
            loaded = self._loaded.get(name)
            if loaded is not None and loaded.pairs is pairs:
                continue
            if loaded is not None and _layout(loaded.pairs) == _layout(pairs):
                # said first: half an overwriting is none of the two
                self._loaded[name] = _Loaded(loaded.key, pairs)
                self._overwrite(loaded.key, pairs)
            else:
                self._loaded[name] = _Loaded(self._load(pairs), pairs)
        if not adapters:
            self.drop()
            return
        self._loaded = {name: self._loaded[name] for name in adapters}
        self._weigh({self._loaded[name].key: weights.get(name, 0.0) for name in adapters})
        self._delete_others()

    def drop(self) -> None:
        """Put the plain layers back, the very ones that were there before any adapter."""
        self._loaded, self._acting = {}, {}
        self._pipeline.unload_lora_weights()

    def _load(self, pairs: Pairs) -> str:
        """Make layers under a key of their own, since peft takes no dots in names."""
        key = f"adapter_{self._loads:04d}"
        self._loads += 1
        self._acting = None  # diffusers activates what it loads, and that alone
        dtype = self._transformer.dtype  # diffusers walks the whole model for it
        state = {
            PREFIX + module + end: tensor.to(dtype)
            for module, pair in _of_one_rank(pairs).items()
            for end, tensor in ((LORA_A, pair.a_ri), (LORA_B, pair.b_or))
        }
        try:
            # diffusers draws an adapter before it fills one in
            with _several_on_purpose(), torch.random.fork_rng(devices=[]):
                self._pipeline.load_lora_weights(state, adapter_name=key)
            self._require_all(key, pairs)
        except BaseException:
            self._delete_others()
            raise
        return key

    def _require_all(self, key: str, pairs: Pairs) -> None:
        scales = {name: float(layer.scaling[key]) for name, layer in self._layers(key)}
        if scales.keys() != pairs.keys() or set(scales.values()) != {1.0}:
            raise IntegrityError(
                f"diffusers gave an adapter of {len(pairs)} layers to {len(scales)}, at strengths"
                f" {sorted(set(scales.values()))}"
            )

    @torch.no_grad()
    def _overwrite(self, key: str, pairs: Pairs) -> None:
        padded = _of_one_rank(pairs)
        for name, layer in self._layers(key):
            layer.lora_A[key].weight.copy_(padded[name].a_ri)
            layer.lora_B[key].weight.copy_(padded[name].b_or)

    def _weigh(self, weights: Mapping[str, float]) -> None:
        """Make the layers act with these weights; zero is no adapter at all."""
        acting = {key: weight for key, weight in weights.items() if weight}
        if acting == self._acting:
            return
        self._acting = None
        if acting:
            self._transformer.enable_lora()
            self._transformer.set_adapters(list(acting), list(acting.values()))
        else:
            self._transformer.disable_lora()
        self._acting = acting

    def _delete_others(self) -> None:
        """Delete what is in the model and not held."""
        kept = {loaded.key for loaded in self._loaded.values()}
        others = {key for layer in self._all_layers() for key in layer.lora_A} - kept
        if not kept:
            self.drop()
            return
        with _several_on_purpose():
            for key in sorted(others):
                self._transformer.delete_adapters(key)

    def _layers(self, key: str) -> Iterator[tuple[str, LoraLayer]]:
        for name, part in self._transformer.named_modules():
            if isinstance(part, LoraLayer) and key in part.lora_A:
                yield name, part

    def _all_layers(self) -> Iterable[LoraLayer]:
        return (part for part in self._transformer.modules() if isinstance(part, LoraLayer))


@contextmanager
def _several_on_purpose() -> Iterator[None]:
    """Without peft's warnings about several adapters in one model, which is what we are for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
        yield


def _layout(pairs: Pairs) -> dict[str, tuple[torch.Size, torch.Size]]:
    return {module: (pair.a_ri.shape, pair.b_or.shape) for module, pair in pairs.items()}


def _of_one_rank(pairs: Pairs) -> dict[str, LoraPair]:
    """With zeros to the largest rank: some diffusers divide one alpha by every rank."""
    rank = max(pair.rank for pair in pairs.values())
    return {
        module: LoraPair(
            functional.pad(pair.a_ri, (0, 0, 0, rank - pair.rank)),
            functional.pad(pair.b_or, (0, rank - pair.rank)),
        )
        for module, pair in pairs.items()
    }

"""Several adapters in one model, switched by weight and never merged into it.

diffusers loads them, as it does for everyone; what it lets pass in silence is refused here.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusers import CogVideoXPipeline
from safetensors import SafetensorError, safe_open

from cogvx.errors import ConfigError, IntegrityError, Problem

_LORA_A, _LORA_B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Attached:
    """An adapter in a session: layers that it changes, and alpha / rank as they apply it."""

    name: str
    modules: int
    scale: float


class AdapterMix:
    """The adapters of one pipeline and the weights that they act with."""

    def __init__(self, pipeline: CogVideoXPipeline) -> None:
        """Start with the bare base."""
        self._pipeline = pipeline
        self._transformer = pipeline.transformer
        self._attached: dict[str, Attached] = {}
        self._keys: dict[str, str] = {}
        self._loads = 0
        self._weights: dict[str, float] = {}

    def attach(self, name: str, adapter_file: Path) -> Attached:
        """Load an adapter file the way that every diffusers user does.

        It changes no video before `use` gives it a weight. diffusers accepts a file of which it
        knows only some tensors, or none; here every pair of tensors must have found its layer.

        Raises:
            ConfigError: There is no such file, or the name is taken.
            IntegrityError: The file is no adapter of this model; the session is as before.

        Source: diffusers `CogVideoXLoraLoaderMixin.load_lora_weights`.
        """
        if name in self._attached:
            raise ConfigError(f'an adapter "{name}" is already attached; detach it first')
        pairs = _count_pairs(adapter_file)
        # A key of our own, as peft takes no dots in names, and diffusers looks for a name anywhere
        # in the names of tensors before it warns.
        key = f"adapter_{self._loads:04d}"
        self._loads += 1
        scales = self._load(key, adapter_file)
        if len(scales) != pairs:
            self._forget(key)
            raise IntegrityError(
                f"{adapter_file} holds {pairs} adapted layers, of which {len(scales)} exist in the"
                " base model"
            )
        self._keys[name] = key
        self._attached[name] = Attached(name=name, modules=len(scales), scale=max(scales))
        self._apply()
        return self._attached[name]

    def use(self, weights: Mapping[str, float]) -> None:
        """Set the weight of every adapter; what is not named has none, so `{}` is the base.

        Weights are absolute: 0.5 twice is 0.5. At 1.0 an adapter acts as it was trained.

        Raises:
            ConfigError: An adapter is not attached, or a weight is not finite; nothing changes.
        """
        problems = [
            Problem(f"adapters.{name}", weight, "is not attached", "attach its file first")
            for name, weight in weights.items()
            if name not in self._attached
        ]
        problems += [
            Problem(f"adapters.{name}", weight, "is not finite", "use a number such as 1.0")
            for name, weight in weights.items()
            if not math.isfinite(weight)
        ]
        if problems:
            raise ConfigError("these adapters cannot be used", problems)
        self._weights = dict(weights)
        self._apply()

    def detach(self, name: str) -> None:
        """Remove an adapter from memory; the others keep their weights.

        Raises:
            ConfigError: It is not attached.
        """
        if name not in self._attached:
            raise ConfigError(f'no adapter "{name}" is attached')
        del self._attached[name]
        self._weights.pop(name, None)
        self._forget(self._keys.pop(name))

    def _load(self, key: str, adapter_file: Path) -> list[float]:
        """Load a file under a key; the scale of each layer that it changed."""
        try:
            with warnings.catch_warnings():
                # several adapters in one model are what a session is for
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                self._pipeline.load_lora_weights(
                    adapter_file.parent,
                    weight_name=adapter_file.name,
                    adapter_name=key,
                    local_files_only=True,
                )
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            self._forget(key)
            raise IntegrityError(f"{adapter_file} does not fit the base model: {error}") from error
        return [
            float(module.scaling[key])
            for module in self._transformer.modules()
            if key in getattr(module, "lora_A", ())
        ]

    def _apply(self) -> None:
        """Make the layers agree with `_weights`; a weight of zero is no adapter at all."""
        if not self._attached:
            return
        acting = {self._keys[name]: weight for name, weight in self._weights.items() if weight}
        if acting:
            self._transformer.enable_lora()
            self._transformer.set_adapters(list(acting), list(acting.values()))
        else:
            self._transformer.disable_lora()

    def _forget(self, key: str) -> None:
        """Drop an adapter's tensors; without any left, the plain layers come back."""
        if not self._attached:
            self._pipeline.unload_lora_weights()
            return
        if key in self._transformer.peft_config:
            self._transformer.delete_adapters(key)
        self._apply()


def _count_pairs(adapter_file: Path) -> int:
    """How many layers a file adapts.

    Raises:
        ConfigError: There is no such file.
        IntegrityError: It is no adapter.
    """
    if not adapter_file.is_file():
        raise ConfigError(f"{adapter_file}: there is no such adapter file")
    try:
        with safe_open(adapter_file, framework="pt") as tensors:
            names: list[str] = list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{adapter_file} is damaged: {error}") from error
    ends = {end: _stems(names, end) for end in (_LORA_A, _LORA_B)}
    if not ends[_LORA_A]:
        raise IntegrityError(f"{adapter_file} holds no LoRA tensors in diffusers' form")
    alone = ends[_LORA_A] ^ ends[_LORA_B]
    if alone:
        raise IntegrityError(f"{adapter_file} holds one of two tensors for {min(alone)}")
    return len(ends[_LORA_A])


def _stems(names: list[str], end: str) -> set[str]:
    return {name.removesuffix(end) for name in names if name.endswith(end)}

"""Several adapters in one loaded base, beside its weights or fused into them.

A mix is said, not done: attached files, a weight for each, and at what scale they are fused, if at
all. Whatever came before, the model computes `W + s * sum of w B A`, with s the scale while fused
and 1 otherwise, and a weight or scale of zero gives the base bit for bit. Nothing is ever undone by
subtracting.

Unfused, adapters are LoRA layers in the base's precision, on its device. Fused, there are no LoRA
layers at all, so that generating costs what the bare base costs; the matrices wait in main memory
in float32 either way, and so do the base's own bits of the layers that are fused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cogvx.adapters.card import AdapterCard
from cogvx.errors import ConfigError, Problem
from cogvx.inference.adapter_file import LoadedAdapter, LoadedBase, linear_layers, load_adapter
from cogvx.inference.fuse import FusedLayers
from cogvx.inference.lora_layers import LoraLayers
from cogvx.inference.pipelines import Pipeline
from cogvx.model.quantise import stored_weights
from cogvx.variants import BaseFacts, ImageScale


@dataclass(frozen=True)
class Attached:
    """An adapter in a session.

    Attributes:
        name: What the session calls it.
        file: Where it was read from; nothing of it is read again.
        modules: Layers that it changes.
        rank: The largest of theirs.
        card: Ours, when the file has one.
    """

    name: str
    file: Path
    modules: int
    rank: int
    card: AdapterCard | None


@dataclass(frozen=True)
class _State:
    """All that decides what the model computes."""

    adapters: Mapping[str, LoadedAdapter] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    fused_at: float | None = None


class AdapterMix:
    """The adapters of one pipeline, the weights that they act with, and whether they are fused.

    An act that fails leaves all of them as they were. Weights must be where they can be read and
    written, on any device: no hooks of offloading while adapters change.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        facts: BaseFacts,
        fingerprint: str | None = None,
        image_scale: ImageScale | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start with the bare base.

        Args:
            pipeline: Its transformer without adapters, on any device, and moved at any time.
            facts: Of the base.
            fingerprint: Of the base, which cards are compared with; None if nobody knows it.
            image_scale: What a first frame's latent is scaled with; None for text-to-video.
            folder: Where the base lies, for cards that do not know its bytes.
        """
        self._pipeline = pipeline
        self._base = LoadedBase(
            facts=facts,
            layers=linear_layers(pipeline.transformer),
            dtype=pipeline.transformer.dtype,
            fingerprint=fingerprint,
            image_scale=image_scale,
            folder=folder,
        )
        self._layers = LoraLayers(pipeline)
        self._fused = FusedLayers(pipeline.transformer)
        self._state = _State()
        self._attached: dict[str, Attached] = {}
        self._is_sealed = False

    @property
    def attached(self) -> Mapping[str, Attached]:
        """Adapters by name, in the order in which they came."""
        return dict(self._attached)

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of every adapter that was given one."""
        return dict(self._state.weights)

    @property
    def fused_at(self) -> float | None:
        """The scale at which adapters are fused; None while they are not."""
        return self._state.fused_at

    def attach(self, name: str, adapter_file: Path) -> Attached:
        """Load an adapter file; it changes no video before `use` gives it a weight.

        Raises:
            ConfigError: There is no such file, the name is taken, or the session is sealed.
            IntegrityError: The file is no adapter of this base; the session is as before.
        """
        self._require_open()
        if name in self._attached:
            raise ConfigError(f'an adapter "{name}" is already attached; detach or swap it')
        return self._bring(name, adapter_file)

    def swap(self, name: str, adapter_file: Path) -> Attached:
        """Put another file in an adapter's place, which keeps its name and weight.

        Where layers and ranks agree, only numbers change, so a compiled model stays compiled.

        Raises:
            ConfigError: Nothing of that name is attached, there is no such file, or the session is
                sealed.
            IntegrityError: The file is no adapter of this base; the old one acts as before.
        """
        self._require_attached(name)
        return self._bring(name, adapter_file)

    def use(self, weights: Mapping[str, float]) -> None:
        """Set the weight of every adapter; what is not named has none, so `{}` is the base.

        Weights are absolute: 0.5 twice is 0.5. At 1.0 an adapter acts as it was trained.

        Raises:
            ConfigError: An adapter is not attached, a weight is not finite, or the session is
                sealed; nothing changes.
            IntegrityError: Fused at these weights, the model would not be finite.
        """
        self._require_open()
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
        self._become(replace(self._state, weights=dict(weights)))

    def detach(self, name: str) -> None:
        """Remove an adapter from memory; the others keep their weights.

        Raises:
            ConfigError: It is not attached, or the session is sealed.
        """
        self._require_attached(name)
        state = self._state
        self._become(
            replace(
                state,
                adapters={other: it for other, it in state.adapters.items() if other != name},
                weights={other: it for other, it in state.weights.items() if other != name},
            )
        )
        del self._attached[name]

    def fuse(self, scale: float = 1.0) -> None:
        """Add the adapters into the base's weights, so that they cost no time any more.

        The scale multiplies all weights and is absolute: fusing at 0.5 twice is 0.5. While fused,
        everything can be attached, used, swapped and detached as before; each time the weights are
        made anew from the base's own bits, on the CPU.

        Raises:
            ConfigError: The scale is not finite, or the session is sealed.
            IntegrityError: The sum is not finite in the base's precision; nothing changes.
        """
        self._require_open()
        if not math.isfinite(scale):
            raise ConfigError(str(Problem("scale", scale, "is not finite", "use 1.0")))
        self._become(replace(self._state, fused_at=float(scale)))

    def unfuse(self) -> None:
        """Give the base its own bits back; adapters act beside it, at their weights.

        Raises:
            ConfigError: The session is sealed.
        """
        self._require_open()
        self._become(replace(self._state, fused_at=None))

    def seal(self) -> None:
        """Fuse for good, at the scale at hand or 1, and forget matrices and the base's bits.

        For a base that is stored in 8 bits afterwards: adapters are added before it is rounded.
        Sealing twice is sealing once.

        Raises:
            IntegrityError: The sum is not finite in the base's precision; nothing changes.
        """
        if self._is_sealed:
            return
        self.fuse(1.0 if self.fused_at is None else self.fused_at)
        self._fused.keep()
        self._state = replace(self._state, adapters={})
        self._is_sealed = True

    def _bring(self, name: str, adapter_file: Path) -> Attached:
        if stored_weights(self._pipeline.transformer) != "as_is":
            raise ConfigError(
                "the base is stored in 8 bits already; attach adapters to it as it was loaded"
            )
        adapter = load_adapter(adapter_file, self._base)
        self._become(replace(self._state, adapters={**self._state.adapters, name: adapter}))
        self._attached[name] = Attached(
            name=name,
            file=adapter_file,
            modules=len(adapter.pairs),
            rank=adapter.rank,
            card=adapter.card,
        )
        return self._attached[name]

    def _become(self, state: _State) -> None:
        """Make the model compute what a state says, or go on with what it computed before."""
        try:
            self._make(state)
        except BaseException:
            self._make(self._state)
            raise
        self._state = state

    def _make(self, state: _State) -> None:
        pairs = {name: adapter.pairs for name, adapter in state.adapters.items()}
        if state.fused_at is None:
            self._fused.restore()
            self._layers.hold(pairs, state.weights)
        else:
            self._layers.drop()
            scale = state.fused_at
            self._fused.add(
                [(scale * state.weights.get(name, 0.0), its) for name, its in pairs.items()]
            )

    def _require_open(self) -> None:
        if self._is_sealed:
            raise ConfigError(
                "the adapters of this session are fused for good; open a new session to change them"
            )

    def _require_attached(self, name: str) -> None:
        self._require_open()
        if name not in self._attached:
            raise ConfigError(f'no adapter "{name}" is attached')

"""Proof before rendering: the adapter acts in all its layers at its weight, and not at all at zero.

A loader that silently skips an adapter's keys, or its alpha, yields a plausible and wrong report;
looking at the layers and one forward pass through the transformer find out, at a hundredth of the
cost of a video.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from cogvx.adapters.layout import adapted_modules
from cogvx.errors import IntegrityError
from cogvx.inference.mix import Attached
from cogvx.inference.session import Session
from cogvx.model.rotary import rotary_tables
from cogvx.shapes import VideoSize, frames_to_prepend
from cogvx.variants import OFS, BaseFacts

_TIMESTEP = 500
_SEED = 1
_DIGITS = 6  # of a strength: alpha / rank * weight is computed, not copied


def require_effect(session: Session, weights: Mapping[str, float], arm: str) -> None:
    """Compare one prediction of the base with the arm's, and with its adapters at weight 0.

    Args:
        session: Holds the adapters already; left with none in use.
        weights: What the arm is rendered with.
        arm: For the message.

    Raises:
        IntegrityError: The prediction does not change, changes to something that is not finite, or
            does not return to the base's own bits; or the adapters act in other layers than their
            cards select, or at other strengths.
    """
    session.use({})
    base_bfchw = _predict(session)
    session.use(weights)
    _require_layers(session, weights, arm)
    adapted_bfchw = _predict(session)
    session.use(dict.fromkeys(weights, 0.0))
    silenced_bfchw = _predict(session)
    session.use({})
    if not adapted_bfchw.isfinite().all():
        raise IntegrityError(f"{arm}: with its adapter, the model's output is not finite")
    if torch.equal(adapted_bfchw, base_bfchw):
        raise IntegrityError(f"{arm}: its adapter changes nothing, so it is not applied at all")
    if not torch.equal(silenced_bfchw, base_bfchw):
        raise IntegrityError(f"{arm}: at weight 0 its adapter still changes the model's output")


def _require_layers(session: Session, weights: Mapping[str, float], arm: str) -> None:
    """Count the layers that act in the model itself, by strength; a card's own strength is 1."""
    attached, wanted = session.attached, Counter[float]()
    for name, weight in weights.items():
        if weight:
            wanted[round(weight, _DIGITS)] += _layers_of(attached[name], session.facts)
    found = Counter(
        round(float(layer.scaling[key]), _DIGITS)
        for layer in session.transformer.modules()
        if isinstance(layer, LoraLayer) and not layer.disable_adapters
        for key in layer.active_adapters
        if key in layer.lora_A
    )
    if found != wanted:
        raise IntegrityError(
            f"{arm}: its adapter acts in {_told(found)}, and its card says {_told(wanted)}"
        )


def _layers_of(adapter: Attached, facts: BaseFacts) -> int:
    """As its card selects them in this base; those of its file where it has none."""
    if adapter.card is None:
        return adapter.modules
    return len(adapted_modules(facts.layers, adapter.card.targets, patch_t=facts.patch_t))


def _told(layers: Counter[float]) -> str:
    parts = [f"{count} layers at strength {strength:g}" for strength, count in layers.items()]
    return " and ".join(parts) or "no layer"


@torch.no_grad()
def _predict(session: Session) -> Tensor:
    """One prediction on the smallest video that the model's patches allow, from fixed noise."""
    transformer, facts = session.transformer, session.facts
    size = _smallest(facts)
    latent = facts.compression.latent(size)
    frames = latent.frames + frames_to_prepend(latent.frames, facts.patch_t)
    generator = torch.Generator().manual_seed(_SEED)
    place: dict[str, Any] = {"device": session.device, "dtype": session.dtype}
    shape_bfchw = (1, frames, facts.in_channels, latent.height, latent.width)
    predicted_bfchw: Tensor = transformer(
        hidden_states=torch.randn(shape_bfchw, generator=generator).to(**place),
        encoder_hidden_states=torch.randn(
            (1, facts.text_tokens, facts.text_dim), generator=generator
        ).to(**place),
        timestep=torch.tensor([_TIMESTEP], device=session.device),
        ofs=torch.full((1,), OFS, **place) if facts.variant.has_ofs else None,
        image_rotary_emb=rotary_tables(facts, size, session.device),
        return_dict=False,
    )[0]
    return predicted_bfchw.cpu()


def _smallest(facts: BaseFacts) -> VideoSize:
    """One latent frame of four by four patches; the native size where positions are learned."""
    if facts.variant.fixed_size:
        return facts.sample_size
    side = 4 * facts.patch * facts.compression.spatial
    return VideoSize(1, side, side)

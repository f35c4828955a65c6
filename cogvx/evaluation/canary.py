"""Proof before rendering: the adapter acts at its weight, and not at all at weight zero.

A loader that silently skips an adapter's keys yields a plausible and wrong report; one forward pass
through the transformer finds out, at a hundredth of the cost of a video.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cogvx.errors import IntegrityError
from cogvx.inference.session import Session
from cogvx.model.rotary import rotary_tables
from cogvx.shapes import VideoSize, frames_to_prepend
from cogvx.variants import OFS, BaseFacts

_TIMESTEP = 500
_SEED = 1


def require_effect(session: Session, weights: Mapping[str, float], arm: str) -> None:
    """Compare one prediction of the base with the arm's, and with its adapters at weight 0.

    Args:
        session: Holds the adapters already; left with none in use.
        weights: What the arm is rendered with.
        arm: For the message.

    Raises:
        IntegrityError: The prediction does not change, changes to something that is not finite, or
            does not return to the base's own bits.
    """
    session.use({})
    base_bfchw = _predict(session)
    session.use(weights)
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

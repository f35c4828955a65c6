"""Embeddings of prompts: those that are known already, and T5 for the others, loaded on demand."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from cogvx.errors import IntegrityError
from cogvx.inference.memory import Offload
from cogvx.inference.placement import running
from cogvx.inference.prompts import CachedPrompts
from cogvx.model.encode import encode_prompts
from cogvx.model.load import TextEncoder, load_text, torch_dtype
from cogvx.variants import BaseFacts, DType

_REMEMBERED = 64  # 1.8 MB each at real size
_FILLING = ""

Prompts = Callable[[str], Tensor | None]
"""The embedding `(s, d)` of a prompt, or None where it is not known."""


class Embedder:
    """Embeds prompts one by one; a prompt that was embedded a moment ago is not embedded again.

    Whatever waits in main memory while generating, T5 waits there too: it visits the device for
    each new prompt.
    """

    _text: TextEncoder | None
    _remembered: dict[str, Tensor]

    def __init__(
        self,
        base_folder: Path,
        facts: BaseFacts,
        *,
        dtype: DType,
        device: str,
        offload: Offload,
        prompts: Prompts | None,
    ) -> None:
        """Nothing is loaded yet."""
        self._base_folder = base_folder
        self._facts = facts
        self._dtype = dtype
        self._device = device
        self._offload = offload
        self._prompts = prompts
        self._text = None
        self._remembered = {}

    def embed(self, prompt: str) -> Tensor:
        """The embedding `(1, s, d)` of a prompt, in the session's precision and on its device.

        Raises:
            ConfigError: The base holds no text encoder.
            IntegrityError: A known embedding is not one of this base, or its record is damaged.
        """
        if prompt not in self._remembered:
            while len(self._remembered) >= _REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            known_sd = None if self._prompts is None else self._prompts(prompt)
            embeds_bsd = self._encode(prompt) if known_sd is None else known_sd.unsqueeze(0)
            self._require_fitting(embeds_bsd, prompt)
            self._remembered[prompt] = embeds_bsd.to("cpu", torch_dtype(self._dtype))
        return self._remembered[prompt].to(self._device)

    def _encode(self, prompt: str) -> Tensor:
        """Encode a prompt alone, as diffusers does, or as what is known already was encoded."""
        batch = self._prompts.batch if isinstance(self._prompts, CachedPrompts) else 1
        captions = [prompt] + [_FILLING] * (batch - 1)
        if self._text is None:
            resting = self._device if self._offload == "none" else "cpu"
            self._text = load_text(self._base_folder, dtype=self._dtype, device=resting)
        with running(self._text.encoder, self._device, self._offload):
            return encode_prompts(self._text, captions, self._facts.text_tokens)[:1]

    def _require_fitting(self, embeds_bsd: Tensor, prompt: str) -> None:
        wanted = (1, self._facts.text_tokens, self._facts.text_dim)
        if tuple(embeds_bsd.shape) != wanted:
            raise IntegrityError(
                f"the embedding of {prompt[:80]!r} is {tuple(embeds_bsd.shape[1:])}, but"
                f" {self._facts.variant.name} here takes {wanted[1:]}; it was made for another base"
            )

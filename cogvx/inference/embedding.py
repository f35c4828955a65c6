"""Embeddings of prompts: those that are known already, and T5 for the others, loaded on demand."""

import functools
from pathlib import Path

from torch import Tensor

from cogvx.errors import IntegrityError
from cogvx.inference.memory import Offload
from cogvx.inference.placement import running
from cogvx.inference.prompts import Prompts
from cogvx.model.encode import encode_prompts
from cogvx.model.load import TextEncoder, load_text, torch_dtype
from cogvx.variants import BaseFacts, DType

_REMEMBERED = 64  # 1.8 MB each at real size


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
            IntegrityError: A known embedding is not one of this base, or a new one is not finite.
        """
        if prompt not in self._remembered:
            while len(self._remembered) >= _REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            encode = functools.partial(self._encode, prompt)
            embedding_sd = encode() if self._prompts is None else self._prompts(prompt, encode)
            self._require_fitting(embedding_sd, prompt)
            self._remembered[prompt] = embedding_sd[None].to("cpu", torch_dtype(self._dtype))
        return self._remembered[prompt].to(self._device)

    def _encode(self, prompt: str) -> Tensor:
        """Encode a prompt alone, as diffusers does: `(s, d)`."""
        if self._text is None:
            resting = self._device if self._offload == "none" else "cpu"
            self._text = load_text(self._base_folder, dtype=self._dtype, device=resting)
        with running(self._text.encoder, self._device, self._offload):
            embedding_sd = encode_prompts(self._text, [prompt], self._facts.text_tokens)[0]
        if not embedding_sd.isfinite().all():
            raise IntegrityError(
                f"the embedding of {prompt[:80]!r} is not finite in {self._dtype}; use another"
            )
        return embedding_sd

    def _require_fitting(self, embedding_sd: Tensor, prompt: str) -> None:
        wanted = (self._facts.text_tokens, self._facts.text_dim)
        if tuple(embedding_sd.shape) != wanted:
            raise IntegrityError(
                f"the embedding of {prompt[:80]!r} is {tuple(embedding_sd.shape)}, but"
                f" {self._facts.variant.name} here takes {wanted}; it was made for another base"
            )

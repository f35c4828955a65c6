"""Embeddings of prompts in the record store: each is encoded once, and then nobody loads T5 for it.

Whoever encodes a prompt alone gets these bits, the cache stage with `cache.prompt_batch = 1` too,
so no video follows from what lies in the store by chance.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cogvx.cache.keys import PromptKey
from cogvx.cache.records import pack_prompt, unpack
from cogvx.cache.seal import verify
from cogvx.errors import ConfigError, IntegrityError
from cogvx.model.load import torch_dtype
from cogvx.store import Absent, ObjectStore, read_checked
from cogvx.variants import DType

logger = logging.getLogger(__name__)

# How a session encodes; the last bits follow from it, and the names of videos do not say it.
_ALONE = 1


class Prompts(Protocol):
    """Knows embeddings of prompts."""

    def __call__(self, prompt: str, encode: Callable[[], Tensor]) -> Tensor:
        """The embedding `(s, d)` of a prompt; `encode` makes it where it is not known."""
        ...


@dataclass(frozen=True)
class CachedPrompts:
    """Embeddings under the names that the cache stage gives them; new ones are added.

    Attributes:
        store: Where the records are.
        encoder_fingerprint: Of the text encoder with its tokenizer, `TEXT_PARTS` of a base.
        max_length: Tokens, padding included.
        dtype: What the encoder runs in.
    """

    store: ObjectStore
    encoder_fingerprint: str
    max_length: int
    dtype: DType

    def __call__(self, prompt: str, encode: Callable[[], Tensor]) -> Tensor:
        """The embedding `(s, d)` of a prompt exactly as it is written, not of its normal form.

        A damaged record is made again.

        Raises:
            ConfigError: What `encode` gives is not what is kept here.
            TransientError: The store did not answer this time.
        """
        key = PromptKey(
            text=prompt,
            encoder_fingerprint=self.encoder_fingerprint,
            max_length=self.max_length,
            dtype=self.dtype,
            batch=_ALONE,
        )
        known_sd = self._find(key)
        if known_sd is not None:
            return known_sd
        embedding_sd = encode()
        self._require_kept_kind(embedding_sd)
        self.store.write(key.path, pack_prompt(key, embedding_sd))
        return embedding_sd

    def _find(self, key: PromptKey) -> Tensor | None:
        check = functools.partial(verify, name=key.digest)
        try:
            return unpack(read_checked(self.store, key.path, check), key.digest)
        except Absent:
            return None
        except IntegrityError as error:
            logger.warning("%s; the prompt is encoded again", error)
            return None

    def _require_kept_kind(self, embedding_sd: Tensor) -> None:
        """Training reads these records too, and trusts their names."""
        found = (embedding_sd.shape[0], embedding_sd.dtype)
        if found != (self.max_length, torch_dtype(self.dtype)):
            raise ConfigError(
                f"the session embeds prompts as {found[0]} tokens in {found[1]}, and"
                f" {self.max_length} in {self.dtype} are kept; describe the base that is open"
            )

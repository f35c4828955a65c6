"""Embeddings of prompts from the record store: what the cache stage embedded is found there."""

from dataclasses import dataclass

from torch import Tensor

from cogvx.cache.keys import PromptKey
from cogvx.cache.records import unpack
from cogvx.data.captions import normalise_caption
from cogvx.store import Absent, ObjectStore
from cogvx.variants import DType


@dataclass(frozen=True)
class CachedPrompts:
    """Reads embeddings under the names that the cache stage gives them.

    Attributes:
        store: Where the records are.
        encoder_fingerprint: Of the text encoder with its tokenizer, `TEXT_PARTS` of a base.
        max_length: Tokens, padding included.
        dtype: What the encoder ran in.
        batch: How many captions were encoded at once, a recipe's `cache.prompt_batch`; the last
            bits follow from it, so a session encodes what is not here in the same way.
    """

    store: ObjectStore
    encoder_fingerprint: str
    max_length: int
    dtype: DType
    batch: int

    def __call__(self, prompt: str) -> Tensor | None:
        """The embedding `(s, d)` of a prompt; None where it is not stored.

        Captions are stored in their normal form; a prompt in any other form is none of them.

        Raises:
            IntegrityError: The record is damaged.
            TransientError: The store did not answer this time.
        """
        if prompt != normalise_caption(prompt):
            return None
        key = PromptKey(
            text=prompt,
            encoder_fingerprint=self.encoder_fingerprint,
            max_length=self.max_length,
            dtype=self.dtype,
            batch=self.batch,
        )
        try:
            data = self.store.read(key.path)
        except Absent:
            return None
        return unpack(data, key.digest)

"""Captions through T5, always the same number at once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import count, islice

import torch
from torch import Tensor

from cogvx.cache.keys import PromptKey
from cogvx.cache.plan import EMPTY_CAPTION
from cogvx.cache.records import pack_prompt
from cogvx.encoding.encoders import Encoders
from cogvx.encoding.read_ahead import read_ahead
from cogvx.encoding.uploads import uploading
from cogvx.errors import ConfigError, DataError
from cogvx.model.encode import encode_prompts
from cogvx.model.load import TextEncoder, load_text
from cogvx.recipe import Recipe
from cogvx.store import ObjectStore

_SHOWN = 80
# Asking a store far away takes a tenth of a second.
_ASKERS = 8


def encode_captions(
    prompts: Sequence[PromptKey],
    recipe: Recipe,
    encoders: Encoders,
    *,
    store: ObjectStore,
    on_progress: Callable[[int], None],
) -> int:
    """Make the records of captions, except those that the store holds by then.

    The last bits of an embedding follow from how many captions are encoded at once, so the last
    batch is filled up with empty ones.

    Args:
        prompts: All with the recipe's settings.
        recipe: Says the precision and the number of captions at once.
        encoders: Where the text encoder is, and where it runs.
        store: Where the records go.
        on_progress: Called with how many captions are done with.

    Returns:
        How many records were made.

    Raises:
        DataError: An embedding is not finite in the recipe's precision.
        ConfigError: The GPU is too small for so many captions, or the store cannot be written.
        TransientError: The store did not answer this time.
    """
    text = load_text(encoders.folder, dtype=recipe.base.dtype, device=encoders.device)
    numbers = count(1)
    made = 0

    def ask(key: PromptKey) -> PromptKey | None:
        return key if store.info(key.path) is None else None

    def lacking() -> Iterator[PromptKey]:
        for key in asked:
            if key is None:
                on_progress(next(numbers))
            else:
                yield key

    with (
        uploading(store, lambda: on_progress(next(numbers))) as uploads,
        closing(read_ahead(ask, prompts, threads=_ASKERS, ahead=2 * _ASKERS)) as asked,
    ):
        for batch in _batches(lacking(), recipe.cache.prompt_batch):
            for key, embedding_sd in zip(batch, _encode(text, batch), strict=False):
                uploads.put(_named(key), [(key.path, partial(pack_prompt, key, embedding_sd))])
            made += len(batch)
    return made


def _encode(text: TextEncoder, batch: Sequence[PromptKey]) -> Tensor:
    """Embeddings of the batch's captions, then of what fills it up, on the CPU."""
    first = batch[0]
    captions = [key.text for key in batch]
    filled = captions + [EMPTY_CAPTION] * (first.batch - len(batch))
    try:
        embeddings_bsd = encode_prompts(text, filled, first.max_length).cpu()
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"cache.prompt_batch = {first.batch} captions do not fit into the GPU's memory at once;"
            " use a smaller number"
        ) from error
    for key, embedding_sd in zip(batch, embeddings_bsd, strict=False):
        if not embedding_sd.isfinite().all():
            raise DataError(
                f"the embedding of {_named(key)} is not finite in {key.dtype}; change base.dtype"
            )
    return embeddings_bsd


def _batches(keys: Iterator[PromptKey], size: int) -> Iterator[tuple[PromptKey, ...]]:
    while batch := tuple(islice(keys, size)):
        yield batch


def _named(key: PromptKey) -> str:
    shown = key.text if len(key.text) <= _SHOWN else f"{key.text[:_SHOWN]}..."
    return f'the caption "{shown}"'

"""One cached record: a safetensors file that says what it holds, what made it, and its checksum.

A record of latents, or of a first frame, keeps the posterior's mean and log-variance, unscaled and
unpadded, so that every epoch draws fresh latents and models with the same VAE share it.

The label is one metadata entry of canonical JSON, because safetensors writes several in no fixed
order and equal records should be equal bytes. `cogvx.cache.seal` knows its checksum.
"""

from dataclasses import asdict

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cogvx.cache.keys import ImageKey, LatentKey, PromptKey
from cogvx.cache.seal import LABEL, checksum, verify
from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError

MOMENTS = "moments_cfhw"
EMBEDDING = "embedding_sd"
_AXES = {MOMENTS: "2*channels, frames, height, width", EMBEDDING: "tokens, width"}


def pack_latents(key: LatentKey, moments_cfhw: Tensor) -> bytes:
    """Serialise the posterior of one clip: mean and log-variance stacked on channels."""
    return _pack(MOMENTS, moments_cfhw, key)


def pack_image(key: ImageKey, moments_cfhw: Tensor) -> bytes:
    """Serialise the posterior of one noised first frame, which is a video of one frame."""
    return _pack(MOMENTS, moments_cfhw, key)


def pack_prompt(key: PromptKey, embedding_sd: Tensor) -> bytes:
    """Serialise the embedding of one caption, padding included."""
    return _pack(EMBEDDING, embedding_sd, key)


def unpack(data: bytes, name: str) -> Tensor:
    """Read the tensor of the record called `name`, after verifying that it is that record.

    Raises:
        IntegrityError: The bytes are torn, altered, or another record's.
    """
    verify(data, name)
    try:
        ((_, tensor),) = load(data).items()
    except (SafetensorError, ValueError) as error:
        raise IntegrityError(f"record {name} is damaged: {error}") from error
    verified: Tensor = tensor
    return verified


def _pack(tensor_name: str, tensor: Tensor, key: LatentKey | ImageKey | PromptKey) -> bytes:
    whole = tensor.detach().cpu().contiguous()
    shape, dtype = list(whole.shape), str(whole.dtype).removeprefix("torch.")
    label: dict[str, object] = {
        "key": key.digest,
        "axes": _AXES[tensor_name],
        "shape": shape,
        "dtype": dtype,
        "made_from": asdict(key),
    }
    # Flattened first: a scalar cannot be viewed as bytes.
    elements = whole.reshape(-1).view(torch.uint8).numpy().data
    label["sha256"] = checksum(label, tensor_name, dtype=dtype, shape=shape, elements=elements)
    packed: bytes = save({tensor_name: whole}, {LABEL: canonical_json(label).decode()})
    return packed

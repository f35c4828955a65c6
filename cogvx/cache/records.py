"""One cached record: a safetensors file that says what it holds, what made it, and its checksum.

A record of latents keeps the posterior's mean and log-variance, unscaled and unpadded, so that
every epoch draws fresh latents and models with the same VAE share it.
"""

import hashlib
import json
from dataclasses import asdict

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cogvx.cache.keys import LatentKey, PromptKey
from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError

MOMENTS = "moments_cfhw"
EMBEDDING = "embedding_sd"
_AXES = {MOMENTS: "2*channels, frames, height, width", EMBEDDING: "tokens, width"}


def pack_latents(key: LatentKey, moments_cfhw: Tensor) -> bytes:
    """Serialise the posterior of one clip: mean and log-variance stacked on channels."""
    return _pack(MOMENTS, moments_cfhw, key)


def pack_prompt(key: PromptKey, embedding_sd: Tensor) -> bytes:
    """Serialise the embedding of one caption, padding included."""
    return _pack(EMBEDDING, embedding_sd, key)


def unpack(data: bytes, name: str) -> Tensor:
    """Read the tensor of the record called `name`, after verifying that it is that record.

    Raises:
        IntegrityError: The bytes are torn, altered, or another record's.
    """
    try:
        tensors = load(data)
        metadata = _metadata(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise IntegrityError(f"record {name} is damaged: {error}") from error
    if metadata.get("key") != name or len(tensors) != 1:
        raise IntegrityError(f"record {name} says that it is {metadata.get('key')}")
    ((tensor_name, tensor),) = tensors.items()
    if metadata.get("sha256") != _checksum(tensor_name, tensor):
        raise IntegrityError(f"record {name} is damaged: its checksum does not match")
    verified: Tensor = tensor
    return verified


def describe(data: bytes) -> dict[str, str]:
    """What a record says of itself, without its tensor."""
    return _metadata(data)


def _pack(tensor_name: str, tensor: Tensor, key: LatentKey | PromptKey) -> bytes:
    whole = tensor.detach().cpu().contiguous()
    metadata = {
        "key": key.digest,
        "axes": _AXES[tensor_name],
        "shape": "x".join(str(extent) for extent in whole.shape),
        "dtype": str(whole.dtype).removeprefix("torch."),
        "sha256": _checksum(tensor_name, whole),
        "made_from": canonical_json(asdict(key)).decode(),
    }
    packed: bytes = save({tensor_name: whole}, metadata)
    return packed


def _checksum(tensor_name: str, tensor: Tensor) -> str:
    hasher = hashlib.sha256(f"{tensor_name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    hasher.update(tensor.view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _metadata(data: bytes) -> dict[str, str]:
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_bytes])
    return dict(header.get("__metadata__") or {})

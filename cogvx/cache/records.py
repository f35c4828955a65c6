"""One cached record: a safetensors file that says what it holds, what made it, and its checksum.

A record of latents, or of a first frame, keeps the posterior's mean and log-variance, unscaled and
unpadded, so that every epoch draws fresh latents and models with the same VAE share it.

The label is one metadata entry of canonical JSON, because safetensors writes several in no fixed
order and equal records should be equal bytes. The checksum covers the label and the tensor.
"""

import hashlib
import json
from dataclasses import asdict

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cogvx.cache.keys import ImageKey, LatentKey, PromptKey
from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError

MOMENTS = "moments_cfhw"
EMBEDDING = "embedding_sd"
LABEL = "record"
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
    try:
        # Verifies that the header ends inside the file and that the tensors fill the rest.
        tensors = load(data)
        label = _read_label(data)
        promised = label.pop("sha256", None)
        ((tensor_name, tensor),) = tensors.items()
        checksum = _checksum(label, tensor_name, tensor)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise IntegrityError(f"record {name} is damaged: {error}") from error
    if label.get("key") != name:
        raise IntegrityError(
            f"record {name} is damaged: it says that it is {label.get('key')!s:.80}"
        )
    if checksum != promised:
        raise IntegrityError(f"record {name} is damaged: its checksum does not match")
    verified: Tensor = tensor
    return verified


def _pack(tensor_name: str, tensor: Tensor, key: LatentKey | ImageKey | PromptKey) -> bytes:
    whole = tensor.detach().cpu().contiguous()
    label: dict[str, object] = {
        "key": key.digest,
        "axes": _AXES[tensor_name],
        "shape": list(whole.shape),
        "dtype": str(whole.dtype).removeprefix("torch."),
        "made_from": asdict(key),
    }
    label["sha256"] = _checksum(label, tensor_name, whole)
    packed: bytes = save({tensor_name: whole}, {LABEL: canonical_json(label).decode()})
    return packed


def _checksum(label: dict[str, object], tensor_name: str, tensor: Tensor) -> str:
    """Sha256 of the label without its checksum, the header's own facts, and the elements."""
    hasher = hashlib.sha256(canonical_json(label))
    hasher.update(f"{tensor_name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    # Flattened first: a scalar cannot be viewed as bytes.
    hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _read_label(data: bytes) -> dict[str, object]:
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_bytes])
    label = json.loads((header.get("__metadata__") or {})[LABEL])
    if not isinstance(label, dict):
        raise ValueError("its label is not an object")  # noqa: TRY004 - the bytes are wrong
    return label

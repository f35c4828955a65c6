"""A model's weights on disk as diffusers lays them out, read and written one tensor at a time.

A checkpoint of 10 GB passes through memory layer by layer: where everything will lie is known from
the headers alone, so a file's own header is written first and its tensors follow.

Source: diffusers `ModelMixin.save_pretrained` and its index of shards; the safetensors format.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cogvx.adapters.container import TensorInfo, read_header
from cogvx.digest import canonical_json
from cogvx.errors import ConfigError, IntegrityError

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = WEIGHTS + ".index.json"

_LENGTH_BYTES, _ALIGNMENT = 8, 8
_METADATA = {"format": "pt"}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, without its numbers."""

    file: Path
    info: TensorInfo


def stored_tensors(part: Path) -> dict[str, Stored]:
    """Where every tensor of a model lies, in the order of its files.

    Args:
        part: Subfolder of a diffusers folder, with one file of weights or an index of shards.

    Raises:
        ConfigError: There are no weights in safetensors.
        IntegrityError: The index and the files do not agree, or a file is damaged.
    """
    index = part / INDEX
    files = _files_of(index) if index.is_file() else [part / WEIGHTS]
    if not files[0].is_file():
        raise ConfigError(f"{part} holds no {WEIGHTS}, nor shards of it")
    found = {
        name: Stored(file, info)
        for file in files
        for name, info in read_header(file).tensors.items()
    }
    if index.is_file():
        _require_agreement(index, found)
    return found


def write_tensors(
    part: Path, stored: Mapping[str, Stored], *, shard_bytes: int, read: Callable[[str], Tensor]
) -> None:
    """Write tensors of the same types and shapes as those that are `stored`, in one file or more.

    Args:
        part: An empty folder.
        stored: What the new files will hold, in this order.
        shard_bytes: No file is larger, unless it holds one tensor that is.
        read: Gives a tensor by its name; called once for each.
    """
    shards = _planned(stored, shard_bytes)
    weights: dict[str, str] = {}
    stem, suffix = WEIGHTS.rsplit(".", 1)
    for number, names in enumerate(shards, start=1):
        file = WEIGHTS
        if len(shards) > 1:
            file = f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}"
        _write(part / file, names, stored=stored, read=read)
        weights |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(tensor.info.num_bytes for tensor in stored.values())
        document = {"metadata": {"total_size": total}, "weight_map": weights}
        text = json.dumps(document, indent=2, sort_keys=True)
        (part / INDEX).write_text(text + "\n")


@contextmanager
def reader(stored: Mapping[str, Stored]) -> Iterator[Callable[[str], Tensor]]:
    """Reads tensors by their names while the block lasts.

    Raises:
        IntegrityError: A file is not what its header says.
    """
    with ExitStack() as stack:
        opened: dict[Path, Any] = {}

        def read(name: str) -> Tensor:
            file = stored[name].file
            try:
                if file not in opened:
                    opened[file] = stack.enter_context(safe_open(file, framework="pt"))
                tensor: Tensor = opened[file].get_tensor(name)
            except (SafetensorError, OSError, RuntimeError) as error:
                raise IntegrityError(f"{file} is damaged: {error}") from error
            return tensor

        yield read


def _files_of(index: Path) -> list[Path]:
    """The shards that an index names, which lie beside it."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{index} is no index of shards: {error}") from error
    if not names or any(Path(str(name)).name != name for name in names):
        raise IntegrityError(f"{index} is no index of shards: it names files elsewhere, or none")
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise IntegrityError(f"{index.parent} lacks {len(absent)} shards, such as {absent[0]}")
    return [index.parent / name for name in names]


def _require_agreement(index: Path, found: Mapping[str, Stored]) -> None:
    said = json.loads(index.read_bytes())["weight_map"]
    lacking = [
        name for name, file in said.items() if name not in found or found[name].file.name != file
    ]
    surplus = sorted(found.keys() - said.keys())
    if lacking or surplus:
        raise IntegrityError(
            f"{index} and its shards do not agree on {len(lacking) + len(surplus)} tensors, "
            f"such as {[*lacking, *surplus][0]}"
        )


def _planned(stored: Mapping[str, Stored], shard_bytes: int) -> list[list[str]]:
    """Names by file: each file is filled up in the given order."""
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, tensor in stored.items():
        if shards[-1] and tensor.info.num_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= tensor.info.num_bytes
    return shards


def _write(
    path: Path,
    names: Sequence[str],
    *,
    stored: Mapping[str, Stored],
    read: Callable[[str], Tensor],
) -> None:
    """Write one file: its header, then tensor after tensor, wide numbers first.

    That order keeps every tensor at a multiple of its numbers' width, as the format asks.
    """
    infos = {name: stored[name].info for name in names}
    ordered = sorted(names, key=lambda name: (-_width(infos[name]), name))
    header, begin = {}, 0
    for name in ordered:
        end = begin + infos[name].num_bytes
        header[name] = {
            "dtype": infos[name].dtype,
            "shape": list(infos[name].shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = canonical_json({**header, "__metadata__": _METADATA})
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for name in ordered:
            file.write(_raw(read(name)))


def _width(info: TensorInfo) -> int:
    """Bytes of one number."""
    return TensorInfo(info.dtype, ()).num_bytes


def _raw(tensor: Tensor) -> memoryview:
    """A tensor's bytes as they lie in memory, which is how the format keeps them."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data

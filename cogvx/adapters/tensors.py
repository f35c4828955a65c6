"""The tensors of a file, whichever container it is: what they are at once, their numbers on demand.

Nothing is made before its size is known from the header and was found to fit into the file.
"""

import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.adapters.container import TensorInfo, read_header
from cogvx.adapters.kohya import KOHYA_FILE
from cogvx.adapters.layout import TORCH_SUFFIXES
from cogvx.adapters.sat import sat_checkpoint
from cogvx.adapters.spelling import spelling_of
from cogvx.adapters.torch_file import ZIP_MAGIC, open_torch, torch_dictionaries
from cogvx.errors import ConfigError, IntegrityError, Problem

_FILES = (
    ADAPTER_FILE,
    "adapter_model.safetensors",
    "lora_diffusion_pytorch_model.safetensors",
    KOHYA_FILE,
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
_PICKLE = b"\x80"


class Tensors(Protocol):
    """A file's tensors; `infos` tells each one's type and shape, `read` gives its numbers."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """By name."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself."""

    def read(self, name: str) -> Tensor:
        """One tensor, as it is stored."""


@dataclass(frozen=True)
class SafeTensors:
    """The tensors of a safetensors file."""

    infos: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    opened: Any

    def read(self, name: str) -> Tensor:
        """One tensor, as it is stored."""
        tensor: Tensor = self.opened.get_tensor(name)
        return tensor


def adapter_file(path: Path) -> Path:
    """The file that a person means who names a file, or the folder that a program wrote.

    Raises:
        ConfigError: There is nothing, or it is not clear which of several files is meant.
    """
    if not path.is_dir():
        if not path.exists():
            raise ConfigError(f"{path} is not there; name an adapter file, or its folder")
        return path
    if checkpoint := sat_checkpoint(path):
        return checkpoint
    found = [path / name for name in _FILES if (path / name).is_file()]
    found = found or [file for file in sorted(path.glob("*.safetensors")) if file.is_file()]
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found[:5])
    raise ConfigError(
        f"{path} holds several adapter files ({names}); name one of them"
        if found
        else f"{path} holds no adapter file; name the file"
    )


@contextmanager
def open_tensors(path: Path) -> Iterator[Tensors]:
    """Open an adapter file of any container, from anywhere.

    Of a torch checkpoint it is the one dictionary in which an adapter's names stand.

    Raises:
        IntegrityError: The file is damaged, lies about its size, or would run code.
        ConfigError: A checkpoint holds several adapters.
    """
    if _is_zip(path):
        dictionaries = torch_dictionaries(path)
        places = [place for place, infos in dictionaries.items() if spelling_of(path, infos)]
        if len(places) > 1:
            wrong = "holds several adapters: " + ", ".join(".".join(place) for place in places)
            raise ConfigError(str(Problem(str(path), None, wrong, "save the one that is meant")))
        if not places:
            raise IntegrityError(f"{path} is a checkpoint of torch without an adapter in it")
        with open_torch(path, places[0], dictionaries[places[0]]) as opened:
            yield opened
        return
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield SafeTensors(header.tensors, header.metadata, file)
    except (SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}") from error


def _is_zip(path: Path) -> bool:
    """Whether torch wrote the file.

    Raises:
        IntegrityError: It did so without the zip, as old versions do; such a file is a program.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for its writer
            raise IntegrityError(f"{path} is not a file")
        with path.open("rb") as file:
            start = file.read(len(ZIP_MAGIC))
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith(_PICKLE) and path.suffix in TORCH_SUFFIXES:
        raise IntegrityError(
            f"{path} is a bare pickle, which runs as a program when it is loaded; where it comes "
            "from, save its tensors with safetensors or a newer torch"
        )
    return start == ZIP_MAGIC

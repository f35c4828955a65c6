"""What a stopped pretraining goes on from: tensors and a step, whole or absent, never pickled."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cogvx import files
from cogvx.errors import IntegrityError
from cogvx.pretraining.optimiser import Optimiser

_MODEL, _OPTIMISER = "model/", "optimiser/"


@dataclass(frozen=True)
class Journal:
    """Who hears of progress, after how many steps, and the seconds between two saved states."""

    report: Callable[[str], None]
    every: int = 50
    save_seconds: float = 120.0


@dataclass
class Progress:
    """How far one of the two trainings is; `seconds` counts those before an interruption too."""

    step: int = 0
    seconds: float = 0.0


def save_state(
    path: Path, parameters: Mapping[str, nn.Parameter], *, optimiser: Optimiser, progress: Progress
) -> None:
    """Replace the state at `path` by the present one."""
    tensors = {_MODEL + name: value.detach() for name, value in parameters.items()}
    tensors |= {_OPTIMISER + name: value for name, value in optimiser.state().items()}
    plain = {name: value.contiguous().clone() for name, value in tensors.items()}
    metadata = {"step": str(progress.step), "seconds": str(progress.seconds)}
    files.write_file(path, lambda aside: save_file(plain, aside, metadata=metadata))


def load_state(
    path: Path, parameters: Mapping[str, nn.Parameter], *, optimiser: Optimiser
) -> Progress:
    """Put the state at `path` into the parameters and the optimiser; without a file, do nothing.

    Raises:
        IntegrityError: The file is damaged, or of another model.
    """
    if not path.exists():
        return Progress()
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _fill(parameters, _under(tensors, _MODEL))
        optimiser.set_state(_under(tensors, _OPTIMISER))
        return read_progress(path)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IntegrityError(f"{path} cannot be resumed: {error}; remove the folder") from error


def read_progress(path: Path) -> Progress:
    """How far the state at `path` is."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    return Progress(step=int(metadata["step"]), seconds=float(metadata["seconds"]))


@torch.no_grad()
def _fill(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    if parameters.keys() != tensors.keys():
        raise ValueError("it holds the weights of another model")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }

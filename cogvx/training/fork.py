"""A new run that begins with another run's weights: `fork.safetensors` in its folder.

Only weights are taken over. They stand there as in a checkpoint, alpha not baked in.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load, load_file, save
from torch import Tensor

from cogvx.adapters.card import AdapterCard
from cogvx.adapters.export import bake
from cogvx.adapters.layout import PREFIX
from cogvx.digest import sha256_bytes, sha256_file
from cogvx.errors import ConfigError, IntegrityError
from cogvx.files import write_bytes
from cogvx.runs.folder import Fork, RunFolder, RunSpec
from cogvx.runs.saved import CheckpointState
from cogvx.training.checkpoint import LORA, tensor_file


def weights_of_checkpoint(checkpoint: Path, state: CheckpointState) -> dict[str, Tensor]:
    """The adapter's weights in a checkpoint's folder.

    Raises:
        IntegrityError: They are not what was written, or gone.
    """
    path = checkpoint / tensor_file(LORA)
    if not path.is_file() or sha256_file(path) != state.sha256.get(path.name):
        raise IntegrityError(f"{path} is not what was written; remove {checkpoint}, and run again")
    weights: dict[str, Tensor] = load_file(path)
    return weights


def weights_of_adapter(path: Path, card: AdapterCard) -> dict[str, Tensor]:
    """The weights in an adapter file of ours, as they were before they were exported."""
    baked = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(path).items()}
    return bake(baked, 1 / card.scale)


def write_fork(folder: RunFolder, weights: Mapping[str, Tensor], *, run: str, step: int) -> Fork:
    """Put weights where the trainer looks for them; `run` and `step` say whose they are."""
    data = save(dict(weights))
    write_bytes(folder.fork, data)
    return Fork(run=run, step=step, sha256=sha256_bytes(data))


def read_fork(folder: RunFolder, spec: RunSpec) -> dict[str, Tensor] | None:
    """The weights that a new run begins with; None for one that begins with fresh ones.

    Raises:
        ConfigError: The recipe names a run that nobody brought the weights of.
        IntegrityError: The file is not what was brought.
    """
    wanted, fork = spec.recipe.train.fork_of, spec.fork
    if wanted is None:
        return None
    if fork is None or fork.run != wanted:
        raise ConfigError(
            f'train.fork_of = "{wanted}", but {folder.spec} names no weights to begin with; start '
            "the run with `cogvx train`, which brings them"
        )
    data = folder.fork.read_bytes() if folder.fork.is_file() else b""
    if sha256_bytes(data) != fork.sha256:
        raise IntegrityError(
            f"{folder.fork} does not hold the weights of step {fork.step} that {folder.spec} "
            "names; start the run with `cogvx train`, which brings them again"
        )
    weights: dict[str, Tensor] = load(data)
    return weights

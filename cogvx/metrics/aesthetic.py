"""How well people would like a video's frames: a linear head on CLIP, as VBench uses it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cogvx.digest import digest, sha256_file
from cogvx.errors import ConfigError, Problem
from cogvx.metrics.encoder_files import HEAD, missing_files, own_network
from cogvx.metrics.encoders import Encoder, open_encoder
from cogvx.metrics.similarity import Rows, unit_rows
from cogvx.model.hashes import FileHashes


@dataclass(frozen=True)
class Aesthetic:
    """A head and the CLIP whose features it reads."""

    encoder: Encoder
    weight_d: NDArray[np.float64]
    bias: float
    identity: str

    def score(self, features_fd: Rows) -> float:
        """Mean over the frames of the head's mark divided by 10; about 0..1, more is better.

        Args:
            features_fd: Of every frame, by `encoder`.

        Source: VBench `aesthetic_quality.py`; the head that it uses is LAION's
        `sa_0_4_vit_l_14_linear` on CLIP ViT-L/14.
        """
        return float((unit_rows(features_fd) @ self.weight_d + self.bias).mean() / 10.0)


def open_aesthetic(
    path: Path, clip: Encoder | None, *, device: str = "cpu", hashes: FileHashes | None = None
) -> Aesthetic:
    """Load a head, and its CLIP where the folder brings one.

    Args:
        path: A safetensors file with `weight` and `bias`, or a folder with it as head.safetensors
            and perhaps config.json and model.safetensors of its CLIP.
        clip: The network whose features it reads if it brings none.
        device: As for `open_encoder`, and so is `hashes`.
        hashes: See there.

    Raises:
        ConfigError: Files are missing, or the head is for features of another width.
    """
    beside = () if clip is None else ("clip",)
    if problems := missing_files("aesthetic", path, where="aesthetic", beside=beside):
        raise ConfigError("encoders", problems)
    file = path / HEAD if path.is_dir() else path
    weight_d, bias = _read_head(file)
    if own_network(path):
        encoder = open_encoder("clip", path, device=device, hashes=hashes)
    else:
        assert clip is not None, "missing_files has looked"
        encoder = clip
    width = int(encoder.model.config.projection_dim)
    if len(weight_d) != width:
        wrong = f"is for features of {len(weight_d)}, and its CLIP's have {width}"
        use = "LAION's heads named vit_l_14 are for openai/clip-vit-large-patch14"
        raise ConfigError("encoders", [Problem("aesthetic", str(file), wrong, use)])
    identity = digest({"head": sha256_file(file), "encoder": encoder.identity})
    return Aesthetic(encoder, weight_d, bias, identity)


def _read_head(file: Path) -> tuple[NDArray[np.float64], float]:
    """The weight of each feature, and the bias."""
    try:
        tensors = load_file(file)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ConfigError(f"aesthetic head {file} cannot be loaded: {error}") from error
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or bias is None or weight.ndim != 2 or len(weight) != 1 or bias.size != 1:
        told = ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
        raise ConfigError(
            f"aesthetic head {file} holds {told or 'nothing'}; it must be one linear layer with a"
            " single output: weight [1, d] and bias [1]"
        )
    return weight[0].astype(np.float64), float(bias.reshape(-1)[0])

"""SAT's names: the original training code of CogVideoX keeps its LoRA inside whole checkpoints.

A folder `1000/mp_rank_00_model_states.pt` holds everything, the captions' encoder and the VAE with
it, 26 GB for 5b. The LoRA is the tensors called `matrix_A` and `matrix_B`: of the joint projection
of query, key and value by number, and of the output's projection. No matrix is transposed. SAT
multiplies with alpha over rank and writes alpha down nowhere; it is 1 unless someone changed it.

Source: CogVideo `tools/export_sat_lora_weight.py` for the names; SwissArmyTransformer `lora2.py`
for the strength.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from cogvx.adapters.linears import BLOCK
from cogvx.errors import ConfigError, Problem

SAT_FILE = "mp_rank_00_model_states.pt"
SAT_ALPHA = 1.0
SAT_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")

_POINTER = "latest"
_MAX_POINTER = 256
_PARTS = {
    "attn1.to_q": ("query_key_value", 0),
    "attn1.to_k": ("query_key_value", 1),
    "attn1.to_v": ("query_key_value", 2),
    "attn1.to_out.0": ("dense", 0),
}
_NAME = re.compile(
    r"(?P<prefix>(?:\w+\.){0,8})layers\.\d+\.attention\.(?:query_key_value|dense)\.matrix_[AB]\.\d"
)


def sat_prefixes(names: Iterable[str]) -> set[str]:
    """What stands before `layers.0.attention...`, such as model.diffusion_model.transformer."""
    return {found["prefix"] for name in names if (found := _NAME.fullmatch(name))}


def is_sat_matrix(name: str) -> bool:
    """Whether a tensor belongs to a LoRA of SAT, also of a layer that nobody here knows."""
    return ".matrix_A." in name or ".matrix_B." in name


def sat_names(prefix: str, module: str) -> tuple[str, str] | None:
    """SAT's names of A and B for a module; None when SAT adapts no such module."""
    if not module.startswith(BLOCK):
        return None
    layer, end = module.removeprefix(BLOCK).split(".", 1)
    if end not in _PARTS:
        return None
    part, number = _PARTS[end]
    stem = f"{prefix}layers.{layer}.attention.{part}.matrix_"
    return f"{stem}A.{number}", f"{stem}B.{number}"


def sat_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in a folder that SAT wrote, the one that `latest` names; None without any.

    Raises:
        ConfigError: The pointer leads nowhere, or the checkpoint is cut over several files.
    """
    found = folder / SAT_FILE
    pointer = folder / _POINTER
    if not found.is_file() and pointer.is_file():
        with pointer.open("rb") as file:
            name = file.read(_MAX_POINTER).decode("utf-8", "replace").strip()
        if not re.fullmatch(r"\w[\w.-]*", name) or not (folder / name / SAT_FILE).is_file():
            raise ConfigError(f"{pointer} names no checkpoint beside it; name the file itself")
        found = folder / name / SAT_FILE
    if not found.is_file():
        return None
    if (found.parent / SAT_FILE.replace("_00_", "_01_")).exists():
        wrong = "is one of several parts of a model in parallel, and half an adapter is none"
        raise ConfigError(str(Problem(str(found), None, wrong, "merge the parts with SAT first")))
    return found

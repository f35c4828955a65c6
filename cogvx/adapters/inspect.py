"""What an adapter file is, told from the file alone: its form, its strength, its layers, its card.

Files of other programs are described too, since a person asks before they convert or load one. What
is wrong with a file is listed rather than raised, unless nothing of it can be relied on.
"""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from cogvx.adapters.base import Base
from cogvx.adapters.card import AdapterCard
from cogvx.adapters.contents import Contents, contents_of
from cogvx.adapters.layout import AdapterForm
from cogvx.adapters.linears import local_name
from cogvx.adapters.measure import Size, size_of
from cogvx.adapters.remarks import base_notes, base_problems, notes, problems, targets_of
from cogvx.adapters.tensors import adapter_file, open_tensors

_KeyT = TypeVar("_KeyT", int, str)
_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
_ATTENTION = "attn1."


class AdapterDescription(BaseModel):
    """What a file holds and what a loader makes of it.

    Attributes:
        path: The file itself, where a folder was named.
        form: Whose names the tensors have; only `diffusers` loads into a pipeline.
        rank: The largest of its pairs'; None when it has none.
        alpha: What the file records, or a program's unwritten rule; what it was trained with,
            unless there is a card.
        alpha_from: Where the file records it; None when it does not.
        loaded_alpha: The alpha that diffusers applies; None when it loads nothing.
        modules: Pairs of matrices.
        targets: Ends of the names of its modules, in the model's order.
        layers: Transformer blocks that have at least one pair.
        norms: By block, the norm of everything that the adapter adds to it, as it is loaded.
        target_norms: The same by target.
        effective_rank: How many ranks hold 99 % of a layer's squared norm, in the middle layer.
        card: Ours, when the file has one.
        problems: What keeps the file from acting as it was trained, a sentence each.
        notes: What else a person may want to know, a sentence each.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")

    path: Path
    form: AdapterForm
    rank: int | None
    alpha: float | None
    alpha_from: str | None
    loaded_alpha: float | None
    modules: int
    targets: tuple[str, ...]
    layers: int
    norms: dict[int, float]
    target_norms: dict[str, float]
    effective_rank: int | None
    card: AdapterCard | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def strength(self) -> float | None:
        """What diffusers multiplies the adapter's output with."""
        if self.rank is None or self.loaded_alpha is None:
            return None
        return self.loaded_alpha / self.rank


def describe(path: Path, base: Base | None = None) -> AdapterDescription:
    """Describe an adapter file of any form; one pair of matrices is in memory at a time.

    Args:
        path: A file, or the folder that it lies in.
        base: What it should fit; None looks at the file alone.

    Raises:
        ConfigError: There is no such file.
        IntegrityError: The file is damaged, or would run code.
    """
    file = adapter_file(path)
    with open_tensors(file) as tensors:
        contents = contents_of(tensors, file)
        sizes = {
            module: size_of(tensors.read(names.a), tensors.read(names.b))
            for module, names in contents.pairs.items()
        }
    found = list(problems(contents, sizes))
    if base is not None and contents.form != "unknown":
        found += base_problems(file, contents, base)
    told = [*notes(contents), *(base_notes(contents, base) if base is not None else ())]
    is_told = contents.is_recorded or contents.form == "sat"
    effective = [size.effective_rank for size in sizes.values() if size.effective_rank]
    return AdapterDescription(
        path=file,
        form=contents.form,
        rank=contents.rank,
        alpha=contents.recorded.alpha if contents.rank and is_told else None,
        alpha_from=contents.recorded.where if contents.is_recorded else None,
        loaded_alpha=contents.loaded_alpha,
        modules=len(contents.pairs),
        targets=targets_of(contents),
        layers=len({_block(module) for module in contents.pairs} - {None}),
        norms=_summed(contents, sizes, by=_block),
        target_norms=_summed(contents, sizes, by=_target),
        effective_rank=round(statistics.median(effective)) if effective else None,
        card=contents.card,
        problems=tuple(found),
        notes=tuple(told),
    )


def _summed(
    contents: Contents, sizes: Mapping[str, Size], *, by: Callable[[str], _KeyT | None]
) -> dict[_KeyT, float]:
    """Norms of what is added to each block, or by each target; in the model's order."""
    squares: dict[_KeyT, float] = defaultdict(float)
    for module, size in sizes.items():
        key = by(module)
        if key is not None:
            squares[key] += (contents.scale(module) * size.norm) ** 2
    return {key: math.sqrt(square) for key, square in squares.items()}


def _block(module: str) -> int | None:
    found = _BLOCK.match(module)
    return int(found.group(1)) if found else None


def _target(module: str) -> str:
    return local_name(module).removeprefix(_ATTENTION)

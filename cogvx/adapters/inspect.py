"""What an adapter file is, told from the file alone: its form, its strength, its layers, its card.

Files of other programs are described too, since a person asks before they convert or load one.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from cogvx.adapters.card import AdapterCard, read_card
from cogvx.adapters.container import Header, read_header
from cogvx.adapters.layout import DIFFUSERS_KEY, LORA_A, LORA_B, PREFIX, loaded_alpha
from cogvx.errors import IntegrityError

Format = Literal["diffusers", "unprefixed", "kohya", "unknown"]

_BLOCK = re.compile(r"transformer_blocks[._](\d+)[._]")
_KOHYA = "lora_unet__"
_SHOWN = 3


@dataclass(frozen=True)
class AdapterDescription:
    """What a file holds and what a loader makes of it.

    Attributes:
        format: Whose names the tensors have; only `diffusers` loads into a pipeline.
        rank: The usual rank of its pairs; None when it has none.
        loaded_alpha: The alpha that diffusers applies; the strength is this over the rank.
        modules: Pairs of matrices.
        layers: Transformer blocks that have at least one pair.
        norms: For each block, the norm of everything that the adapter adds to it, as loaded.
        card: Ours, when the file has one.
        problems: What keeps the file from acting as it was trained, a sentence each.
    """

    path: Path
    format: Format
    rank: int | None
    loaded_alpha: float | None
    modules: int
    layers: int
    norms: Mapping[int, float]
    card: AdapterCard | None
    problems: tuple[str, ...]

    @property
    def strength(self) -> float | None:
        """What diffusers multiplies the adapter's output with."""
        if self.rank is None or self.loaded_alpha is None:
            return None
        return self.loaded_alpha / self.rank


def describe(path: Path) -> AdapterDescription:
    """Describe an adapter file; one pair of matrices is in memory at a time.

    Raises:
        IntegrityError: The file is no safetensors file.
    """
    header = read_header(path)
    form, pairs = _format(header), _pairs(header)
    ranks = [header.tensors[first].shape[0] for first, _ in pairs.values()]
    rank = max(set(ranks), key=ranks.count) if ranks else None
    # kohya keeps alpha in tensors that diffusers refuses, so it loads at no strength at all.
    alpha = loaded_alpha(header.metadata, rank) if rank and form == "diffusers" else None
    norms, broken = _norms(path, pairs, 1.0 if not rank or alpha is None else alpha / rank)
    return AdapterDescription(
        path=path,
        format=form,
        rank=rank,
        loaded_alpha=alpha,
        modules=len(pairs),
        layers=len({block for block in norms if block >= 0}),
        norms={block: norms[block] for block in sorted(norms) if block >= 0},
        card=read_card(path),
        problems=tuple(_problems(header, form, pairs=pairs, broken=broken)),
    )


def _format(header: Header) -> Format:
    names = [name for name in header.tensors if "lora" in name]
    if names and all(name.startswith(_KOHYA) for name in names):
        return "kohya"
    if names and all(name.endswith((LORA_A, LORA_B)) for name in names):
        if all(name.startswith(PREFIX) for name in names):
            return "diffusers"
        if not any(name.startswith(PREFIX) for name in names):
            return "unprefixed"
    return "unknown"


def _pairs(header: Header) -> dict[str, tuple[str, str]]:
    """Names of the two matrices by module, those without a partner left out."""
    endings = ((LORA_A, LORA_B), (".lora_down.weight", ".lora_up.weight"))
    return {
        name.removesuffix(first): (name, name.removesuffix(first) + second)
        for name in header.tensors
        for first, second in endings
        if name.endswith(first) and name.removesuffix(first) + second in header.tensors
    }


def _norms(
    path: Path, pairs: Mapping[str, tuple[str, str]], scale: float
) -> tuple[dict[int, float], list[str]]:
    """Norm of B A by block (-1 for what is in none), and modules that are not finite."""
    squares: dict[int, float] = defaultdict(float)
    broken = []
    try:
        with safe_open(path, framework="pt") as opened:
            for module, (first, second) in pairs.items():
                square = _square_norm(opened.get_tensor(first), opened.get_tensor(second))
                if not math.isfinite(square):
                    broken.append(module)
                found = _BLOCK.search(module)
                squares[int(found.group(1)) if found else -1] += square
    except (SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}") from error
    return {block: scale * math.sqrt(square) for block, square in squares.items()}, broken


def _square_norm(a_ri: Tensor, b_or: Tensor) -> float:
    """`||B A||^2` as the sum of `(B'B) * (A A')`, which never makes the large product."""
    a_ri, b_or = a_ri.double(), b_or.double()
    square = float(((b_or.T @ b_or) * (a_ri @ a_ri.T)).sum())
    return square if math.isnan(square) else max(square, 0.0)


def _problems(
    header: Header, form: Format, *, pairs: Mapping[str, tuple[str, str]], broken: list[str]
) -> Iterable[str]:
    if form == "unprefixed":
        yield f'names lack "{PREFIX}", so a pipeline loads nothing and only warns'
    if form == "kohya":
        yield "names are kohya's, which diffusers does not read for CogVideoX"
    if form == "unknown":
        yield "names are of no kind that is known"
    if form == "diffusers" and DIFFUSERS_KEY not in header.metadata and pairs:
        yield "alpha is not recorded: it loads at 1.0, whatever it was trained at"
    single = sum("lora" in name and not name.endswith(".alpha") for name in header.tensors)
    if single != 2 * len(pairs):
        yield f"{single - 2 * len(pairs)} matrices have no partner"
    if broken:
        yield f"{len(broken)} modules are not finite: {', '.join(broken[:_SHOWN])}"

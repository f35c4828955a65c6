"""Writing pairs of matrices as the one form that every loader gives the strength that they have.

Alpha equals rank in what is written: loaders that read the metadata and loaders that do not both
apply the file at 1.0.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import pad

from cogvx.adapters.card import ADAPTER_FILE, CARD_KEY, AdapterCard
from cogvx.adapters.container import with_metadata
from cogvx.adapters.layout import (
    DIFFUSERS_KEY,
    LORA_A,
    LORA_B,
    PREFIX,
    adapted_modules,
    diffusers_metadata,
)
from cogvx.adapters.weights import LoraPair, Pairs
from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError
from cogvx.files import write_bytes
from cogvx.variants import PATCH_PROJECTION

_SHOWN = 3
_MOST_PADDING = 16  # times; a small file must not become one that fills the memory ...
_MOST_NUMBERS = 1 << 28  # ... which it does not up to this, 1 GiB
_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")


def write_adapter(
    pairs: Pairs,
    folder: Path,
    *,
    card: AdapterCard,
    modules: Sequence[str] | None = None,
    allow_zero: bool = False,
) -> Path:
    """Write `folder`/ADAPTER_FILE, whole or not at all; a file that stands there is replaced.

    The same pairs and card give the same bytes. Tensors stay float32 whatever the base's precision:
    a loader casts to the precision it serves in, and fusing in float32 stays exact; the price is a
    file twice as long (504 MiB for 5b at rank 128).

    Args:
        pairs: At strength 1. Those of a lower rank than the card's get rows and columns of zeros.
        folder: Made if need be.
        card: Its rank must be the largest of the pairs', its targets must select their layers.
        modules: What must be there; without it, what the targets select in as many blocks as the
            pairs reach.
        allow_zero: Accept an adapter that changes nothing.

    Raises:
        IntegrityError: Layers are missing, unexpected, of another rank, not finite, or all zero.
    """
    path = folder / ADAPTER_FILE
    write_bytes(path, packed_adapter(pairs, card=card, modules=modules, allow_zero=allow_zero))
    return path


def packed_adapter(
    pairs: Pairs,
    *,
    card: AdapterCard,
    modules: Sequence[str] | None = None,
    allow_zero: bool = False,
) -> bytes:
    """What `write_adapter` writes, of the same arguments.

    Raises:
        IntegrityError: As `write_adapter` does.

    Source: facts on diffusers' loader: `lora_adapter_metadata`, keys prefixed `transformer.`.
    """
    modules = reached_modules(pairs, card) if modules is None else modules
    check_pairs(pairs, modules, card=card, allow_zero=allow_zero)
    tensors = {}
    for module, pair in padded(pairs, card.rank).items():
        tensors[PREFIX + module + LORA_A] = pair.a_ri
        tensors[PREFIX + module + LORA_B] = pair.b_or
    metadata = {
        "format": "pt",
        DIFFUSERS_KEY: canonical_json(diffusers_metadata(card.rank, card.targets)).decode(),
        CARD_KEY: canonical_json(card).decode(),
    }
    return with_metadata(save(tensors), metadata)


def padded(pairs: Pairs, rank: int) -> dict[str, LoraPair]:
    """The same changes of the weights at one rank: rows of A and columns of B that are zero."""
    return {module: _padded(pair, rank - pair.rank) for module, pair in pairs.items()}


def _padded(pair: LoraPair, more: int) -> LoraPair:
    a_ri, b_or = _plain(pair.a_ri), _plain(pair.b_or)
    return (
        LoraPair(pad(a_ri, (0, 0, 0, more)), pad(b_or, (0, more))) if more else LoraPair(a_ri, b_or)
    )


def check_pairs(
    pairs: Pairs, modules: Sequence[str], *, card: AdapterCard, allow_zero: bool
) -> None:
    """Refuse what is not worth a file.

    Raises:
        IntegrityError: With all that is wrong.
    """
    problems = []
    if missing := [name for name in modules if name not in pairs]:
        problems.append(f"{len(missing)} of {len(modules)} layers are missing: {_some(missing)}")
    if surplus := sorted(pairs.keys() - set(modules)):
        problems.append(f"{len(surplus)} layers belong to no target: {_some(surplus)}")
    problems += _rank_problems(pairs, card.rank)
    sums = {
        name: (pair.a_ri.detach().double().abs().sum(), pair.b_or.detach().double().abs().sum())
        for name, pair in pairs.items()
    }
    broken = [name for name, both in sums.items() if not all(torch.isfinite(one) for one in both)]
    if broken:
        problems.append(f"{len(broken)} layers are not finite: {_some(broken)}")
    if not allow_zero and sum(float(b_sum) for _, b_sum in sums.values()) == 0:
        problems.append("every B is zero, so the adapter has no effect; was it trained?")
    if problems:
        raise IntegrityError(f"adapter {card.name} is not written: " + "; ".join(problems))


def _rank_problems(pairs: Pairs, rank: int) -> list[str]:
    torn = [name for name, pair in pairs.items() if pair.b_or.shape[-1] != pair.a_ri.shape[0]]
    if torn:
        return [f"{len(torn)} layers have matrices of two ranks: {_some(torn)}"]
    ranks = {name: pair.rank for name, pair in pairs.items()}
    if ranks and max(ranks.values()) != rank:
        other = [name for name, found in ranks.items() if found != rank]
        return [f"{len(other)} layers are not of rank {rank}: {_some(other)}"]
    numbers = sum(pair.a_ri.numel() + pair.b_or.numel() for pair in pairs.values())
    after = sum((pair.a_ri.shape[1] + pair.b_or.shape[0]) * rank for pair in pairs.values())
    if after > _MOST_NUMBERS and after > _MOST_PADDING * numbers:
        return [f"its ranks differ so much that at rank {rank} it is {after // numbers} x as large"]
    return []


def reached_modules(pairs: Pairs, card: AdapterCard) -> tuple[str, ...]:
    """What the card's targets select in as many blocks as the pairs reach.

    Blocks beyond the number of pairs are not counted: some of them must be missing anyway, and a
    name may hold any number.
    """
    blocks = [int(found.group(1)) for name in pairs if (found := _BLOCK.match(name))]
    count = min(max(blocks, default=-1), len(pairs)) + 1
    patch_t = 1 if PATCH_PROJECTION in pairs else None
    return adapted_modules(count, card.targets, patch_t=patch_t)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")

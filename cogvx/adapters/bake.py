"""A base with adapters in its weights: an ordinary checkpoint that knows nothing of adapters.

It generates what a session generates that has fused them, bit by bit the same weights, for programs
that load no adapters. The way back is the base: in half precision nothing can be taken out again.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from cogvx.adapters.card import Parent, image_problem, library_versions, own_version
from cogvx.adapters.layout import adapted_modules
from cogvx.adapters.same_base import base_in_folder, base_problem
from cogvx.adapters.sharded import Stored, reader, stored_tensors, write_tensors
from cogvx.adapters.shares import Opened, Share, open_shares
from cogvx.adapters.weights import LoraPair, fused_weight
from cogvx.errors import ConfigError, IntegrityError
from cogvx.files import write_document, write_folder
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.variants import BaseFacts, ImageScale, read_facts

PROVENANCE_FILE = "baked.json"
TRANSFORMER = "transformer"
SHARD_BYTES = 5 * 10**9
"""How large files of weights may be when nobody says otherwise."""

Progress = Callable[[int, int], None]
"""Is told how many tensors of how many are written."""

_FLOATS = ("F32", "F16", "BF16")
_OTHERS = tuple(part for part in BASE_PARTS if part != TRANSFORMER)
_MODEL_INDEX = "model_index.json"
_WEIGHTS_SUFFIX = ".safetensors"


class Provenance(BaseModel):
    """What a baked folder was made of; `image_latent_scale` is how it must see first frames."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    base_path: str
    base_revision: str | None
    base_fingerprint: str
    image_latent_scale: ImageScale | None
    adapters: tuple[Parent, ...]
    code: str
    libraries: dict[str, str]


@dataclass(frozen=True)
class Baked:
    """A checkpoint that was written.

    Attributes:
        folder: Holds `transformer` and, unless it was left out, the rest of a pipeline.
        layers: Weights that the adapters changed.
        files: How many files the transformer's weights are in.
        num_bytes: Of those weights.
    """

    folder: Path
    layers: int
    files: int
    num_bytes: int
    provenance: Provenance


@dataclass(frozen=True)
class Form:
    """How a baked checkpoint is written.

    Attributes:
        shard_bytes: Most bytes of a file of weights, unless one tensor has more.
        whole: Write a pipeline's folder, not the transformer alone.
        linked: Let weights of the other parts be the base's own files, where the disk can do that;
            a program that writes into such a file would change the base.
    """

    shard_bytes: int = SHARD_BYTES
    whole: bool = True
    linked: bool = True


def bake(
    base: Path,
    shares: Sequence[Share],
    out: Path,
    *,
    form: Form | None = None,
    progress: Progress | None = None,
) -> Baked:
    """Write a base whose weights are `W + sum of w B A`, rounded once, each in its own precision.

    Everything else of it stays as it is, byte for byte. One layer and the adapters are in memory at
    a time. The folder is written aside and renamed, so it is whole or not there.

    Args:
        base: The diffusers folder that every adapter's card names.
        shares: At least one adapter with a weight other than 0.
        out: Must not exist.
        form: None for the defaults.
        progress: Called after each tensor.

    Raises:
        ConfigError: `out` exists or lies in the base, the disk is too small, or the adapters
            cannot act together.
        IntegrityError: The base is not the one of the adapters, lacks a layer of theirs, an adapter
            lacks a layer of the base, or a sum is not finite in its precision.
    """
    form = form or Form()
    if out.exists():
        raise ConfigError(f"{out} exists already and was left alone; name another folder")
    if out.resolve().is_relative_to(base.resolve()):
        raise ConfigError(f"{out} lies inside the base, which stays as it is; name another folder")
    parts = open_shares(shares)
    stored = stored_tensors(base / TRANSFORMER)
    by_weight = _by_weight(parts, stored)
    _require_whole(parts, read_facts(base))
    num_bytes = sum(tensor.info.num_bytes for tensor in stored.values())
    _require_room(out, num_bytes)
    _require_base(base, parts)
    provenance = _provenance(parts)

    def fill(aside: Path) -> None:
        (aside / TRANSFORMER).mkdir()
        shutil.copyfile(base / TRANSFORMER / "config.json", aside / TRANSFORMER / "config.json")
        with reader(stored) as read:
            fusing = _Fusing(by_weight, read, total=len(stored), progress=progress)
            write_tensors(aside / TRANSFORMER, stored, shard_bytes=form.shard_bytes, read=fusing)
        if form.whole:
            _add_others(base, aside, linked=form.linked)
        write_document(aside / PROVENANCE_FILE, provenance)

    write_folder(out, fill)
    files = len(list((out / TRANSFORMER).glob(f"*{_WEIGHTS_SUFFIX}")))
    return Baked(out, len(by_weight), files, num_bytes, provenance)


class _Fusing:
    """Reads the base's tensors, those that adapters change with the adapters in them."""

    def __init__(
        self,
        by_weight: Mapping[str, Sequence[tuple[float, LoraPair]]],
        read: Callable[[str], Tensor],
        *,
        total: int,
        progress: Progress | None,
    ) -> None:
        self._by_weight = by_weight
        self._read = read
        self._total = total
        self._progress = progress
        self._done = 0

    def __call__(self, name: str) -> Tensor:
        tensor = self._read(name)
        if name in self._by_weight:
            tensor = fused_weight(tensor, self._by_weight[name])
            if not tensor.isfinite().all():
                raise IntegrityError(
                    f"{name} is not finite in {tensor.dtype} with its adapters; use smaller weights"
                )
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
        return tensor


def _by_weight(
    parts: Sequence[Opened], stored: Mapping[str, Stored]
) -> dict[str, list[tuple[float, LoraPair]]]:
    """What is added to which of the base's tensors.

    Raises:
        IntegrityError: The base lacks a layer, has another shape, or does not store it as floats.
    """
    found: dict[str, list[tuple[float, LoraPair]]] = {}
    problems = []
    for part in parts:
        for module, pair in part.pairs.items():
            name = f"{module}.weight"
            shape = (pair.b_or.shape[0], pair.a_ri.shape[1])
            info = stored[name].info if name in stored else None
            if info is None or info.shape != shape or info.dtype not in _FLOATS:
                has = "nothing" if info is None else f"{info.dtype} {info.shape}"
                problems.append(f"{part.share.file} adds {shape} to {name}, where it has {has}")
            found.setdefault(name, []).append((part.share.weight, pair))
    if problems:
        raise IntegrityError(
            f"{len(problems)} layers of the adapters do not fit the base, such as: {problems[0]}"
        )
    return found


def _require_whole(parts: Sequence[Opened], facts: BaseFacts) -> None:
    """Demand every layer that a card's targets select in the base: half an adapter acts otherwise.

    A file alone cannot tell that its last blocks are missing; the base knows how many there are.

    Raises:
        IntegrityError: With every file that lacks layers.
    """
    problems = []
    for part in parts:
        modules = adapted_modules(facts.layers, part.card.targets, patch_t=facts.patch_t)
        if missing := [module for module in modules if module not in part.pairs]:
            problems.append(
                f"{part.share.file} lacks {len(missing)} of {len(modules)} layers that its card's "
                f"targets select in the base, such as {missing[0]}"
            )
    if problems:
        raise IntegrityError("; ".join(problems))


def _require_room(out: Path, num_bytes: int) -> None:
    parent = next(folder for folder in out.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < num_bytes:
        raise ConfigError(
            f"{parent} has {free / 1e9:.1f} GB free, and the transformer takes "
            f"{num_bytes / 1e9:.1f} GB; name a folder on another disk"
        )


def _require_base(base: Path, parts: Sequence[Opened]) -> None:
    """Refuse any other base than the one that the cards name; its bytes are read for that.

    What is baked cannot be taken out again, so here a base must be proven, not merely possible.

    Raises:
        ConfigError: A card does not say which bytes its base had.
        IntegrityError: They are other bytes.
    """
    for part in parts:
        if part.card.base_fingerprint is None:
            raise ConfigError(
                f"{part.share.file} knows its base as {part.card.base_path}, not its bytes; "
                "convert it again with the base's folder: cogvx adapter convert --base FOLDER"
            )
    facts = read_facts(base)
    for part in parts:
        if problem := image_problem(part.card, facts.variant.image_scales):
            raise IntegrityError(f"{part.share.file}: {problem}")
    named = base_in_folder(base, facts, fingerprint(base, BASE_PARTS))
    for part in parts:
        if problem := base_problem(part.card, named):
            raise IntegrityError(f"{part.share.file}: {problem}")


def _provenance(parts: Sequence[Opened]) -> Provenance:
    card = parts[0].card
    assert card.base_fingerprint is not None
    return Provenance(
        base_path=card.base_path,
        base_revision=card.base_revision,
        base_fingerprint=card.base_fingerprint,
        image_latent_scale=card.image_latent_scale,
        adapters=tuple(part.parent for part in parts),
        code=own_version(),
        libraries=library_versions(),
    )


def _add_others(base: Path, aside: Path, *, linked: bool) -> None:
    """Bring the other parts of the pipeline over."""
    if (base / _MODEL_INDEX).is_file():
        shutil.copyfile(base / _MODEL_INDEX, aside / _MODEL_INDEX)
    for part in _OTHERS:
        for file in sorted((base / part).rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                target = aside / file.relative_to(base)
                target.parent.mkdir(parents=True, exist_ok=True)
                if not (linked and file.suffix == _WEIGHTS_SUFFIX and _is_linked(file, target)):
                    shutil.copyfile(file, target)


def _is_linked(file: Path, target: Path) -> bool:
    """Give a file a second name; no where the disk cannot, or it is another disk."""
    try:
        os.link(file.resolve(), target)  # a hub's folder holds links to its files
    except OSError:
        return False
    return True

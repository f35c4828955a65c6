"""Converting adapters: any form that is known into the one that every loader gives its strength."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cogvx.adapters.base import Base
from cogvx.adapters.card import (
    ADAPTER_FILE,
    AdapterCard,
    Parent,
    image_problem,
    library_versions,
    own_version,
)
from cogvx.adapters.formats import Foreign, read_any
from cogvx.adapters.kohya import KOHYA_FILE, packed_kohya
from cogvx.adapters.layout import AdapterForm, adapted_modules
from cogvx.adapters.measure import gap_between
from cogvx.adapters.same_base import NamedBase, base_of_card, base_problem, compare
from cogvx.adapters.write import check_pairs, packed_adapter
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, IntegrityError, Problem
from cogvx.files import create_bytes
from cogvx.variants import ImageScale, published_facts

Target = Literal["diffusers", "kohya"]

_FILES: dict[Target, str] = {"diffusers": ADAPTER_FILE, "kohya": KOHYA_FILE}
_LIMIT = 1e-5  # of float32's rounding, over all of a layer's numbers


@dataclass(frozen=True)
class Converted:
    """What came out of a conversion.

    Attributes:
        file: What was written, or stood there already with the same bytes.
        source: What it was read from.
        form: Whose names that had.
        to: Whose names it has now.
        layers: Transformer blocks of the base.
        tensors: Matrices of the adapter, two for each module: 240 at 30 layers, 336 at 42.
        rank: Of every pair in the new file.
        alpha: What it was trained with.
        recorded: What in the source told alpha; None when a person or SAT's default did.
        norm: Of what the source adds to the weights: scale x B A over all modules.
        strength: That norm over the written file's; 1 when they act alike.
        card: What the new file says of itself.
        notes: What a person should know.
    """

    file: Path
    source: Path
    form: AdapterForm
    to: Target
    layers: int
    tensors: int
    rank: int
    alpha: float
    recorded: str | None
    norm: float
    strength: float
    card: AdapterCard
    notes: tuple[str, ...]


def convert(
    path: Path,
    out: Path,
    *,
    base: Base,
    alpha: float | None = None,
    to: Target = "diffusers",
    image_scale: ImageScale | None = None,
) -> Converted:
    """Read an adapter of any form, and write it anew at strength 1.

    Args:
        path: The file, or the folder that a program wrote it into.
        out: A folder, made if need be; the file's name in it is the one that loaders look for.
        base: What the adapter was trained on.
        alpha: What it was trained with, where the file does not record it.
        to: The names to write.
        image_scale: How first frames were scaled while it was trained, which only 1.5 I2V leaves
            open.

    Raises:
        ConfigError: The adapter does not fit the base, nothing says its alpha, or another file
            stands where it would be written; with all problems.
        IntegrityError: The file is damaged or would run code, its card names another base, or what
            was written adds something else to a layer than what was read.
    """
    target = out / _FILES[to]
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder, in which {target.name} is written")
    foreign = read_any(path, alpha=alpha, facts=base.facts)
    card = _card(foreign, base, image_scale)
    packed = _packed(foreign, card, base=base, to=to)
    created = _create(target, packed)
    try:
        strength = _strength(foreign, read_any(target, alpha=None, facts=base.facts))
    except IntegrityError:
        if created:
            target.unlink()
        raise
    return Converted(
        file=target,
        source=foreign.file,
        form=foreign.form,
        to=to,
        layers=base.facts.layers,
        tensors=2 * len(foreign.pairs),
        rank=card.rank,
        alpha=foreign.alpha,
        recorded=foreign.recorded,
        norm=foreign.norm,
        strength=strength,
        card=card,
        notes=card.warnings,
    )


def _packed(foreign: Foreign, card: AdapterCard, *, base: Base, to: Target) -> bytes:
    modules = adapted_modules(base.facts.layers, card.targets, patch_t=base.facts.patch_t)
    if to == "diffusers":
        return packed_adapter(foreign.pairs, card=card, modules=modules)
    check_pairs(foreign.pairs, modules, card=card, allow_zero=False)
    return packed_kohya(foreign.pairs, card=card)


def _create(target: Path, packed: bytes) -> bool:
    """Write the file, unless it is there already; another one is left alone."""
    try:
        if create_bytes(target, packed):
            return True
        if target.stat().st_size == len(packed) and target.read_bytes() == packed:
            return False
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    raise ConfigError(f"{target} is another file and was left alone; name another folder")


def _card(foreign: Foreign, base: Base, image_scale: ImageScale | None) -> AdapterCard:
    """The new file's card; of what was trained here the lineage goes on."""
    parent = Parent(file=foreign.file.name, sha256=sha256_file(foreign.file), form=foreign.form)
    was = foreign.card
    scale = _image_scale(None if was is None else was.image_latent_scale, base, image_scale)
    if was is not None:
        return _continued(was, foreign, base, parents=(parent,), image_scale=scale)
    notes = list(foreign.notes)
    if scale is None and base.facts.variant.image_scales:
        notes.append("nobody said how first frames were scaled in its training")
    return AdapterCard(
        name=foreign.file.parent.name if foreign.file.name == ADAPTER_FILE else foreign.file.stem,
        origin="converted",
        rank=foreign.rank,
        alpha=int(foreign.alpha) if foreign.alpha == int(foreign.alpha) else foreign.alpha,
        targets=foreign.targets,
        base_path=base.path,
        base_revision=base.revision,
        base_fingerprint=base.fingerprint,
        base_dtype=base.facts.variant.dtype,
        image_latent_scale=scale,
        parents=(parent,),
        code=own_version(),
        warnings=tuple(notes),
        libraries=library_versions(),
    )


def _continued(
    was: AdapterCard,
    foreign: Foreign,
    base: Base,
    *,
    parents: tuple[Parent, ...],
    image_scale: ImageScale | None,
) -> AdapterCard:
    """The card of what we wrote before; a base whose bytes nobody knew may be known by now."""
    named = was.base_fingerprint
    if base.fingerprint and named not in (None, base.fingerprint):
        raise IntegrityError(
            f"{foreign.file} was trained on the weights {named} ({was.base_path}), "
            f"and {base.path} holds {base.fingerprint}"
        )
    _require_kind(was, foreign.file, base)
    changes: dict[str, object] = {
        "origin": "converted",
        "image_latent_scale": image_scale,
        "parents": parents,
        "code": own_version(),
        "libraries": library_versions(),
    }
    if named is None and base.fingerprint:
        changes["base_path"], changes["base_revision"] = base.path, base.revision
        changes["base_fingerprint"] = base.fingerprint
    return was.model_copy(update=changes)


def _require_kind(was: AdapterCard, file: Path, base: Base) -> None:
    """Refuse a base that cannot be the card's; where only its bytes were unknown, a person knows.

    Raises:
        IntegrityError: It is another one; both are named.
    """
    if problem := image_problem(was, base.facts.variant.image_scales):
        raise IntegrityError(f"{file} over {base.path}: {problem}")
    given = NamedBase(base.path, base.revision, base.fingerprint, base.facts)
    named = base_of_card(was)
    if was.base_fingerprint is None:
        kind = NamedBase(None, facts=published_facts(was.base_path))
        if compare(kind, NamedBase(None, facts=base.facts)) == "other":
            raise IntegrityError(f"{file} is of the base {named}, and {given} is of another kind")
    elif problem := base_problem(was, given):
        raise IntegrityError(f"{file}: {problem}")


def _image_scale(was: ImageScale | None, base: Base, said: ImageScale | None) -> ImageScale | None:
    """How first frames were scaled: as the card or a person says, or as goes without saying."""
    scales = base.facts.variant.image_scales
    allowed = scales if was is None else (was,)
    if said is not None and said not in allowed:
        wrong = f"is not what {base.facts.variant.name} or the adapter's own card allows"
        use = f'use "{allowed[0]}", or leave it out' if allowed else "leave it out"
        raise ConfigError(str(Problem("--image-scale", said, wrong, use)))
    return said or was or (scales[0] if len(scales) == 1 else None)


def _strength(read: Foreign, written: Foreign) -> float:
    """How strong what was read is in terms of what was written.

    What both add is compared, layer by layer. Both were read by one hand, so the norms are compared
    as well, which come from the numbers as they are stored.

    Raises:
        IntegrityError: They differ in a module.
    """
    if surplus := read.pairs.keys() ^ written.pairs.keys():
        raise IntegrityError(
            f"only one of {written.file} and {read.file} adapts {len(surplus)} layers, "
            f"such as {min(surplus)}"
        )
    other = [
        module
        for module, pair in read.pairs.items()
        if not gap_between(pair, written.pairs[module]).share <= _LIMIT
        or not math.isclose(read.norms[module], written.norms[module], rel_tol=_LIMIT)
    ]
    if other:
        raise IntegrityError(
            f"{written.file} does not act as {read.file} does in {len(other)} of "
            f"{len(read.pairs)} layers, such as {other[0]}"
        )
    return read.norm / written.norm

"""An adapter file described for a person: facts one a line, and charts that a terminal can draw."""

import math
from collections.abc import Iterator, Mapping

from cogvx.adapters.card import AdapterCard
from cogvx.adapters.inspect import AdapterDescription

_BAR = 40
_DIGITS = 16  # shown of a digest

Row = tuple[str, str]


def description_rows(found: AdapterDescription) -> Iterator[Row]:
    """Facts by name, in the order that a person asks for them."""
    yield "file", str(found.path)
    targets = f", {' '.join(found.targets)}" if found.targets else ""
    yield "form", f"{found.form}: {found.modules} pairs in {found.layers} layers{targets}"
    if found.rank is not None:
        yield "strength", _strength(found)
    if found.effective_rank is not None:
        held = f"99 % of what it adds is in {found.effective_rank} of {found.rank} ranks"
        yield "rank", f"{held}, in the middle layer"
    if found.card is not None:
        yield from _card_rows(found.card)


def chart_rows(found: AdapterDescription) -> Iterator[Row]:
    """How much is added to each layer and by each target, as bars; norms at the loaded strength."""
    yield from _bars({f"layer {block:>3}": norm for block, norm in sorted(found.norms.items())})
    yield from _bars(found.target_norms)


def _bars(norms: Mapping[str, float]) -> Iterator[Row]:
    largest = max((norm for norm in norms.values() if math.isfinite(norm)), default=0.0)
    for name, norm in norms.items():
        filled = round(_BAR * norm / largest) if largest and math.isfinite(norm) else 0
        yield name, f"{norm:10.4f} {'#' * filled}".rstrip()


def _strength(found: AdapterDescription) -> str:
    if found.alpha is None:
        recorded = "no alpha is recorded"
    elif found.alpha_from is None:
        recorded = f"alpha {found.alpha:g} by custom, not recorded"
    else:
        recorded = f"alpha {found.alpha:g} by {found.alpha_from}"
    loads = "diffusers does not load it"
    if found.strength is not None:
        loads = f"diffusers loads it at {found.strength:g}"
    return f"rank {found.rank}, {recorded}; {loads}"


def _card_rows(card: AdapterCard) -> Iterator[Row]:
    how = f"rank {card.rank}, alpha {card.alpha:g}"
    if card.steps is not None:
        how += f", {card.steps} steps"
    if card.size is not None:
        how += f", on {card.size}" + (f" at {card.fps} a second" if card.fps else "")
    yield card.origin, f"{card.name}: {how}"
    known = card.base_fingerprint
    named = "bytes unknown" if known is None else known[:_DIGITS]
    revision = f" at {card.base_revision}" if card.base_revision else ""
    yield "base", f"{card.base_path}{revision} ({named}) in {card.base_dtype}"
    if card.image_latent_scale is not None:
        yield "image", f"first frame's latent {card.image_latent_scale}, as in training"
    if card.recipe and card.manifest:
        made = f"recipe {card.recipe[:_DIGITS]}, clips {card.manifest[:_DIGITS]}"
        yield "made of", made + (f", run {card.run[:_DIGITS]}" if card.run else "")
    for parent in card.parents:
        form = "" if parent.form == "diffusers" else f", {parent.form}"
        yield "made of", f"{parent.weight:g} x {parent.file} ({parent.sha256[:_DIGITS]}{form})"
    if card.code is not None:
        yield "written", f"by cogvx {card.code}"

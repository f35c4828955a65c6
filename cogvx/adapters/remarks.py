"""What is wrong with an adapter file, and what is worth knowing of it, in a person's sentences."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cogvx.adapters.base import Base
from cogvx.adapters.contents import Contents
from cogvx.adapters.formats import read_any
from cogvx.adapters.layout import AdapterForm, adapted_modules
from cogvx.adapters.linears import local_name
from cogvx.adapters.measure import Size
from cogvx.adapters.same_base import NamedBase, base_doubt, base_problem
from cogvx.errors import ConfigError, IntegrityError
from cogvx.recipe_rules import MIN_RANK
from cogvx.variants import PATCH_PROJECTION, published_facts

_SHOWN = 3
_ATTENTION = "attn1."
_FORM_PROBLEMS: Mapping[AdapterForm, str] = {
    "unprefixed": 'names lack "transformer.", so a pipeline loads nothing and only warns',
    "kohya": "names are kohya's, which diffusers does not read for CogVideoX",
    "sat": "names are SAT's, which diffusers does not read",
    "unknown": "names are of no kind that is known",
}


def targets_of(contents: Contents) -> tuple[str, ...]:
    """Ends of the modules' names, in the model's order; attention's as everybody says them."""
    ends = (local_name(module).removeprefix(_ATTENTION) for module in contents.pairs)
    return tuple(dict.fromkeys(ends))


def problems(contents: Contents, sizes: Mapping[str, Size]) -> Iterator[str]:
    """What keeps a file from acting as it was trained, told from the file alone."""
    if contents.form in _FORM_PROBLEMS:
        yield _FORM_PROBLEMS[contents.form]
    yield from _strength_problems(contents)
    yield from _key_problems(contents)
    if broken := [module for module, size in sizes.items() if not size.is_finite]:
        yield f"{len(broken)} modules are not finite: {_some(broken)}"
    if zero := [module for module, size in sizes.items() if size.is_zero]:
        if len(zero) == len(sizes):
            yield "every B is zero, so it changes nothing; was it trained?"
        else:
            yield f"{len(zero)} modules have a B of zeros, which change nothing: {_some(zero)}"


def notes(contents: Contents) -> Iterator[str]:
    """What is no fault of the file."""
    rank = contents.rank
    if rank is not None and rank < MIN_RANK:
        yield f"rank {rank} is below {MIN_RANK}, which CogVideoX's authors advise at least"
    ranks = set(contents.ranks.values())
    if len(ranks) > 1:
        yield f"ranks differ from {min(ranks)} to {max(ranks)}"
    if contents.form == "sat" and not contents.is_recorded:
        yield f"SAT writes no alpha down; at its usual 1 the strength is 1/{rank}"
    if contents.card is not None:
        yield from contents.card.warnings


def base_problems(file: Path, contents: Contents, base: Base) -> Iterator[str]:
    """What keeps a file from being an adapter of a base; what alpha is is another question."""
    card, name = contents.card, base.facts.variant.name
    if card and (problem := base_problem(card, _named(base))):
        yield problem
    alpha = None if contents.is_recorded or contents.form == "sat" else float(contents.rank or 1)
    try:
        read_any(file, alpha=alpha, facts=base.facts)
    except ConfigError as error:
        if not error.problems:
            yield str(error)
        yield from (f"over {name}: {problem}" for problem in error.problems)
    except IntegrityError:
        return  # numbers that are not finite were found already


def base_notes(contents: Contents, base: Base) -> Iterator[str]:
    """What cannot be told of a file and a base."""
    if contents.card and (doubt := base_doubt(contents.card, _named(base))):
        yield doubt


def _named(base: Base) -> NamedBase:
    return NamedBase(base.path, base.revision, base.fingerprint, base.facts)


def _strength_problems(contents: Contents) -> Iterator[str]:
    yield from contents.doubts
    rank, alpha = contents.rank, contents.loaded_alpha
    if rank is None or contents.form in ("sat", "unknown"):
        return
    if not contents.is_recorded:
        yield "alpha is not recorded: it loads at 1.0, whatever it was trained at"
    elif alpha is not None and alpha != rank:
        strength = f"{alpha / rank:g}"
        if contents.card is not None:
            yield f"its card says that alpha is multiplied into B, and yet it loads at {strength}"
        yield (
            f"alpha is not multiplied into B: programs that read no metadata apply it at 1.0, "
            f"not {strength}"
        )


def _key_problems(contents: Contents) -> Iterator[str]:
    if contents.halves:
        yield f"{len(contents.halves)} modules have one matrix of two: {_some(contents.halves)}"
    if contents.odd:
        yield f"{len(contents.odd)} modules have matrices that do not fit: {_some(contents.odd)}"
    if contents.unknown and contents.form != "unknown":
        count = len(contents.unknown)
        yield f"{count} tensors belong to no layer of a CogVideoX: {_some(contents.unknown)}"
    targets = targets_of(contents)
    patch_t = 1 if PATCH_PROJECTION in contents.pairs else None
    wanted = adapted_modules(contents.blocks, targets, patch_t=patch_t)
    there = {*contents.pairs, *contents.halves, *contents.odd}
    if missing := [module for module in wanted if module not in there]:
        yield (
            f"{2 * len(missing)} of {2 * len(wanted)} tensors are missing, {contents.blocks} layers"
            f" x {len(targets)} targets x 2: {_some(missing)}"
        )
    yield from _card_problems(contents, targets)


def _card_problems(contents: Contents, targets: Sequence[str]) -> Iterator[str]:
    card = contents.card
    if card is None or not contents.pairs:
        return
    if set(card.targets) != set(targets):
        yield f"its card names the targets {', '.join(card.targets)}; it has {', '.join(targets)}"
    facts = published_facts(card.base_path)
    if facts is not None and facts.layers != contents.blocks:
        yield f"it has {contents.blocks} layers, and {card.base_path} has {facts.layers}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")

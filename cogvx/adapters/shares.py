"""Adapter files and a weight for each: which of them may be put together, and what cannot.

An adapter is a difference to one base, so only those of the same base add up; and one that learned
from first frames scaled in one way cannot share a model with one that learned from another.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvx.adapters.card import (
    ADAPTER_FILE,
    AdapterCard,
    Parent,
    read_card,
    strength_problem,
)
from cogvx.adapters.container import read_header
from cogvx.adapters.layout import TORCH_SUFFIXES, loaded_alpha
from cogvx.adapters.same_base import base_of_card, compare
from cogvx.adapters.weights import Pairs, read_pairs
from cogvx.adapters.write import reached_modules
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, IntegrityError, Problem


@dataclass(frozen=True)
class Share:
    """A file in our form, and what its difference to the base is multiplied with.

    A negative weight takes away what the adapter learned; 1 is as it was trained.
    """

    file: Path
    weight: float = 1.0

    @property
    def problem(self) -> Problem | None:
        """What is wrong with the words alone."""
        if not self.file.is_file():
            return Problem(str(self.file), None, "is no file", "name an adapter file")
        if self.file.suffix in TORCH_SUFFIXES:
            wrong, use = "is a checkpoint of torch", "convert it first: cogvx adapter convert"
            return Problem(str(self.file), None, wrong, use)
        if not math.isfinite(self.weight):
            return Problem(str(self.file), self.weight, "is no weight", "use a number such as 1.0")
        return None


@dataclass(frozen=True)
class Opened:
    """A share that was read; all that were opened together have one base."""

    share: Share
    sha256: str
    card: AdapterCard
    pairs: Pairs

    @property
    def parent(self) -> Parent:
        """For the card of what is made of it; most files have one name, so the folder's is kept."""
        file = self.share.file.absolute()
        name = f"{file.parent.name}/{file.name}" if file.name == ADAPTER_FILE else file.name
        return Parent(file=name, sha256=self.sha256, weight=self.share.weight)


def open_shares(shares: Sequence[Share]) -> tuple[Opened, ...]:
    """Read adapters that are to act together.

    A file that is named twice acts with the sum of its weights. One whose weight is 0 adds nothing
    and is left out, so that sweeping a weight down to 0 needs no other command.

    Args:
        shares: Every file with a card of ours; others are converted first.

    Raises:
        ConfigError: Files that cannot act together, all problems at once; or nothing is left.
        IntegrityError: A file is damaged.
    """
    if problems := [share.problem for share in shares if share.problem]:
        raise ConfigError("the adapters cannot be put together", problems)
    for share in shares:
        read_card(share.file)  # what is no adapter is refused before gigabytes of it are hashed
    merged = _by_content(shares)
    cards = {sha256: read_card(share.file) for sha256, share in merged.items()}
    if problems := list(_conflicts([(merged[key], cards[key]) for key in merged])):
        raise ConfigError("the adapters cannot be put together", problems)
    opened = tuple(
        Opened(share, sha256, card, _whole_pairs(share.file, card))
        for sha256, share in merged.items()
        if share.weight and (card := cards[sha256]) is not None
    )
    if not opened:
        raise ConfigError("no adapter with a weight other than 0 is left; nothing would change")
    return opened


def _whole_pairs(file: Path, card: AdapterCard) -> Pairs:
    """The pairs of a file that holds all that its card promises: half an adapter acts otherwise.

    Raises:
        IntegrityError: It is damaged, or lacks layers.
    """
    pairs = read_pairs(file)
    rank = max(pair.rank for pair in pairs.values())
    alpha = loaded_alpha(read_header(file).metadata, rank)
    if problem := strength_problem(alpha / rank):
        raise IntegrityError(f"{file}: {problem}")
    modules = reached_modules(pairs, card)
    if missing := [module for module in modules if module not in pairs]:
        raise IntegrityError(
            f"{file} lacks {len(missing)} of {len(modules)} layers that its card's targets select, "
            f"such as {missing[0]}"
        )
    return pairs


def _by_content(shares: Sequence[Share]) -> dict[str, Share]:
    """Shares by sha256, the weights of the same bytes added up."""
    found: dict[str, Share] = {}
    for share in shares:
        sha256 = sha256_file(share.file)
        known = found.get(sha256)
        found[sha256] = share if known is None else Share(known.file, known.weight + share.weight)
    return found


def _conflicts(found: Sequence[tuple[Share, AdapterCard | None]]) -> Iterator[Problem]:
    for share, card in found:
        if card is None:
            yield Problem(
                str(share.file),
                None,
                "has no card, so nobody can tell which base it belongs to",
                "convert it first: cogvx adapter convert",
            )
    carded = [(share.file, card) for share, card in found if card is not None]
    agreed = carded[:1]  # one with unknown bytes may go with either of two, and not with both
    for file, card in carded[1:]:
        first_file, first = carded[0]
        others = [
            (other_file, other)
            for other_file, other in agreed
            if compare(base_of_card(card), base_of_card(other)) == "other"
        ]
        if others:
            other_file, other = others[0]
            yield Problem(
                str(file),
                None,
                f"belongs to the base {base_of_card(card)}, and {other_file} to "
                f"{base_of_card(other)}",
                "put together adapters of one base",
            )
            continue
        agreed.append((file, card))
        if card.image_latent_scale != first.image_latent_scale:
            yield Problem(
                f"{file}: image_latent_scale",
                card.image_latent_scale,
                f"is not that of {first_file}, {first.image_latent_scale}",
                "put together adapters that saw first frames in one way",
            )


def doubts(cards: Sequence[AdapterCard]) -> tuple[str, ...]:
    """What nothing proves of adapters that act together, for the card of their sum."""
    first, *others = [base_of_card(card) for card in cards]
    unproven = [other for other in others if compare(first, other) == "unproven"]
    if not unproven:
        return ()
    return (f"nothing proves that its parts are of one base: {first}, and {unproven[0]}",)

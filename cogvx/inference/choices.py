"""What a job leaves open and cards say: base, precision, how first frames are scaled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvx.adapters.card import AdapterCard
from cogvx.adapters.same_base import (
    base_of_card,
    compare,
    is_hub_id,
    revisions_differ,
    same_hub_id,
)
from cogvx.errors import ConfigError, Problem
from cogvx.inference.job import GenerateJob
from cogvx.inference.memory import Memory
from cogvx.inference.provenance import UsedAdapter
from cogvx.inference.video_key import Engine
from cogvx.model.image_scale import image_scale_of
from cogvx.variants import BaseFacts, ImageScale


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter that was asked for, as a file on this machine.

    `name` is for people who look at the videos later: of an alias, the version that it meant.
    """

    name: str
    weight: float
    path: Path
    sha256: str
    card: AdapterCard | None


@dataclass(frozen=True)
class BaseChoice:
    """The base that is meant: a folder or hub id, and a revision of the latter."""

    path: str
    revision: str | None


def choose_base(job: GenerateJob, adapters: Sequence[FoundAdapter]) -> BaseChoice:
    """What was asked for, or what the first adapter with a card was trained on.

    A revision is meant of whichever base that is; where none is asked for, it is the one that the
    card of the same hub id names, not whatever is newest today.

    Raises:
        ConfigError: Nobody says, or the revision is not that of the card.
    """
    cards = cards_of(adapters)
    if job.base is None and not cards:
        raise ConfigError(
            "no base is named, and no adapter's card says one; give a folder or a hub id with "
            "--base"
        )
    path = cards[0].base_path if job.base is None else job.base
    if not is_hub_id(path) or Path(path).expanduser().is_dir():
        return BaseChoice(path, job.revision)  # what is there is the base, whatever a card says
    pinned = [
        card.base_revision
        for card in cards
        if card.base_revision is not None and same_hub_id(card.base_path, path)
    ]
    for revision in pinned:
        if revisions_differ(job.revision, revision):
            wrong = f"is not the revision {revision} of {path} that an adapter's card names"
            use = "leave it out, or use adapters of that revision"
            raise ConfigError(str(Problem("revision", job.revision, wrong, use)))
    return BaseChoice(path, job.revision or next(iter(pinned), None))


def disagreements(job: GenerateJob, adapters: Sequence[FoundAdapter]) -> list[Problem]:
    """Adapters that cannot act together, by what their cards say."""
    problems = []
    bases = [(found.name, base_of_card(found.card)) for found in adapters if found.card]
    pairs = [(one, two) for at, one in enumerate(bases) for two in bases[at + 1 :]]
    if others := [pair for pair in pairs if compare(pair[0][1], pair[1][1]) == "other"]:
        each = ", ".join(f"{base} of {name}" for name, base in others[0])
        wrong = f"have another base each: {each}"
        problems.append(Problem("adapters", None, wrong, "use adapters of one base"))
    scales: dict[ImageScale, str] = {}
    for found in adapters:
        if found.card is not None and found.card.image_latent_scale is not None:
            scales.setdefault(found.card.image_latent_scale, found.name)
    if len(scales) > 1:
        each = ", ".join(f"{value} of {name}" for value, name in scales.items())
        wrong = f"have another image scale each: {each}"
        problems.append(Problem("adapters", None, wrong, "use adapters of one base"))
    same = {found.sha256 for found in adapters}
    if len(same) < len(adapters):
        use = "give each once, with the sum of the weights"
        problems.append(Problem("adapters", None, "hold the same file twice", use))
    scale = job.image_scale
    trained = {card.image_latent_scale for card in cards_of(adapters)} - {None}
    if scale is not None and trained and scale not in trained:
        wrong = "is not what the adapters were trained with"
        problems.append(Problem("image_scale", scale, wrong, f'use "{min(map(str, trained))}"'))
    return problems


def engine_of(
    job: GenerateJob, adapters: Sequence[FoundAdapter], facts: BaseFacts, fingerprint: str
) -> Engine:
    """What generates every video of the job.

    Raises:
        ConfigError: The base cannot run like this.
    """
    cards, variant = cards_of(adapters), facts.variant
    dtype = job.dtype or (cards[0].base_dtype if cards else variant.dtype)
    if dtype == variant.bad_dtype:
        wrong = f"overflows or loses precision on {variant.name}"
        raise ConfigError(str(Problem("dtype", dtype, wrong, f'use "{variant.dtype}"')))
    asked: ImageScale | None = job.image_scale
    for card in cards:
        asked = asked or card.image_latent_scale
    return Engine(
        base_fingerprint=fingerprint,
        dtype=dtype,
        tiling=job.tiling,
        base_weights=job.base_weights,
        image_scale=image_scale_of(variant, asked, where="image_scale"),
        # in 8 bits they always are
        fused=job.fuse and job.base_weights == "as_is",
    )


def memory_of(job: GenerateJob) -> Memory:
    """What the job gives up so that it fits."""
    return Memory(offload=job.offload, vae_tiling=job.tiling, base_weights=job.base_weights)


def used_adapters(adapters: Sequence[FoundAdapter], scale: float) -> tuple[UsedAdapter, ...]:
    """For a video's provenance."""
    return tuple(
        UsedAdapter(name=found.name, sha256=found.sha256, weight=found.weight * scale)
        for found in adapters
    )


def cards_of(adapters: Sequence[FoundAdapter]) -> list[AdapterCard]:
    """The cards of those adapters that have one."""
    return [found.card for found in adapters if found.card is not None]

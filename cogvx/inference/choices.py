"""What a job leaves open and cards say: base, precision, how first frames are scaled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvx.adapters.card import AdapterCard
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

    Raises:
        ConfigError: Nobody says.
    """
    if job.base is not None:
        return BaseChoice(job.base, job.revision)
    for card in cards_of(adapters):
        return BaseChoice(card.base_path, card.base_revision)
    raise ConfigError(
        "no base is named, and no adapter's card says one; give a folder or a hub id with --base"
    )


def disagreements(job: GenerateJob, adapters: Sequence[FoundAdapter]) -> list[Problem]:
    """Adapters that cannot act together, by what their cards say."""
    problems = []
    told = [found for found in adapters if found.card is not None]
    for aspect, field in (("base", "base_fingerprint"), ("image scale", "image_latent_scale")):
        values: dict[object, str] = {}
        for found in told:
            value = getattr(found.card, field)
            if value is not None:
                values.setdefault(value, found.name)
        if len(values) > 1:
            each = ", ".join(f"{str(value)[:12]} of {ref}" for value, ref in values.items())
            wrong = f"have another {aspect} each: {each}"
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

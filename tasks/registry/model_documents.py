"""What the registry is asked for by people and programs, as small JSON documents."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from tasks.clients.journal import AliasMove


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionLine(_Document):
    """A version in a list; `heldout` is its held-out loss after training."""

    name: str
    version: int
    aliases: tuple[str, ...]
    verdict: str | None
    when: datetime | None
    heldout: float | None
    rank: str | None
    steps: str | None


class VersionPage(_Document):
    """Everything that is known of a version.

    `tags` holds all; `made_of` and `became` are those that a person reads. `decisions` are those
    about it or about its aliases, oldest first; `is_settled` says whether MLflow's aliases are
    those of the newest decision about the model.
    """

    line: VersionLine
    uri: str
    tags: dict[str, str]
    made_of: dict[str, str]
    became: dict[str, str]
    metrics: dict[str, float]
    decisions: tuple[AliasMove, ...]
    is_settled: bool
    run_id: str
    links: dict[str, str]


class PullReport(_Document):
    """What was put into a folder; `fetched` is False when the adapter was there already."""

    name: str
    version: int
    sha256: str
    adapter: str
    files: tuple[str, ...]
    fetched: bool


class Difference(_Document):
    """One thing that differs; None where one side does not have it."""

    name: str
    a: str | None
    b: str | None


class WeightsDiff(_Document):
    """How much two adapters add to the weights, over all layers, and how far they are apart.

    `relative_distance` is the distance in norms of a; None where a adds nothing.
    """

    norm_a: float
    norm_b: float
    distance: float
    relative_distance: float | None


class ModelsDiff(_Document):
    """What differs between two versions, by kind: made of, settings, results, weights.

    `weights` is None where the two files cannot be compared; `weights_missing` says why.
    """

    a: str
    b: str
    made_of: tuple[Difference, ...]
    settings: tuple[Difference, ...]
    results: tuple[Difference, ...]
    clips: str | None
    weights: WeightsDiff | None
    weights_missing: str | None

"""A version of an adapter as the registry knows it, and the tags that it is found by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mlflow.entities.model_registry import ModelVersion

from cogvx.adapters.card import AdapterCard
from tasks.clients.runs import RUN_TAG

ADAPTER_TAG = "cogvx.adapter"
MANIFEST_TAG = "cogvx.manifest"
COMMIT_TAG = "cogvx.commit"
DATASET_TAG = "cogvx.dataset"
HELDOUT_TAG = "cogvx.heldout"
BEFORE_TAG = "cogvx.heldout_before"
VAE_TAG = "cogvx.vae_fingerprint"
TEXT_TAG = "cogvx.text_fingerprint"

VERDICT_TAG = "cogvx.verdict"
REFERENCE_TAG = "cogvx.reference"
JUDGED_TAG = "cogvx.judged"
SETTLED_TAG = "cogvx.settled"
APPROVAL_TAG = "cogvx.approval"
NO_CHAMPION = "base"

SUITE_TAG = "cogvx.suite"
RULE_TAG = "cogvx.rule"
STAGE_TAG = "cogvx.stage"
LOOK_TAG = "cogvx.look"
HEADLINE_TAG = "cogvx.headline"
NEXT_TAG = "cogvx.next_step"
COMPARISONS_TAG = "cogvx.comparisons"
"""JSON: what each metric was asked for and what the rule said of it; numbers are metrics."""
JUDGED_AT_TAG = "cogvx.judged_at"

OVERRIDE_TAG = "cogvx.override"
"""The verdict that a person set aside when they promoted the version."""
REVIEW_TAG = "cogvx.review"
REVIEW_OF_TAG = "cogvx.review_of"
"""Names the judgement that a person was asked about; another one is asked about anew."""
REVIEW_BY_TAG = "cogvx.review_by"
REVIEW_WHY_TAG = "cogvx.review_why"
REVIEW_UNTIL_TAG = "cogvx.review_until"
REVIEW_RUN_TAG = "cogvx.review_run"
"""Prefect's flow run that asks."""

KEEP_TAG = "cogvx.keep"
"""Set by a person: what the version needs in the store stays, whatever the tag says but "false"."""
SWEPT_TAG = "cogvx.swept"
"""The day on which its adapter left the store; MLflow's own copy stays."""
COST_TAG = "cogvx.cost"
"""What it cost, in words; numbers are metrics of its run."""

RESULT_TAGS = frozenset(
    {
        COST_TAG,
        KEEP_TAG,
        SWEPT_TAG,
        HELDOUT_TAG,
        BEFORE_TAG,
        VERDICT_TAG,
        REFERENCE_TAG,
        SUITE_TAG,
        RULE_TAG,
        STAGE_TAG,
        LOOK_TAG,
        HEADLINE_TAG,
        NEXT_TAG,
        COMPARISONS_TAG,
        JUDGED_AT_TAG,
        OVERRIDE_TAG,
        REVIEW_TAG,
        REVIEW_OF_TAG,
        REVIEW_BY_TAG,
        REVIEW_WHY_TAG,
        REVIEW_UNTIL_TAG,
        REVIEW_RUN_TAG,
    }
)
"""Those that say what became of a version rather than what it was made of."""


@dataclass(frozen=True)
class Version:
    """A registered adapter. `run_id` is MLflow's run; the tag RUN_TAG holds ours."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    source: str
    tags: Mapping[str, str] = field(default_factory=dict)
    made: datetime | None = None

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.version}"


def lineage(card: AdapterCard) -> dict[str, str]:
    """A card as tags, for searching in MLflow."""
    told = {
        RUN_TAG: card.run,
        "cogvx.recipe": card.recipe,
        MANIFEST_TAG: card.manifest,
        "cogvx.base": card.base_path,
        "cogvx.base_revision": card.base_revision or "",
        "cogvx.base_fingerprint": card.base_fingerprint,
        "cogvx.rank": str(card.rank),
        "cogvx.alpha": str(card.alpha),
        "cogvx.origin": card.origin,
        "cogvx.steps": None if card.steps is None else str(card.steps),
        "cogvx.size": card.size,
        "cogvx.fps": None if card.fps is None else str(card.fps),
        "cogvx.code": card.code,
    }
    return {name: text for name, text in told.items() if text is not None}


def as_version(found: ModelVersion, aliases: tuple[str, ...] | None = None) -> Version:
    """What MLflow found; `aliases` where it does not tell them itself."""
    return Version(
        name=found.name,
        version=int(found.version),
        aliases=tuple(sorted(found.aliases)) if aliases is None else aliases,
        run_id=found.run_id or "",
        source=found.source,
        tags=dict(found.tags),
        made=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
    )

"""What people said of a verdict, kept in the tags of the version that it is about.

A review is of one judgement: whoever is judged anew, or against another champion, may be asked
about again.
"""

from datetime import UTC, datetime
from uuid import UUID

from cogvx.evaluation.history import Review, Reviewed
from tasks.clients.registry import Registry, Version
from tasks.clients.versions import (
    JUDGED_TAG,
    REFERENCE_TAG,
    REVIEW_BY_TAG,
    REVIEW_OF_TAG,
    REVIEW_RUN_TAG,
    REVIEW_TAG,
    REVIEW_UNTIL_TAG,
    REVIEW_WHY_TAG,
    SETTLED_TAG,
    VERDICT_TAG,
)
from tasks.registry.history import review_from

BY_HAND = 'cogvx promote RECIPE --approve "why"'


def judgement_name(version: Version) -> str:
    """Names the judgement that a version has: the rule, the verdict, whom it was compared with."""
    verdict, reference = version.tags[VERDICT_TAG], version.tags[REFERENCE_TAG]
    return f"{version.tags[JUDGED_TAG]}: {verdict} against {reference}"


def review_of(version: Version) -> Review | None:
    """What was said of the judgement that a version has now; None where nobody was asked."""
    if version.tags.get(REVIEW_OF_TAG) != judgement_name(version):
        return None
    return review_from(version.tags)


def asking_run_of(version: Version) -> UUID | None:
    """The flow run that asks about a version."""
    try:
        return UUID(version.tags.get(REVIEW_RUN_TAG, ""))
    except ValueError:
        return None


def keep_review(
    registry: Registry,
    version: Version,
    outcome: Reviewed,
    *,
    by: str = "",
    why: str = "",
    until: datetime | None = None,
    run: UUID | None = None,
) -> None:
    """Write down what was said, and that nothing is to do until the version is judged anew."""
    tags = {
        REVIEW_BY_TAG: by,
        REVIEW_WHY_TAG: why,
        REVIEW_UNTIL_TAG: "" if until is None else until.isoformat(),
        REVIEW_RUN_TAG: "" if run is None else str(run),
        REVIEW_OF_TAG: judgement_name(version),
        REVIEW_TAG: outcome,
    }
    registry.tag_version(version.name, version.version, tags)
    settle(registry, version)


def settle(registry: Registry, version: Version) -> None:
    """Say that a verdict was acted on."""
    settled = {SETTLED_TAG: version.tags[JUDGED_TAG]}
    registry.tag_version(version.name, version.version, settled)


def told(review: Review) -> str:
    """A review in words."""
    until = "" if review.until is None else f"{review.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    match review.outcome:
        case "asked":
            return f"a person is asked in Prefect until {until}"
        case "unanswered":
            return f"nobody answered until {until}"
        case _:
            return f"{review.outcome} by {review.by}: {review.why}"

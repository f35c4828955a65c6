"""Move the champion's alias, if the verdict and the recipe say so."""

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.errors import ConfigError
from tasks.clients.registry import CHAMPION, Registry, Version
from tasks.documents import PromoteReport
from tasks.lineage import (
    APPROVAL_TAG,
    JUDGED_TAG,
    NO_CHAMPION,
    REFERENCE_TAG,
    SETTLED_TAG,
    VERDICT_TAG,
    because,
)
from tasks.register import open_registry, registered_version
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


@task(name="promote adapter", cache_policy=NO_CACHE)
def promote_adapter(bench: Workbench, approval: str | None = None) -> PromoteReport:
    """Promote a version that was judged better than the champion of that moment.

    Args:
        bench: Names the recipe; its newest adapter is meant.
        approval: A person's reason, kept with the version. It stands in for
            `evaluation.auto_promote`, and lets a HOLD pass; REJECT and INVALID it does not.

    Raises:
        ConfigError: The version was never judged.
        UserError: The champion changed since the verdict.
    """
    registry = open_registry(bench)
    version = registered_version(bench, registry)
    if VERDICT_TAG not in version.tags:
        raise ConfigError(
            f"{version.name} version {version.version} has no verdict; run `cogvx evaluate` first"
        )
    promoted, reason = _decide(bench, registry, version, approval)
    settled = {SETTLED_TAG: version.tags[JUDGED_TAG]}
    registry.tag_version(version.name, version.version, settled)
    now = registry.version(version.name, version.version)
    logger.info("%s", reason)
    return PromoteReport(
        name=now.name, version=now.version, promoted=promoted, aliases=now.aliases, reason=reason
    )


def _decide(
    bench: Workbench, registry: Registry, version: Version, approval: str | None
) -> tuple[bool, str]:
    """Promote or not, and the sentence that says why."""
    who, verdict = f"version {version.version}", version.tags[VERDICT_TAG]
    if CHAMPION in version.aliases:
        return False, f"{who} is the champion already"
    if verdict != "PROMOTE" and not (approval and verdict == "HOLD"):
        return False, f"{who} stays challenger: the verdict is {verdict}"
    rejected = _rolled_back(registry, version)
    if not approval and rejected is not None:
        how = 'cogvx promote RECIPE --approve "why"'
        return False, f"{who} stays challenger, as it was rolled back: {rejected}; or use {how}"
    if not approval and not bench.recipe.evaluation.auto_promote:
        how = 'cogvx promote RECIPE --approve "why"'
        return False, f"{who} stays challenger until a person approves: {how}"
    reference = version.tags[REFERENCE_TAG]
    expected = None if reference == NO_CHAMPION else int(reference)
    tags = {APPROVAL_TAG: approval} if approval else {}
    registry.promote(
        version.name,
        version.version,
        expected_champion=expected,
        tags=tags,
        reason=because(approval or f"judged {verdict} against {reference}", version),
    )
    before = "the first" if expected is None else f"instead of version {expected}"
    return True, f"{who} is now the champion, {before}"


def _rolled_back(registry: Registry, version: Version) -> str | None:
    """Why people went back from a version, unless somebody promoted it again since."""
    for move in reversed(registry.history(version.name)):
        if move.version == version.version and move.act in ("promoted", "rolled back"):
            return move.why if move.act == "rolled back" else None
    return None

"""Move the champion's alias, if the verdict allows it and the recipe or a person says so."""

import logging
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.errors import ConfigError, UserError
from cogvx.evaluation.suite import load_suite
from tasks.clients.journal import whoami
from tasks.clients.registry import CHAMPION, Registry, Version
from tasks.clients.versions import OVERRIDE_TAG
from tasks.documents import PromoteReport
from tasks.lineage import (
    APPROVAL_TAG,
    JUDGED_TAG,
    NO_CHAMPION,
    REFERENCE_TAG,
    VERDICT_TAG,
    because,
    is_judged_by,
)
from tasks.pages.labels import champion_tag, label_run, tag_run
from tasks.registry.reviews import BY_HAND, keep_review, review_of, settle, told
from tasks.training.register import open_registry, registered_version
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)

_OVERRIDABLE = "HOLD"
_ENDED = ("rejected", "unanswered")


@task(name="promote adapter", cache_policy=NO_CACHE)
def promote_adapter(bench: Workbench, approval: str | None = None, by: str = "") -> PromoteReport:
    """Promote a version that was judged better than the champion of that moment.

    Args:
        bench: Names the recipe; its newest adapter is meant.
        approval: A person's reason, kept with the version. It stands in for
            `evaluation.auto_promote`, and lets a HOLD pass, which is written down; REJECT and
            INVALID it does not.
        by: That person; without a name, the user of this process.

    Returns:
        What happened. Where a person is to decide nothing has, and the verdict is not settled.

    Raises:
        ConfigError: The version was never judged, or by another suite or rule than now.
        UserError: The champion changed since the verdict, or the reason is blank.
    """
    if approval is not None and not approval.strip():
        raise UserError('a reason is needed: --approve "why"; it is kept with the version')
    registry = open_registry(bench)
    version = judged_version(bench, registry)
    label_run(bench, bench.run_identity(bench.latest_manifest()))
    report = _decide(bench, registry, version, approval, by or whoami())
    if not report.needs_person:
        settle(registry, version)
    champion = registry.aliases(version.name).get(CHAMPION)
    tag_run(f"verdict:{version.tags[VERDICT_TAG]}", champion_tag(champion))
    logger.info("%s", report.reason)
    return report


@task(name="reject adapter", cache_policy=NO_CACHE)
def reject_adapter(bench: Workbench, why: str, by: str) -> PromoteReport:
    """Leave a version challenger on a person's word, which is kept with it."""
    registry = open_registry(bench)
    version = judged_version(bench, registry)
    if CHAMPION in version.aliases:
        why = f"version {version.version} is the champion already; roll it back if it is bad"
        return report_of(registry, version, why)
    keep_review(registry, version, "rejected", by=by, why=why)
    return report_of(registry, version, _stays(version, f"rejected by {by}: {why}"))


def judged_version(bench: Workbench, registry: Registry) -> Version:
    """The version of the newest adapter, with its verdict.

    Raises:
        ConfigError: It is not registered, was never judged, or by another rule than now. Of a
            champion the verdict was acted on, so it may be of any rule.
    """
    version = registered_version(bench, registry)
    # All three, as an evaluation may have been killed between them.
    if not {VERDICT_TAG, REFERENCE_TAG, JUDGED_TAG} <= version.tags.keys():
        raise ConfigError(
            f"{version.name} version {version.version} has no verdict; run `cogvx evaluate` first"
        )
    suite = load_suite(Path(bench.recipe.evaluation.suite))
    if CHAMPION not in version.aliases and not is_judged_by(version, bench.recipe, suite):
        raise ConfigError(
            f"the verdict on {version.name} version {version.version} is of another suite, rule or "
            "section [evaluation] than now; run `cogvx evaluate` again"
        )
    return version


def report_of(
    registry: Registry,
    version: Version,
    reason: str,
    *,
    promoted: bool = False,
    needs_person: bool = False,
) -> PromoteReport:
    """A report with the aliases as they are now."""
    return PromoteReport(
        name=version.name,
        version=version.version,
        promoted=promoted,
        aliases=registry.version(version.name, version.version).aliases,
        reason=reason,
        needs_person=needs_person,
    )


def _decide(
    bench: Workbench, registry: Registry, version: Version, approval: str | None, by: str
) -> PromoteReport:
    """Promote or not, and the sentence that says why."""
    obstacle = _obstacle(registry, version, approved=approval is not None)
    if obstacle:
        return report_of(registry, version, obstacle)
    verdict, automatic = version.tags[VERDICT_TAG], bench.recipe.evaluation.auto_promote
    if approval is not None:
        return _promote(registry, version, approval, by)
    if automatic and verdict == "PROMOTE":
        return _promote(registry, version)
    if automatic:
        return report_of(registry, version, _stays(version, f"the verdict is {verdict}"))
    how = f"until a person approves: {BY_HAND}"
    if verdict != "PROMOTE":
        how = f"the verdict is {verdict}, unless a person approves: {BY_HAND}"
    return report_of(registry, version, _stays(version, how), needs_person=True)


def _obstacle(registry: Registry, version: Version, *, approved: bool) -> str:
    """Why a version is not promoted whatever the recipe says; empty where nothing is in the way."""
    verdict = version.tags[VERDICT_TAG]
    if CHAMPION in version.aliases:
        return f"version {version.version} is the champion already"
    if verdict not in ("PROMOTE", _OVERRIDABLE):
        return _stays(version, f"the verdict is {verdict}")
    if approved:
        return ""
    rejected = _rolled_back(registry, version)
    if rejected is not None:
        return _stays(version, f"as it was rolled back: {rejected}; or use {BY_HAND}")
    review = review_of(version)
    if review is not None and review.outcome in _ENDED:
        return _stays(version, f"{told(review)}; or use {BY_HAND}")
    return ""


def _promote(
    registry: Registry, version: Version, approval: str | None = None, by: str = ""
) -> PromoteReport:
    """Move the alias, if the champion is still the one that it was judged against."""
    verdict, reference = version.tags[VERDICT_TAG], version.tags[REFERENCE_TAG]
    expected = None if reference == NO_CHAMPION else int(reference)
    overruled = verdict != "PROMOTE"
    tags = {} if approval is None else {APPROVAL_TAG: approval}
    tags |= {OVERRIDE_TAG: verdict} if overruled else {}
    reason = because(
        approval or f"judged {verdict} against {reference}",
        version,
        who=by if approval else "",
        overruled=overruled,
    )
    registry.promote(
        version.name, version.version, expected_champion=expected, tags=tags, reason=reason
    )
    if approval is not None:
        keep_review(registry, version, "approved", by=by, why=approval)
    before = "the first" if expected is None else f"instead of version {expected}"
    said = f"version {version.version} is now the champion, {before}"
    if approval is not None:
        said += f"; approved by {by}" + (f" in spite of {verdict}" if overruled else "")
    return report_of(registry, version, said, promoted=True)


def _stays(version: Version, why: str) -> str:
    return f"version {version.version} stays challenger: {why}"


def _rolled_back(registry: Registry, version: Version) -> str | None:
    """Why people went back from a version, unless somebody promoted it again since."""
    for move in reversed(registry.history(version.name)):
        if move.version == version.version and move.act in ("promoted", "rolled back"):
            return move.why if move.act == "rolled back" else None
    return None

"""Let a person decide on a verdict, in Prefect's pages: approve or reject, with reason and name.

The flow run that asks is suspended, so that it holds no process and no worker, and is run again
from the top when somebody has answered. A second run of the same work, scheduled for the end of the
time, finds that nobody did. Where nobody could answer, a version stays challenger as it is.
"""

import logging
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cogvx.digest import digest
from tasks.clients import questions
from tasks.clients.pool import open_pool, page_of_run
from tasks.clients.registry import Registry, Version
from tasks.clients.versions import NO_CHAMPION, REFERENCE_TAG, VERDICT_TAG
from tasks.documents import PromoteReport
from tasks.evaluation.judged import judgement_page, show_judgement
from tasks.evaluation.promote import judged_version, promote_adapter, reject_adapter, report_of
from tasks.registry.history import judgement_from, links_of, picture_of
from tasks.registry.reviews import (
    BY_HAND,
    asking_run_of,
    judgement_name,
    keep_review,
    review_of,
    settle,
    told,
)
from tasks.training.register import open_registry
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


def ask_person(
    bench: Workbench, report: PromoteReport, hours: float | None = None
) -> PromoteReport:
    """Wait for a person where one can answer; else say how a person decides.

    Args:
        bench: Names the recipe; its newest adapter is meant.
        report: That a person is needed, as `promote_adapter` says.
        hours: How long to wait; None for what the settings say.

    Raises:
        UserError: The champion changed since the verdict.
        ConfigError: The deployment that is to ask is not there.
        TransientError: Prefect's server did not answer.
    """
    registry, mine = open_registry(bench), questions.asking_run()
    version = judged_version(bench, registry)
    other = _asked_elsewhere(registry, version, mine)
    if other:
        return report_of(registry, version, f"version {version.version} stays challenger: {other}")
    if mine is not None:
        return _ask(bench, registry, version, mine, hours or bench.settings.approval_hours)
    if bench.settings.promote_deployment:
        return _hand_over(bench, registry, version)
    settle(registry, version)
    return report


def _asked_elsewhere(registry: Registry, version: Version, mine: UUID | None) -> str:
    """What became of the question that another flow run asks; empty where none does."""
    review, run = review_of(version), asking_run_of(version)
    if review is None or review.outcome != "asked" or run is None or run == mine:
        return ""
    is_over = review.until is not None and datetime.now(UTC) >= review.until
    if not is_over and not questions.is_reminder_of(run):  # whose clock may be another
        if mine is None or questions.is_open(run):
            return f"{told(review)}: {page_of_run(run) or run}"
        return ""  # it was cancelled or removed, so this one asks
    if mine is not None and not questions.close(run, "nobody answered in time"):
        return "a person has just answered"
    keep_review(registry, version, "unanswered", until=review.until)
    over = review.model_copy(update={"outcome": "unanswered"})
    logger.info("version %d stays challenger: %s", version.version, told(over))
    return f"{told(over)}; or use {BY_HAND}"


def _ask(
    bench: Workbench, registry: Registry, version: Version, mine: UUID, hours: float
) -> PromoteReport:
    """Ask in this flow run, which ends here, or take the answer that started it again.

    An answer to an earlier judgement changes nothing: the run asks about the one of now.
    """
    review = review_of(version)
    if review is None and asking_run_of(version) == mine:
        logger.warning(
            "version %d was judged again since this run asked; an answer to the judgement before "
            "changes nothing, and the question is asked anew",
            version.version,
        )
    until = None if review is None or asking_run_of(version) != mine else review.until
    if until is None:
        until = (datetime.now(UTC) + timedelta(hours=hours)).replace(microsecond=0)
        questions.forget_reminder(mine)  # of a question about an earlier judgement
        questions.remind(mine, until)
        keep_review(registry, version, "asked", until=until, run=mine)
    text = _question(registry, version, until)
    answer = questions.ask(text, until, about=_key(version)[:16])
    questions.forget_reminder(mine)
    if answer.decision == "approve":
        return promote_adapter(bench, answer.reason.strip(), answer.name.strip())
    return reject_adapter(bench, answer.reason.strip(), answer.name.strip())


def _question(registry: Registry, version: Version, until: datetime) -> str:
    """What a person reads above the form; an artifact of the run that asks has it all.

    Above the form it is short, as the form is below it.
    """
    run = registry.facts_of_runs([version.run_id]).get(version.run_id)
    judgement = judgement_from(version, run)
    assert judgement is not None  # as whoever has no verdict is not asked about
    who = f"{version.name} v{version.version}"
    note = (
        f"Approve, and it becomes the champion{_instead(version)}. Reject, or give no answer until "
        f"{until:%Y-%m-%d %H:%M} UTC, and it stays challenger."
    )
    if version.tags[VERDICT_TAG] != "PROMOTE":
        note += f" To approve is to override {judgement.verdict}; that is written down."
    links = links_of(registry, version, run)
    page = judgement_page(who, judgement, links, note=note, picture=picture_of(registry, version))
    show_judgement(who, version.name, judgement, links, page=page)
    return judgement_page(who, judgement.model_copy(update={"measures": ()}), links, note=note)


def _instead(version: Version) -> str:
    reference = version.tags[REFERENCE_TAG]
    return "" if reference == NO_CHAMPION else f" instead of v{reference}"


def _hand_over(bench: Workbench, registry: Registry, version: Version) -> PromoteReport:
    """Have a run of the deployment ask, once, and let it."""
    deployment, key = bench.settings.promote_deployment, _key(version)
    with open_pool(deployment) as pool:
        run = pool.start(
            f"promote {bench.recipe.name}",
            key,
            tag=f"asks:{key[:16]}",
            parameters={"recipe": bench.recipe.model_dump(mode="json", exclude_none=True)},
            is_child=False,
        )
        trouble = pool.trouble(running=False)
    if trouble:
        logger.warning("%s", trouble)
    where = page_of_run(run) or f"flow run {run}"
    how = f"until a person approves in Prefect: {where}" + (f"; {trouble}" if trouble else "")
    return report_of(registry, version, f"version {version.version} stays challenger {how}")


def _key(version: Version) -> str:
    return digest([version.uri, judgement_name(version)])

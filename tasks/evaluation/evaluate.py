"""Judge what was rendered: a verdict with its report, or after a HOLD what a second look needs."""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.errors import IntegrityError
from cogvx.evaluation.documents import EvaluationReport
from cogvx.evaluation.looks import wants_second_look
from tasks.clients.registry import CHAMPION, Registry
from tasks.clients.stores import kept_on_disk
from tasks.documents import EvaluateReport
from tasks.evaluation.evaluate_plan import EvaluationWork
from tasks.evaluation.judged import keep_judgement
from tasks.evaluation.measure_documents import MeasureReport
from tasks.evaluation.measure_shards import cut_drifts, measurer_of
from tasks.generation.generate_documents import VideoShardReport
from tasks.lineage import NO_CHAMPION
from tasks.pools.children import Child, Ended
from tasks.pools.dispatch import require_all
from tasks.pools.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.training.describe import describe_judged, page_of
from tasks.training.register import open_registry
from tasks.workbench import Workbench

if TYPE_CHECKING:
    from cogvx.evaluation.report import ReportFiles
    from tasks.evaluation.contest import Contested

logger = logging.getLogger(__name__)


@task(
    name="plan drift",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def plan_drift(
    bench: Workbench, work: EvaluationWork, rendered: Sequence[Ended[VideoShardReport]]
) -> tuple[Child, ...]:
    """The runs of `measure-shard` that measure what needs the videos; none after a screen.

    Raises:
        CogvxError: As `judge_evaluation` does, of shards that failed.
    """
    _reasons(work, rendered)
    if work.stopped is not None:
        return ()
    return cut_drifts(bench, work.match.arms, work.match.suite, work.match.manifest)


@task(
    name="judge videos",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def judge_evaluation(
    bench: Workbench,
    work: EvaluationWork,
    rendered: Sequence[Ended[VideoShardReport]],
    measured: Sequence[Ended[MeasureReport]] = (),
) -> EvaluateReport | EvaluationWork:
    """Score and judge; the verdict is written down, unless more seeds could turn it.

    A video that could not be rendered makes the verdict INVALID and is named in it, and so does a
    champion that is another one than when the evaluation began.

    Raises:
        CogvxError: Runs failed for reasons that have nothing to do with their videos or arms, such
            as workers that died; what was made is kept.
    """
    whys = _reasons(work, rendered)
    found = _judge(bench, work, whys, measured) if work.stopped is None else work.stopped
    return found if isinstance(found, EvaluationWork) else _settle(bench, work, found)


def _reasons(work: EvaluationWork, ended: Sequence[Ended[VideoShardReport]]) -> Mapping[str, str]:
    """Why videos could not be rendered, by their keys."""
    whys: dict[str, str] = {}
    for cut, end in zip(work.cuts, ended, strict=True):
        if isinstance(end.error, IntegrityError):  # the arm's own fault: its adapter was refused
            whys |= dict.fromkeys(cut.keys.values(), str(end.error))
        if end.report is not None:
            whys |= {cut.keys[failed.name]: failed.why for failed in end.report.failed}
    require_all([end for end in ended if not isinstance(end.error, IntegrityError)])
    return whys


def _judge(
    bench: Workbench,
    work: EvaluationWork,
    whys: Mapping[str, str],
    measured: Sequence[Ended[MeasureReport]],
) -> "Contested | EvaluationWork":
    """What the videos tell, and after the last look the challenger at other weights as well."""
    from cogvx.evaluation.render import find_footage  # noqa: PLC0415 - loads the GPU stack
    from tasks.evaluation.contest import judge_videos  # noqa: PLC0415
    from tasks.evaluation.gauges import look_around  # noqa: PLC0415
    from tasks.evaluation.measure import setting_of  # noqa: PLC0415
    from tasks.evaluation.sweep import with_sweep  # noqa: PLC0415

    match, measurer = work.match, measurer_of(bench, measured)
    footage = functools.partial(
        find_footage,
        setting=setting_of(bench),
        store=kept_on_disk(bench.store, bench.settings),
        work=bench.work / "videos",
        fresh=work.fresh,
        whys=whys,
    )
    around = look_around(bench, match.suite, match.manifest)
    shown = [footage(arm, match.suite) for arm in match.arms]
    contested = judge_videos(bench, match, shown, around, measurer)
    if wants_second_look(contested.report.verdict, match.suite.gate):
        logger.info("HOLD: two more seeds are rendered, and everything is judged once more")
        return replace(work, match=match.second_look()).cut(bench)
    report = with_sweep(bench, contested.report, match, footage=footage, measurer=measurer)
    return replace(contested, report=report)


def _settle(bench: Workbench, work: EvaluationWork, contested: "Contested") -> EvaluateReport:
    """Write the verdict down, for people and for the next stage."""
    registry, version = open_registry(bench), work.version
    report = _unless_moved(registry, work, contested.report)
    pages = _write(bench, registry, work, replace(contested, report=report))
    keep_judgement(
        registry,
        version,
        report,
        reference=NO_CHAMPION if work.reference is None else str(work.reference),
        judged=work.judged,
        page=str(pages.html),
    )
    videos = [video for arm in contested.arms for video in arm.videos]
    rendered = sum(video.fresh for video in videos)
    return EvaluateReport(
        name=version.name,
        version=version.version,
        reference=report.verdict.reference,
        verdict=report.verdict.outcome,
        reasons=report.verdict.reasons,
        report=str(pages.html),
        sheet=str(pages.contact_sheet),
        videos_rendered=rendered,
        videos_reused=len(videos) - rendered,
    )


def _unless_moved(
    registry: Registry, work: EvaluationWork, report: EvaluationReport
) -> EvaluationReport:
    """The report, if the champion is still who it was when the evaluation began."""
    now = registry.aliases(work.version.name).get(CHAMPION)
    if now == work.champion:
        return report
    before, after = (
        "there was none" if number is None else f"it was version {number}"
        for number in (work.champion, now)
    )
    fault = (
        f"The champion changed while this was judged: {before} at the start, and {after} at the"
        " end."
    )
    verdict = report.verdict.model_copy(
        update={
            "outcome": "INVALID",
            "headline": f"Nothing was decided: {fault}",
            "reasons": (fault,),
            "next_step": "Evaluate again; videos that are there are not rendered again.",
            "composite": None,
            "comparisons": (),
        }
    )
    return report.model_copy(update={"verdict": verdict})


def _write(
    bench: Workbench, registry: Registry, work: EvaluationWork, contested: "Contested"
) -> "ReportFiles":
    """Write the report and keep it with the MLflow run."""
    from cogvx.evaluation.report import write_report  # noqa: PLC0415 - decodes videos
    from tasks.evaluation.stills import stills_of  # noqa: PLC0415

    report, version = contested.report, work.version
    videos = {
        (arm.arm.name, video.prompt_id, video.seed): video.path
        for arm in contested.arms
        for video in arm.videos
    }
    folder = bench.settings.report_folder(bench.run_identity(work.match.manifest))
    stills = stills_of(bench, report, work.match.manifest)
    files = write_report(report, videos, folder, stills=stills)
    registry.log_artifact(version.run_id, folder, folder="evaluation")
    page = page_of(bench, contested.arms[-1].arm.adapters[0].path)
    describe_judged(registry, version, page, report, videos)
    return files

"""Publish what a retraining did: an artifact of its flow run, tags to find it by, MLflow's note."""

import logging
from collections.abc import Mapping, Sequence
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from cogvx.errors import TransientError
from tasks.clients.pool import page_of_run
from tasks.clients.registry import CHAMPION, Registry
from tasks.clients.runs import NOTE_CHARACTERS, NOTE_TAG
from tasks.documents import RetrainReport
from tasks.pages.labels import champion_tag, tag_run
from tasks.pages.shown import shown
from tasks.registry.history import judgement_from, links_of, picture_of
from tasks.retraining.summary_page import Around, StageTime, summary_page
from tasks.training.register import open_registry
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


def publish_summary(bench: Workbench, report: RetrainReport) -> RetrainReport:
    """Make the summary an artifact of the running flow, and MLflow's note on the run.

    A retraining that came this far has not failed, so it does not where MLflow is away now.
    """
    try:
        around = _around(bench, report, open_registry(bench))
    except TransientError as error:
        logger.warning("the summary has no links: %s", error)
        around = Around(stages=stage_times())
    name = bench.recipe.name
    with shown("summary"):
        create_markdown_artifact(
            summary_page(report, around), key=f"summary-{name}", description=f"Summary of {name}"
        )
    return report


def stage_times(run: UUID | None = None) -> tuple[StageTime, ...]:
    """How long the flows ran that a flow run started, here or elsewhere; by stage.

    Without `run` it is the one under way, if any.
    """
    context = FlowRunContext.get()
    if run is None and context is not None and context.flow_run is not None:
        run = context.flow_run.id
    if run is None:
        return ()
    mine = FlowRunFilterParentFlowRunId(any_=[run])
    chosen = FlowRunFilter(parent_flow_run_id=mine)
    runs, names = list[FlowRun](), dict[UUID, str]()
    with shown("stages"), get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=chosen)
        names = {flow.id: flow.name for flow in client.read_flows(flow_run_filter=chosen)}
    return _by_stage(runs, names)


def _by_stage(runs: Sequence[FlowRun], names: Mapping[UUID, str]) -> tuple[StageTime, ...]:
    """The first to start comes first; one whose flow nobody could name goes by its own name."""
    stages: dict[str, StageTime] = {}
    for run in sorted(runs, key=lambda run: run.created.timestamp() if run.created else 0.0):
        name = names.get(run.flow_id, run.name)
        before = stages.get(name, StageTime(name, "", 0.0))
        stages[name] = StageTime(
            name=name,
            state=run.state_name or "",
            seconds=before.seconds + run.total_run_time.total_seconds(),
            waited=before.waited + _waited(run),
            page=page_of_run(run.id),
            tags=tuple(run.tags),
        )
    return tuple(stages.values())


def _around(bench: Workbench, report: RetrainReport, registry: Registry) -> Around:
    """The links of the version, and what its judgement says; tags and note on the way."""
    found = report.unchanged or report.register_
    if found is None:
        return Around(stages=stage_times())
    version = registry.version(found.name, found.version)
    run = registry.facts_of_runs([version.run_id]).get(version.run_id)
    judgement = judgement_from(version, run)
    links = links_of(registry, version, run)
    around = Around(
        stages=stage_times(),
        links={f"{name}, in MLflow": address for name, address in links.items()},
        places=_places(bench, report, served=bool(links)),
        headline="" if judgement is None else judgement.headline,
        picture=picture_of(registry, version),
    )
    champion = registry.aliases(found.name).get(CHAMPION)
    tag_run(
        f"verdict:{'none' if judgement is None else judgement.verdict}",
        champion_tag(champion),
    )
    if report.unchanged is None and version.run_id:
        note = summary_page(report, around)[:NOTE_CHARACTERS]
        registry.set_run_tags(version.run_id, {NOTE_TAG: note})
    return around


def _places(bench: Workbench, report: RetrainReport, *, served: bool) -> dict[str, str]:
    """What a browser does not open: files and folders."""
    places: dict[str, str] = {}
    if report.evaluate is not None and not served:
        places |= {"report": report.evaluate.report, "look here": report.evaluate.sheet}
    if report.cache is not None and report.cache.page:
        places["dataset"] = report.cache.page
    if report.train is not None:
        places["adapter"] = report.train.adapter
        places["checkpoints"] = f"{bench.store.url.rstrip('/')}/runs/{report.train.run}/"
    return places


def _waited(run: FlowRun) -> float:
    """Seconds between the moment at which a run could begin and its beginning."""
    if run.start_time is None or run.expected_start_time is None:
        return 0.0
    return max(0.0, (run.start_time - run.expected_start_time).total_seconds())

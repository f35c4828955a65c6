"""Judge the registered adapter: who it is compared with, the verdict, and where it is kept."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.data.manifest import Manifest
from cogvx.errors import ConfigError
from cogvx.evaluation.documents import EvaluationReport
from cogvx.evaluation.suite import Suite, load_suite
from cogvx.evaluation.suite_texts import overlap_problems
from tasks.clients.registry import ADAPTER_TAG, CHAMPION, Registry, Version
from tasks.describe import describe_judged, page_of
from tasks.documents import EvaluateReport
from tasks.judged import keep_judgement
from tasks.lineage import NO_CHAMPION, REFERENCE_TAG, judgement
from tasks.register import open_registry, registered_version
from tasks.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.workbench import Workbench, code_version

if TYPE_CHECKING:
    from cogvx.evaluation.render import Arm
    from cogvx.evaluation.report import ReportFiles
    from tasks.measure import MeasuredArm

logger = logging.getLogger(__name__)


@task(
    name="evaluate adapter",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def evaluate_adapter(bench: Workbench) -> EvaluateReport:
    """Compare the newest version with the champion, or with the bare base while there is none.

    Raises:
        ConfigError: The adapter is not registered, or the suite asks for training captions.
        IntegrityError: An adapter has no effect, or a file is not the registered one.
    """
    manifest, registry = bench.latest_manifest(), open_registry(bench)
    version = registered_version(bench, registry)
    champion = _to_beat(registry, version)
    suite = _suite(bench, manifest)

    from tasks.contest import hold_contest  # noqa: PLC0415 - loads the GPU stack
    from tasks.evaluation_index import write_index  # noqa: PLC0415

    asked = _arms(bench, registry, version, champion)
    write_index(bench, asked, suite, manifest)
    contested = hold_contest(
        bench,
        asked,
        suite,
        manifest,
        model=bench.recipe.name,
        provenance=_provenance(bench, manifest, version),
    )
    report, arms = contested.report, contested.arms
    pages = _write(bench, registry, version, report, arms)
    reference = NO_CHAMPION if champion is None else str(champion.version)
    keep_judgement(
        registry,
        version,
        report,
        reference=reference,
        judged=judgement(bench.recipe, suite),
        page=str(pages.html),
    )
    videos = [video for arm in arms for video in arm.videos]
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


def _to_beat(registry: Registry, version: Version) -> Version | None:
    """The champion; for the champion itself, whoever it was judged against before."""
    champion = registry.get_alias(version.name, CHAMPION)
    if champion is None or champion.version != version.version:
        return champion
    before = version.tags.get(REFERENCE_TAG, NO_CHAMPION)
    return None if before == NO_CHAMPION else registry.version(version.name, int(before))


def _suite(bench: Workbench, manifest: Manifest) -> Suite:
    path = bench.recipe.evaluation.suite
    suite = load_suite(Path(path))
    problems = overlap_problems(suite, [clip.caption for clip in manifest.train])
    if problems:
        raise ConfigError(path, problems)
    return suite


def _arms(
    bench: Workbench, registry: Registry, version: Version, champion: Version | None
) -> "tuple[Arm, ...]":
    """Base, champion if there is one, and last the challenger."""
    from cogvx.evaluation.render import Arm  # noqa: PLC0415 - loads torch
    from cogvx.inference.batch import AdapterAtWeight  # noqa: PLC0415

    arms = [Arm("base")]
    for role, found in (("champion", champion), ("challenger", version)):
        if found is not None:
            folder = bench.work / "adapters" / f"{found.name}-{found.version}"
            path = registry.download(found.name, found.version, folder)
            adapter = AdapterAtWeight(found.tags[ADAPTER_TAG], path)
            arms.append(Arm(f"{role} v{found.version}", (adapter,)))
    return tuple(arms)


def _provenance(bench: Workbench, manifest: Manifest, version: Version) -> dict[str, str]:
    return {
        "registered as": version.uri,
        "recipe": bench.recipe.training_digest(),
        "clips": f"{bench.dataset.url} ({manifest.count_clips(manifest.clips)} accepted)",
        "manifest": manifest.content_digest(),
        "base": f"{bench.recipe.base.path} {bench.base_fingerprint[:16]}",
        "adapter": version.tags[ADAPTER_TAG],
        "run": bench.run_identity(manifest),
        "cogvx": code_version(),
    }


def _write(
    bench: Workbench,
    registry: Registry,
    version: Version,
    report: EvaluationReport,
    arms: "tuple[MeasuredArm, ...]",
) -> "ReportFiles":
    """Write the report and keep it with the MLflow run."""
    from cogvx.evaluation.report import write_report  # noqa: PLC0415 - decodes videos

    videos = {
        (arm.arm.name, video.prompt_id, video.seed): video.path
        for arm in arms
        for video in arm.videos
    }
    folder = bench.settings.report_folder(bench.run_identity(bench.latest_manifest()))
    files = write_report(report, videos, folder)
    registry.log_artifact(version.run_id, folder, folder="evaluation")
    page = page_of(bench, arms[-1].arm.adapters[0].path)
    describe_judged(registry, version, page, report, videos)
    return files

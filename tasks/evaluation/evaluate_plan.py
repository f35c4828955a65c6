"""Plan an evaluation: who meets whom, the screen before any video, shards of what is missing."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.data.manifest import Manifest
from cogvx.evaluation.changes import recipe_changes
from cogvx.evaluation.documents import Change
from tasks.caching.suites import suite_apart
from tasks.clients.model_card import recipe_toml
from tasks.clients.registry import ADAPTER_TAG, CHAMPION, Registry, Version
from tasks.evaluation.evaluate_shards import Cut, cut_missing
from tasks.evaluation.measure_documents import MeasureReport
from tasks.evaluation.measure_shards import cut_losses, measurer_of
from tasks.lineage import NO_CHAMPION, REFERENCE_TAG, judgement
from tasks.pools.children import Child, Ended
from tasks.pools.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.registry.models import RECIPE_FILE
from tasks.training.register import open_registry, registered_version
from tasks.workbench import Workbench, code_version

if TYPE_CHECKING:
    from cogvx.evaluation.render import Arm
    from tasks.evaluation.contest import Contested, Match

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationWork:
    """What is left to do before a verdict.

    Attributes:
        version: Who is judged.
        champion: The version with that alias when the evaluation began.
        reference: Number of the version that it meets; None for the base.
        judged: Names all that the verdict depends on, see `tasks.lineage.judgement`.
        match: The arms and all that they are judged with, at this look; without losses until those
            of all arms are known.
        unmeasured: Runs of `measure-shard` that measure the losses which are not.
        cuts: Shards of the videos that are missing; none after a screen that decided.
        fresh: Keys of all videos that were missing, also at the look before.
        stopped: What the screen decided.
    """

    version: Version
    champion: int | None
    reference: int | None
    judged: str
    match: "Match"
    unmeasured: tuple[Child, ...] = ()
    cuts: tuple[Cut, ...] = ()
    fresh: frozenset[str] = field(default=frozenset())
    stopped: "Contested | None" = None

    @property
    def children(self) -> tuple[Child, ...]:
        """The runs of `generate-shard` that render what is missing."""
        return tuple(cut.child for cut in self.cuts)

    def cut(self, bench: Workbench) -> "EvaluationWork":
        """The same with shards of what the store lacks at this look, and of the sweep."""
        from tasks.evaluation.sweep import sweep_of  # noqa: PLC0415 - loads the GPU stack

        cuts = cut_missing(bench, self.match.arms, self.match.suite)
        sweep = sweep_of(bench, self.match.arms[-1])
        if sweep is not None:
            cuts += cut_missing(bench, sweep.arms, sweep.suite)
        missing = {key for cut in cuts if cut.is_missing for key in cut.keys.values()}
        return replace(self, cuts=cuts, fresh=self.fresh | missing)


@task(
    name="enter evaluation",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def enter_evaluation(bench: Workbench) -> EvaluationWork:
    """Name the arms, and cut what must be measured before anything else into runs.

    Whoever is judged meets the champion, or the bare base while there is none.

    Raises:
        ConfigError: The adapter is not registered, or the suite asks for training captions.
        IntegrityError: A file is not the registered one.
    """
    from tasks.evaluation.contest import Match  # noqa: PLC0415 - loads the GPU stack
    from tasks.evaluation.evaluation_index import write_index  # noqa: PLC0415

    manifest, registry = bench.latest_manifest(), open_registry(bench)
    version = registered_version(bench, registry)
    holder = registry.get_alias(version.name, CHAMPION)
    meets = _to_beat(registry, version, holder)
    suite = suite_apart(bench.recipe, manifest)
    arms = _arms(bench, registry, version, meets, title=reference_title(meets, holder))
    write_index(bench, arms, suite, manifest)
    return EvaluationWork(
        version=version,
        champion=None if holder is None else holder.version,
        reference=None if meets is None else meets.version,
        judged=judgement(bench.recipe, suite),
        match=Match(
            model=bench.recipe.name,
            arms=arms,
            suite=suite,
            manifest=manifest,
            losses={},
            provenance=_provenance(bench, manifest, version),
            changes=() if meets is None else _changes(bench, registry, meets),
        ),
        unmeasured=cut_losses(bench, arms, manifest),
    )


@task(
    name="plan evaluation",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def plan_evaluation(
    bench: Workbench, work: EvaluationWork, measured: Sequence[Ended[MeasureReport]]
) -> EvaluationWork:
    """Know the held-out losses of all arms, and cut the videos that are missing into shards.

    Raises:
        ConfigError: The recipe's networks cannot be had.
        IntegrityError: An adapter does not fit the base.
        RecordsLost: Records of held-out clips are absent or damaged.
        CogvxError: Runs that were to measure failed.
    """
    from tasks.evaluation.contest import stop_early  # noqa: PLC0415 - loads the GPU stack
    from tasks.evaluation.gauges import look_around  # noqa: PLC0415
    from tasks.evaluation.measure import measure_losses  # noqa: PLC0415

    match = work.match
    losses = measure_losses(bench, match.arms, match.manifest, measurer_of(bench, measured))
    work = replace(work, match=replace(match, losses=losses))
    stopped = stop_early(bench, work.match)
    if stopped is not None:
        return replace(work, stopped=stopped)
    work = work.cut(bench)
    if work.cuts:
        # what it refuses is refused before videos are made
        look_around(bench, match.suite, match.manifest)
    return work


def _to_beat(registry: Registry, version: Version, holder: Version | None) -> Version | None:
    """The champion; for the champion itself, whoever it was judged against before."""
    if holder is None or holder.version != version.version:
        return holder
    before = version.tags.get(REFERENCE_TAG, NO_CHAMPION)
    return None if before == NO_CHAMPION else registry.version(version.name, int(before))


def reference_title(meets: Version | None, holder: Version | None) -> str:
    """What the reference is called; where the champion itself is judged, it is one no more."""
    still = meets is None or holder is None or meets.version == holder.version
    return "champion" if still else "former champion"


def _arms(
    bench: Workbench, registry: Registry, version: Version, meets: Version | None, *, title: str
) -> "tuple[Arm, ...]":
    """Base, whoever must be beaten if there is one, and last the challenger."""
    from cogvx.evaluation.render import Arm  # noqa: PLC0415 - loads torch
    from cogvx.inference.batch import AdapterAtWeight  # noqa: PLC0415

    arms = [Arm("base")]
    for role, found in ((title, meets), ("challenger", version)):
        if found is not None:
            folder = bench.work / "adapters" / f"{found.name}-{found.version}"
            path = registry.download(found.name, found.version, folder)
            adapter = AdapterAtWeight(found.tags[ADAPTER_TAG], path)
            arms.append(Arm(f"{role} v{found.version}", (adapter,)))
    return tuple(arms)


def _changes(bench: Workbench, registry: Registry, champion: Version) -> tuple[Change, ...]:
    """Against the recipe that lies beside the champion; none where that was not kept."""
    kept = registry.read_file(champion, RECIPE_FILE)
    if kept is None:
        logger.warning("%s has no %s to compare with", champion.uri, RECIPE_FILE)
        return ()
    return recipe_changes(kept.decode(), recipe_toml(bench.recipe))


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

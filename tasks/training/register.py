"""Register the trained adapter, once, and find out whether there is anything to do at all."""

import logging
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.data.manifest import Manifest
from cogvx.errors import ConfigError
from cogvx.evaluation.suite import load_suite
from cogvx.runs.folder import TrainOutcome
from tasks.caching.suites import suite_apart
from tasks.clients.model_card import ModelPage
from tasks.clients.registry import CHAMPION, Registry, Serving, Version
from tasks.clients.versions import (
    BEFORE_TAG,
    COMMIT_TAG,
    DATASET_TAG,
    HELDOUT_TAG,
    TEXT_TAG,
    VAE_TAG,
)
from tasks.code import commit
from tasks.documents import RegisterReport, Unchanged
from tasks.lineage import (
    JUDGED_TAG,
    NO_CHAMPION,
    REFERENCE_TAG,
    SETTLED_TAG,
    VERDICT_TAG,
    because,
    judgement,
)
from tasks.pages.assets import tell_asset
from tasks.pages.labels import label_run
from tasks.pools.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.registry.history import links_of
from tasks.registry.reviews import review_of, told
from tasks.training.describe import describe_registered, page_of, pages_of
from tasks.training.finished import fetch_adapter, finished_run, recall_run
from tasks.workbench import Workbench, code_version

logger = logging.getLogger(__name__)


@task(
    name="register adapter",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def register_adapter(bench: Workbench) -> RegisterReport:
    """Make the newest adapter a version with the alias challenger.

    Raises:
        ConfigError: Nothing was trained for the newest manifest.
    """
    recipe, registry = bench.recipe, open_registry(bench)
    run = bench.run_identity(bench.latest_manifest())
    label_run(bench, run)
    outcome = finished_run(bench, run)
    if outcome is None:
        raise ConfigError(
            f"nothing was trained yet for {recipe.name} with these clips; run `cogvx train` first"
        )
    adapter = fetch_adapter(bench, outcome)
    page = page_of(bench, adapter)
    before = registry.find_version(recipe.name, run)
    # also when it is there: a registration that was killed is finished by the next one
    version = registry.register(
        recipe.name,
        adapter,
        run_id=recall_run(bench, registry, run, outcome),
        serving=_serving(bench, page),
        tags=_tags(bench, outcome),
        reason=because("it was trained last"),
    )
    if VERDICT_TAG not in version.tags:
        describe_registered(registry, version, page)
    facts = {"version": version.version, "run": run, "sha256": outcome.adapter_sha256 or ""}
    tell_asset(recipe.name, "adapter", facts, url=links_of(registry, version).get("version", ""))
    return RegisterReport(
        name=version.name,
        version=version.version,
        aliases=version.aliases,
        created=before is None,
    )


@task(name="compare with the last verdict", cache_policy=NO_CACHE)
def find_unchanged(bench: Workbench, manifest: Manifest) -> Unchanged | None:
    """The version that was judged on exactly this, if nothing would come out differently now.

    An INVALID verdict says nothing of the adapter, so it is judged again.

    Raises:
        ConfigError: A suite asks for training captions, which is told before anything is trained.
    """
    suite = suite_apart(bench.recipe, manifest)
    registry, name = open_registry(bench), bench.recipe.name
    version = registry.find_version(name, bench.run_identity(manifest))
    if version is None:
        return None
    champion = registry.get_alias(name, CHAMPION)
    holder = NO_CHAMPION if champion is None else str(champion.version)
    still = holder in (str(version.version), version.tags.get(REFERENCE_TAG))
    names = {version.tags.get(JUDGED_TAG), version.tags.get(SETTLED_TAG)}
    is_settled = names == {judgement(bench.recipe, suite)} and still
    if not is_settled or version.tags[VERDICT_TAG] == "INVALID":
        return None
    review = review_of(version)
    return Unchanged(
        name=name,
        version=version.version,
        aliases=version.aliases,
        verdict=version.tags[VERDICT_TAG],
        review="" if review is None else told(review),
    )


def open_registry(bench: Workbench) -> Registry:
    """The MLflow of these settings, with the journals of its aliases in their store."""
    return Registry(bench.settings.mlflow_uri, bench.settings.mlflow_artifacts, bench.store)


def registered_version(bench: Workbench, registry: Registry) -> Version:
    """The version of the newest manifest's adapter.

    Raises:
        ConfigError: It is not registered.
    """
    run = bench.run_identity(bench.latest_manifest())
    version = registry.find_version(bench.recipe.name, run)
    if version is None:
        raise ConfigError(
            f"the adapter of {bench.recipe.name} for these clips is not registered; "
            "run `cogvx register` first"
        )
    return version


def _tags(bench: Workbench, outcome: TrainOutcome) -> dict[str, str]:
    """What to find a version by, beside what its card says."""
    made_by = commit()
    told = {
        DATASET_TAG: bench.dataset.url,
        VAE_TAG: bench.ids.vae,
        TEXT_TAG: bench.ids.text,
        COMMIT_TAG: None if made_by is None else str(made_by),
        "cogvx.code": code_version(),
        "cogvx.size": str(bench.recipe.video.size),
        "cogvx.fps": str(bench.recipe.video.fps),
        BEFORE_TAG: _loss(outcome.heldout_before),
        HELDOUT_TAG: _loss(outcome.heldout_after),
    }
    return {name: text for name, text in told.items() if text is not None}


def _loss(value: float | None) -> str | None:
    return None if value is None else f"{value:.6f}"


def _serving(bench: Workbench, page: ModelPage) -> Serving:
    recipe, suite = bench.recipe, load_suite(Path(bench.recipe.evaluation.suite))
    return Serving(
        base=recipe.base.path,
        revision=page.card.base_revision,
        dtype=recipe.base.dtype,
        size=recipe.video.size,
        fps=recipe.video.fps,
        sampler=suite.sampling.sampler,
        steps=suite.sampling.steps,
        guidance=suite.sampling.guidance,
        dynamic_guidance=suite.sampling.dynamic_guidance,
        negative_prompt=suite.sampling.negative_prompt,
        max_frames=bench.facts.variant.max_frames,
        pages=pages_of(page),
    )

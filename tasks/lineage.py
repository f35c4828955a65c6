"""The tags that tie MLflow's runs and versions to clips, recipe, code and the Prefect run."""

from prefect import runtime

from cogvx.digest import digest
from cogvx.evaluation.gate import RULE
from cogvx.evaluation.suite import Suite
from cogvx.model.identity import commit_of
from cogvx.recipe import Recipe
from cogvx.runs.folder import RunFolder
from tasks.clients.journal import Reason
from tasks.clients.runs import RUN_TAG
from tasks.clients.versions import (
    APPROVAL_TAG,
    COMMIT_TAG,
    DATASET_TAG,
    JUDGED_TAG,
    NO_CHAMPION,
    REFERENCE_TAG,
    SETTLED_TAG,
    VERDICT_TAG,
    Version,
)
from tasks.code import commit
from tasks.workbench import Workbench, code_version

__all__ = [
    "APPROVAL_TAG",
    "JUDGED_TAG",
    "NO_CHAMPION",
    "REFERENCE_TAG",
    "SETTLED_TAG",
    "VERDICT_TAG",
    "because",
    "is_judged_by",
    "judgement",
    "run_tags",
]

_SOURCE_COMMIT = "mlflow.source.git.commit"  # the one that MLflow's pages show


def run_tags(bench: Workbench, folder: RunFolder) -> dict[str, str]:
    """Tags of a training run; the digests are in its parameters' place, the rest says where."""
    tags = {
        "cogvx.code": code_version(),
        "cogvx.base_fingerprint": bench.base_fingerprint,
        "cogvx.base_revision": commit_of(bench.base) or "",
        DATASET_TAG: bench.dataset.url,
        "cogvx.run_folder": str(folder.root.resolve()),
    }
    made_by = commit()
    if made_by is not None:
        tags |= {COMMIT_TAG: str(made_by), _SOURCE_COMMIT: made_by.sha}
    flow_run = runtime.flow_run.id
    if flow_run:
        tags["prefect.flow_run_id"] = flow_run
        url = runtime.flow_run.ui_url or ""
        if url.startswith("http"):  # a temporary server has no pages
            tags["prefect.url"] = url
    return tags


def because(
    why: str, version: Version | None = None, *, who: str = "", overruled: bool = False
) -> Reason:
    """The reason of a move of aliases that a stage makes; `who` is a person, if one decided."""
    tags = {} if version is None else version.tags
    return Reason(
        why,
        who,
        run=tags.get(RUN_TAG),
        verdict=tags.get(VERDICT_TAG),
        flow_run=runtime.flow_run.id or None,
        overruled=overruled,
    )


def judgement(recipe: Recipe, suite: Suite) -> str:
    """Names all that a verdict and its use depend on, beside the adapter and its reference."""
    asked = recipe.evaluation.model_dump(mode="json")
    return digest({"evaluation": asked, "suite": suite.digest, "rule": RULE})


def is_judged_by(version: Version, recipe: Recipe, suite: Suite) -> bool:
    """Whether a version's verdict is of this suite, this rule and this recipe's evaluation.

    Who may promote is no part of the verdict: a recipe may leave it to a person afterwards.
    """
    asked = [
        recipe.evaluation.model_copy(update={"auto_promote": automatic})
        for automatic in (True, False)
    ]
    names = [judgement(recipe.model_copy(update={"evaluation": each}), suite) for each in asked]
    return version.tags.get(JUDGED_TAG) in names

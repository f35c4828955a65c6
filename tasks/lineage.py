"""The tags that tie MLflow's runs and versions to clips, recipe, code and the Prefect run."""

from collections.abc import Mapping
from uuid import UUID

from prefect import runtime
from prefect.context import FlowRunContext
from prefect.utilities.urls import url_for

from cogvx.digest import digest
from cogvx.evaluation.gate import RULE
from cogvx.evaluation.suite import Suite
from cogvx.model.identity import commit_of
from cogvx.recipe import Recipe
from cogvx.runs.folder import RunFolder
from tasks.clients.journal import Reason
from tasks.clients.pool import page_of_run
from tasks.clients.runs import NOTE_TAG, RUN_TAG
from tasks.clients.secrets import without_secrets
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
    return tags | flow_tags()


def flow_tags() -> dict[str, str]:
    """The flow run under way, the flow and, where another run started this one, that run.

    Addresses are told where there are pages, which a temporary server has not.
    """
    flow_run, parent = runtime.flow_run.id, runtime.flow_run.parent_flow_run_id
    context = FlowRunContext.get()
    if not flow_run or context is None or context.flow_run is None:
        return {}
    pages = {
        "prefect.flow_run_url": page_of_run(UUID(flow_run)),
        "prefect.flow_url": without_secrets(url_for("flow", obj_id=context.flow_run.flow_id) or ""),
        "prefect.parent_run_url": page_of_run(UUID(parent)) if parent else None,
    }
    tags = {"prefect.flow_run_id": flow_run, NOTE_TAG: _note(pages)}
    return tags | {name: url for name, url in pages.items() if url}


def _note(pages: Mapping[str, str | None]) -> str:
    """What stands on the run's page until the summary does."""
    names = {"prefect.flow_run_url": "training", "prefect.parent_run_url": "whole chain"}
    links = [f"[{words}]({pages[name]})" for name, words in names.items() if pages[name]]
    return " · ".join(["Not judged yet.", *(f"{link} in Prefect" for link in links)])


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

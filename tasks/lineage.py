"""The tags that tie MLflow's runs and versions to clips, recipe, code and the Prefect run."""

from prefect import runtime

from cogvx.digest import digest
from cogvx.evaluation.suite import Suite
from cogvx.model.identity import commit_of
from cogvx.recipe import Recipe
from cogvx.runs.folder import RunFolder
from tasks.workbench import Workbench, code_version

VERDICT_TAG = "cogvx.verdict"
REFERENCE_TAG = "cogvx.reference"
JUDGED_TAG = "cogvx.judged"
SETTLED_TAG = "cogvx.settled"
APPROVAL_TAG = "cogvx.approval"
NO_CHAMPION = "base"


def run_tags(bench: Workbench, folder: RunFolder) -> dict[str, str]:
    """Tags of a training run; the digests are in its parameters' place, the rest says where."""
    tags = {
        "cogvx.code": code_version(),
        "cogvx.base_fingerprint": bench.base_fingerprint,
        "cogvx.base_revision": commit_of(bench.base) or "",
        "cogvx.dataset": bench.dataset.url,
        "cogvx.run_folder": str(folder.root.resolve()),
    }
    flow_run = runtime.flow_run.id
    if flow_run:
        tags["prefect.flow_run_id"] = flow_run
        url = runtime.flow_run.ui_url or ""
        if url.startswith("http"):  # a temporary server has no pages
            tags["prefect.url"] = url
    return tags


def judgement(recipe: Recipe, suite: Suite) -> str:
    """Names all that a verdict and its use depend on, beside the adapter and its reference."""
    return digest({"evaluation": recipe.evaluation.model_dump(mode="json"), "suite": suite.digest})

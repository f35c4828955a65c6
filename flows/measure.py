"""Measure one arm of an evaluation on a GPU, so that who evaluates needs none."""

from typing import Annotated

from prefect import flow

from cogvx.form import in_form
from flows.parameters import AnyRecipe, Shard
from tasks.evaluation.measure_arm import measure_arm
from tasks.evaluation.measure_documents import MeasureReport
from tasks.pools.afar import leave
from tasks.workbench import open_workbench


@flow(name="measure-shard", flow_run_name="measure {arm}, {recipe.name}")
def measure_shard(
    recipe: AnyRecipe,
    arm: Annotated[str, in_form("Arm", "Whom it is about, for people")],  # noqa: ARG001
    shard: Shard,
) -> MeasureReport:
    """Measure the losses and drifts of one published plan that are still missing.

    `shard` is the digest of the plan in the store; `arm` says to people whom it is about.
    """
    bench = open_workbench(recipe, purpose="cache")
    return leave(bench.store, measure_arm(bench, shard))

"""The whole chain: clips in, an evaluated and registered adapter out."""

from prefect import flow

from flows.cache import cache
from flows.evaluate import evaluate
from flows.parameters import AnyRecipe
from flows.promote import promote
from flows.register import register
from flows.train import train
from tasks.caching.ingest import survey_clips
from tasks.documents import RetrainReport
from tasks.pages.labels import label_run, run_name
from tasks.pools.dispatch import in_one_piece, run_child
from tasks.pools.stages import Stages
from tasks.retraining.cost_sums import settle_costs
from tasks.retraining.failures import tell_failure
from tasks.retraining.publish import publish_summary
from tasks.training.preflight import preflight
from tasks.training.register import find_unchanged
from tasks.training.train import trained_elsewhere
from tasks.workbench import open_workbench


@flow(
    name="retrain",
    flow_run_name=run_name,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
    on_cancellation=[tell_failure],
)
def retrain(recipe: AnyRecipe) -> RetrainReport:
    """Retrain the adapter of a recipe if its clips, its recipe or its base changed."""
    preflight(recipe, purpose="judge")
    bench = open_workbench(recipe, purpose="judge")
    manifest = survey_clips(bench)
    label_run(bench, bench.run_identity(manifest))
    unchanged = find_unchanged(bench, in_one_piece(manifest))
    if unchanged is not None:
        return publish_summary(bench, RetrainReport(unchanged=unchanged))
    stages = Stages()
    report = RetrainReport(
        cache=run_child(cache, recipe, stages=stages),
        train=run_child(train, recipe, elsewhere=trained_elsewhere(bench), stages=stages),
        register_=run_child(register, recipe, stages=stages),
        evaluate=run_child(evaluate, recipe, stages=stages),
        promote=run_child(promote, recipe, stages=stages),
    )
    return publish_summary(bench, settle_costs(bench, report))

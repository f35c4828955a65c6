"""The whole chain: clips in, an evaluated and registered adapter out."""

from prefect import flow

from cogvx.recipe import Recipe
from flows.cache import cache
from flows.evaluate import evaluate
from flows.promote import promote
from flows.register import register
from flows.train import train
from tasks.dispatch import in_one_piece, run_child
from tasks.documents import RetrainReport
from tasks.ingest import survey_clips
from tasks.preflight import preflight
from tasks.publish import publish_summary
from tasks.register import find_unchanged
from tasks.train import trained_elsewhere
from tasks.workbench import open_workbench


@flow(name="retrain", flow_run_name="retrain {recipe.name}")
def retrain(recipe: Recipe) -> RetrainReport:
    """Retrain the adapter of a recipe if its clips, its recipe or its base changed."""
    preflight(recipe, purpose="judge")
    bench = open_workbench(recipe, purpose="judge")
    unchanged = find_unchanged(bench, in_one_piece(survey_clips(bench)))
    if unchanged is not None:
        return publish_summary(RetrainReport(unchanged=unchanged))
    return publish_summary(
        RetrainReport(
            cache=run_child(cache, recipe),
            train=run_child(train, recipe, elsewhere=trained_elsewhere(bench)),
            register_=run_child(register, recipe),
            evaluate=run_child(evaluate, recipe),
            promote=run_child(promote, recipe),
        )
    )

"""Survey the clips and encode what the cache lacks."""

from prefect import flow

from cogvx.recipe import Recipe
from tasks.documents import CacheReport
from tasks.encode import encode_records
from tasks.ingest import survey_clips
from tasks.workbench import open_workbench


@flow(name="cache", flow_run_name="cache {recipe.name}")
def cache(recipe: Recipe) -> CacheReport:
    """Make the cache hold every latent and embedding that the recipe's clips need.

    Run twice, the second run encodes nothing; killed anywhere, the next run finishes it.
    """
    bench = open_workbench(recipe)
    manifest = survey_clips(bench)
    return encode_records(bench, manifest)

"""Survey the clips and encode what the cache lacks, in shards."""

from prefect import flow

from flows.encode import encode_shard
from flows.parameters import AnyRecipe
from tasks.caching.dataset_page import show_dataset
from tasks.caching.encode import (
    encoded_elsewhere,
    encoding_never_ends,
    plan_shards,
    report_cache,
    settle_shards,
)
from tasks.caching.ingest import survey_clips
from tasks.documents import CacheReport, ShardReport
from tasks.pages.labels import label_run, run_name
from tasks.pools.dispatch import in_one_piece, require_all, run_children
from tasks.workbench import open_workbench

# One round encodes, the next finds nothing missing; clips that change meanwhile may take another.
ROUNDS = 4


@flow(name="cache", flow_run_name=run_name)
def cache(recipe: AnyRecipe) -> CacheReport:
    """Make the cache hold every latent and embedding that the recipe's clips need.

    Run twice, the second run encodes nothing; killed anywhere, the next run finishes it.
    """
    bench = open_workbench(recipe, purpose="cache")
    manifest = survey_clips(bench)
    label_run(bench, bench.run_identity(manifest))
    page = show_dataset(bench, in_one_piece(manifest))
    done: tuple[ShardReport, ...] = ()
    for _ in range(ROUNDS):
        work = plan_shards(bench, in_one_piece(manifest))
        if not work.shards:
            return report_cache(bench, manifest, work=work, done=done, page=page)
        ended = run_children(
            encode_shard, work.shards, what="encode shards", elsewhere=encoded_elsewhere(bench)
        )
        if settle_shards(bench, ended):
            manifest = survey_clips(bench)
            page = show_dataset(bench, in_one_piece(manifest))
        done += require_all(ended)
        # Opened anew: a worker may have found that a size must be encoded in tiles.
        bench = open_workbench(recipe, purpose="cache")
    raise encoding_never_ends(recipe, ROUNDS)

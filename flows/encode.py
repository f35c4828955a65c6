"""Encode one shard: the share of the work that one worker takes."""

from prefect import flow

from flows.parameters import AnyRecipe, Part, Shard
from tasks.caching.encode import encode_records
from tasks.documents import ShardReport
from tasks.pages.labels import run_name
from tasks.pools.afar import leave
from tasks.workbench import open_workbench


@flow(name="encode", flow_run_name=run_name)
def encode_shard(recipe: AnyRecipe, shard: Shard, part: Part = "1 of 1") -> ShardReport:
    """Make the records of one published shard that are still missing; run twice, it does nothing.

    `shard` is the digest of its plan in the store; `part` says to people which one it is.
    """
    bench = open_workbench(recipe, purpose="cache")
    return leave(bench.store, encode_records(bench, shard, part))

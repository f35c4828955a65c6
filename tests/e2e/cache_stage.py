"""The cache stage as one worker does it, without Prefect around it: for processes that are killed.

`flows.cache` has the same steps; tests that kill whole flows use that.
"""

from pathlib import Path

from cogvx.check import check_file
from flows.cache import ROUNDS
from tasks.caching.encode import encode_records, plan_shards, report_cache
from tasks.caching.ingest import survey_clips
from tasks.documents import CacheReport, ShardReport
from tasks.workbench import open_workbench


def fill_cache(recipe_path: str) -> CacheReport:
    """Survey, plan, and encode every shard until nothing is missing."""
    recipe = check_file(Path(recipe_path)).recipe
    bench = open_workbench(recipe)
    manifest = survey_clips.fn(bench)
    done: list[ShardReport] = []
    for _ in range(ROUNDS):
        work = plan_shards.fn(bench, manifest)
        if not work.shards:
            return report_cache(bench, manifest, work=work, done=done)
        for child in work.shards:
            parameters = child.parameters
            done.append(encode_records.fn(bench, parameters["shard"], parameters["part"]))
    raise AssertionError("the cache is never complete")


def fill_and_say(recipe_path: str) -> None:
    """Print the report, for a process whose output is read."""
    print(fill_cache(recipe_path).model_dump_json())

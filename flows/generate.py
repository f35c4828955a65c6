"""Generate the videos of a document, here or on a pool of GPUs."""

from typing import Annotated

from prefect import flow

from cogvx.form import in_form
from cogvx.inference.job import GenerateJob
from flows.parameters import Part, Shard
from tasks.generation.generate import (
    generate_videos,
    leave_video_report,
    settle_videos,
    videos_elsewhere,
)
from tasks.generation.generate_documents import GenerateReport, VideoShardReport
from tasks.generation.generate_plan import plan_videos
from tasks.pools.dispatch import in_one_piece, run_children


@flow(name="generate-shard", flow_run_name="generate {job}, shard {part}")
def generate_shard(
    job: Annotated[str, in_form("Job", "Its name, for people")],  # noqa: ARG001
    shard: Shard,
    part: Part = "1 of 1",
    *,
    for_evaluation: Annotated[
        bool, in_form("For an evaluation", "Prove that adapters act; leave no labelled copies")
    ] = False,
    paid_by: Annotated[str, in_form("Paid by", "The model whose costs these are")] = "",
) -> VideoShardReport:
    """Make the videos of one published shard that are still missing; run twice, it does nothing.

    `shard` is the digest of its plan in the store; `job` and `part` say to people which it is.
    `for_evaluation` proves first that adapters act, and leaves no labelled copies; `paid_by` is the
    model whose costs they are.
    """
    made = generate_videos(shard, part, for_evaluation=for_evaluation, paid_by=paid_by)
    return leave_video_report(made)


@flow(name="generate", flow_run_name="generate {job.name}")
def generate(job: Annotated[GenerateJob, in_form("Job")]) -> GenerateReport:
    """Make every video of a job, with an index and a page to look at.

    Run twice, the second run generates nothing; killed anywhere, the next run finishes it. A video
    that cannot be made is named in the report, the index and the page.
    """
    work = plan_videos(in_one_piece(job))
    ended = run_children(
        generate_shard, work.shards, what="generate videos", elsewhere=videos_elsewhere()
    )
    return settle_videos(in_one_piece(work), in_one_piece(ended))

"""What a contest adds to its verdict; that of real arms is held in tests/e2e."""

from pathlib import Path

from cogvx.data.manifest import Manifest
from cogvx.evaluation.encoder_gauges import SeenClips
from cogvx.evaluation.render import Arm, Footage
from tasks.evaluation.contest import Match, judge_videos
from tasks.evaluation.gauges import Surroundings
from tasks.evaluation.measure import Measurer
from tests.evaluation.builders import suite_of
from tests.fixtures.family import MEMBERS
from tests.tasks.test_drift import bench_of, never

ARMS = (Arm("base"), Arm("challenger v1"))


def test_a_verdict_says_first_that_clips_are_lost(nano_base: Path, tmp_path: Path) -> None:
    match = Match(
        model="toy",
        arms=ARMS,
        suite=suite_of(),
        manifest=Manifest(dataset="toy", clips=()),
        losses={arm.name: () for arm in ARMS},
        provenance={},
    )
    bench, unseen = bench_of(nano_base, tmp_path, MEMBERS[0]), SeenClips((), ())
    told = "1 of 9 clips are gone."
    with_all, with_less = (
        judge_videos(
            bench,
            match,
            [Footage(())] * 2,
            Surroundings(unseen, None, None, said),
            Measurer(never),
        )
        for said in ((), (told,))
    )
    assert with_less.report.verdict.reasons == (told, *with_all.report.verdict.reasons)
    assert with_less.report.verdict.outcome == with_all.report.verdict.outcome

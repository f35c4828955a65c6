"""The page over a retraining: verdict first, with times and links, and short."""

from tasks.documents import (
    CacheReport,
    EvaluateReport,
    PromoteReport,
    RegisterReport,
    RetrainReport,
    TrainReport,
    Unchanged,
)
from tasks.retraining.summary_page import Around, StageTime, summary_page

REASONS = tuple(f"reason {number} | of * many" for number in range(9))
AROUND = Around(
    stages=(
        StageTime("cache", "Completed", 42.0, page="http://prefect/1"),
        StageTime("train", "Completed", 5400.0, waited=600.0, page="http://prefect/2"),
    ),
    links={"report, in MLflow": "http://mlflow/report"},
    places={"checkpoints": "s3://bucket/runs/a/"},
    headline="challenger v3 is better than champion v2 on heldout_loss.",
    picture="http://mlflow/frames.png",
)


def report(*, promoted: bool = True) -> RetrainReport:
    aliases = ("challenger", "champion") if promoted else ("challenger",)
    why = "version 3 is now the champion, instead of version 2" if promoted else "version 3 waits"
    return RetrainReport(
        cache=CacheReport(
            dataset="s3://clips/ink",
            manifest="m",
            index="i",
            accepted=30,
            heldout=6,
            rejected={"static": 2},
            records_encoded=3,
            records_reused=33,
        ),
        train=TrainReport(
            run="a" * 64,
            trained=True,
            steps=2000,
            resumed_from=None,
            train_loss=0.07,
            heldout_before=0.35,
            heldout_after=0.05,
            adapter="adapters/x.safetensors",
            adapter_sha256="b" * 64,
        ),
        register_=RegisterReport(name="ink", version=3, aliases=("challenger",), created=True),
        evaluate=EvaluateReport(
            name="ink",
            version=3,
            reference="champion v2",
            verdict="PROMOTE",
            reasons=REASONS,
            report="/home/report.html",
            sheet="/home/sheet.png",
            videos_rendered=16,
            videos_reused=8,
        ),
        promote=PromoteReport(
            name="ink", version=3, promoted=promoted, aliases=aliases, reason=why
        ),
    )


def test_the_verdict_comes_first_and_then_what_there_is_to_see() -> None:
    lines = [line for line in summary_page(report(), AROUND).splitlines() if line]
    headline = "**challenger v3 is better than champion v2 on heldout\\_loss.**"
    assert lines[:5] == [
        "# PROMOTE: ink v3 is the champion",
        f"{headline} Judged against champion v2.",
        "Version 3 is now the champion, instead of version 2.",
        "[report, in MLflow](http://mlflow/report)",
        "![Frames of base, reference and challenger](http://mlflow/frames.png)",
    ]
    assert summary_page(report(promoted=False), AROUND).startswith(
        "# PROMOTE: ink v3 stays challenger\n"
    )


def test_reasons_are_few_and_keep_the_page_whole() -> None:
    page = summary_page(report(), AROUND)
    assert "- reason 0 \\| of \\* many" in page
    assert "- and 3 more, see the report" in page
    assert "reason 6" not in page
    assert len(page) < 2500


def test_every_stage_says_what_it_did_and_how_long_it_took() -> None:
    page = summary_page(report(), AROUND)
    assert "| [cache](http://prefect/1) | clips: 30 accepted (6 held out), 2 rejected" in page
    assert "records: 3 encoded, 33 reused | 42 s |" in page
    assert "held-out loss 0.3500 -\\> 0.0500 | 1.5 h, after waiting 10 min |" in page
    assert "| evaluate | 16 videos rendered, 8 reused |  |" in page
    assert "| **all** |  | **1.7 h** |" in page


def test_a_retraining_without_a_server_says_what_it_knows() -> None:
    page = summary_page(report(), Around())
    assert page.startswith("# PROMOTE: ink v3 is the champion\n\nJudged against champion v2.")
    assert "](http" not in page


def test_a_retraining_with_nothing_to_do_says_so_in_a_few_lines() -> None:
    unchanged = Unchanged(
        name="ink", version=3, aliases=("champion",), verdict="PROMOTE", review="approved by Ann"
    )
    page = summary_page(RetrainReport(unchanged=unchanged), Around())
    assert page.startswith("# Unchanged: ink version 3\n")
    assert "A person: approved by Ann." in page
    assert len(page.splitlines()) < 10

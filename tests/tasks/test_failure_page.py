"""The page over a retraining that failed: where, why, what is kept, and how to go on."""

import pytest

from cogvx.errors import (
    CogvxError,
    ConfigError,
    IntegrityError,
    Problem,
    TrainingDiverged,
    TransientError,
)
from tasks.documents import StageCost
from tasks.retraining.failure_page import Failure, Kept, failure_page
from tasks.retraining.summary_page import StageTime

CACHED = StageTime("cache", "Completed", 42.0, page="http://prefect/1", tags=("index:ab12cd34",))
TRAINED = StageTime("train", "Completed", 5400.0, page="http://prefect/2")
AT_400 = Kept(run="a" * 64, place="s3://store/runs/aa/", step=400, steps=2000)

NEXT = (
    "Start it again: it goes on from the checkpoint at step 400 of 2000. To start it: "
    "`cogvx trigger retrain/ink`."
)


def page_of(
    *stages: StageTime,
    error: CogvxError = TransientError("S3 did not answer"),  # noqa: B008 - never changed
    kept: Kept = AT_400,
    state: str = "Failed",
) -> str:
    again = "`cogvx trigger retrain/ink`"
    links = {"training, in MLflow": "http://mlflow/run"}
    return failure_page(
        Failure("ink", state, error, again=again, stages=stages, kept=kept, links=links)
    )


def failed(name: str, state: str = "Failed") -> StageTime:
    return StageTime(name, state, 60.0, page=f"http://prefect/{name}")


def test_a_page_says_where_why_and_how_to_go_on_before_anything_else() -> None:
    lines = [line for line in page_of(CACHED, failed("train")).splitlines() if line]
    assert lines[:8] == [
        "# Failed in train: ink",
        "[the run of train](http://prefect/train) · [training, in MLflow](http://mlflow/run)",
        "## Why",
        "```text",
        "S3 did not answer",
        "```",
        "## How to go on",
        NEXT,
    ]


def test_what_is_kept_and_what_it_cost_are_named() -> None:
    cost = StageCost(stage="train", device="gpu", attempts=1, device_seconds=7200, money=4.0)
    kept = Kept(**{**vars(AT_400), "costs": (cost,), "unit": "EUR"})
    page = page_of(CACHED, failed("train"), kept=kept)
    assert "| records | of all clips, listed in `indexes/ab12cd34...` |" in page
    assert "| checkpoint | at step 400 of 2000, in `s3://store/runs/aa/` |" in page
    assert "| [cache](http://prefect/1) | 42 s |" in page
    assert "| [train](http://prefect/train) | 1 min (Failed) |" in page
    assert "| since the last adapter | 2.0 h of GPU, 4.00 EUR |" in page


@pytest.mark.parametrize(
    ("stages", "where", "goes_on"),
    [
        ((), "before its first stage", "from what was encoded"),
        ((failed("cache"),), "in cache", "from what was encoded"),
        ((CACHED,), "before train began", "checkpoint at step 400"),
        ((CACHED, TRAINED, failed("register")), "in register", "trained, with register"),
        (
            (CACHED, TRAINED, *(StageTime(n, "Completed", 1) for n in ("register", "evaluate"))),
            "before promote began",
            "trained, with promote",
        ),
    ],
)
def test_the_stage_is_the_first_that_did_not_complete(
    stages: tuple[StageTime, ...], where: str, goes_on: str
) -> None:
    page = page_of(*stages)
    assert page.startswith(f"# Failed {where}: ink\n")
    assert goes_on in page


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConfigError("wrong"), "Mend what is said above, then start it again"),
        (IntegrityError("damaged"), "Remove what is damaged, as is said above, then start"),
        (TrainingDiverged("not finite"), f'perhaps with `train.fork_of = "{"a" * 64}"`'),
    ],
)
def test_whoever_must_act_is_told_what_to_do(error: CogvxError, says: str) -> None:
    assert says in page_of(CACHED, failed("train"), error=error)


def test_without_a_checkpoint_it_trains_from_the_start() -> None:
    assert "trains from step 0" in page_of(CACHED, failed("train"), kept=Kept())


def test_a_list_of_problems_stays_a_list_and_cannot_leave_its_block() -> None:
    problems = [Problem("lora.rank", 0, "is too small", "use 4"), Problem("a", "```", "is odd")]
    page = page_of(error=ConfigError("ink.toml", problems))
    assert "ink.toml: 2 problem(s)\n  - lora.rank = 0 is too small; use 4\n" in page
    assert page.count("```") == 2
    assert len(page_of(error=CogvxError("x" * 100_000))) < 6000


def test_a_cancelled_run_is_called_so() -> None:
    page = page_of(CACHED, failed("train", "Cancelling"), state="Cancelled")
    assert page.startswith("# Cancelled in train: ink\n")

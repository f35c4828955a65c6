"""The page over a retraining that did not come to its end: why, what is kept, how to go on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cogvx.errors import (
    CogvxError,
    IntegrityError,
    TrainingDiverged,
    UserError,
)
from tasks.documents import StageCost
from tasks.retraining.costs import total_text
from tasks.retraining.summary_page import StageTime, links_line, stage_rows, table

STAGES = ("cache", "train", "register", "evaluate", "promote")
"""In the order in which a retraining runs them."""

_MOST_CHARACTERS = 4000


@dataclass(frozen=True)
class Kept:
    """What it leaves; empty where there is none or nobody knows.

    Attributes:
        run: Digest of our run, once its trainer has begun.
        place: Where the store has what lies in that run's folder.
        step: Of the newest checkpoint there, of `steps`.
        steps: That the recipe asks for.
        adapter: Where the adapter lies, once training has ended.
        costs: What was spent since the last adapter of the model, in `unit`.
        unit: What money is counted in.
    """

    run: str = ""
    place: str = ""
    step: int | None = None
    steps: int | None = None
    adapter: str = ""
    costs: tuple[StageCost, ...] = ()
    unit: str = ""


@dataclass(frozen=True)
class Failure:
    """How a retraining ended.

    Attributes:
        name: The recipe's; empty where it cannot be read.
        state: Prefect's name for the end: Failed, Crashed or Cancelled.
        error: Why, in words without secrets.
        stages: Those that began, the first to start first.
        kept: What it leaves.
        links: Addresses by what they show.
        again: How it is started again, as a person types it.
    """

    name: str
    state: str
    error: CogvxError
    again: str
    stages: Sequence[StageTime] = ()
    kept: Kept = Kept()
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """The first stage that did not complete; empty where all did."""
        done = {stage.name for stage in self.stages if stage.state == "Completed"}
        return next((name for name in STAGES if name not in done), "")

    @property
    def where(self) -> str:
        """The stage in words, as it may not have begun."""
        if not self.stage:
            return "after its last stage"
        begun = {stage.name for stage in self.stages}
        if self.stage in begun:
            return f"in {self.stage}"
        return f"before {self.stage} began" if begun else "before its first stage"


def failure_page(failure: Failure) -> str:
    """Markdown without HTML, as Prefect's pages show it."""
    page = next((stage.page for stage in failure.stages if stage.name == failure.stage), "")
    links = {f"the run of {failure.stage}": page} if page else {}
    subject = f": {failure.name}" if failure.name else ""
    cost = total_text(failure.kept.costs, failure.kept.unit) if failure.kept.costs else ""
    parts = [
        f"# {failure.state} {failure.where}{subject}",
        links_line({**links, **failure.links}),
        # a fence keeps a list of problems as it was written
        "## Why\n\n```text\n" + _fenced(str(failure.error)) + "\n```",
        f"## How to go on\n\n{_advice(failure)}",
        table("What is kept", ("", ""), _kept_rows(failure)),
        table("Stages", ("stage", "time"), stage_rows(failure.stages)),
        table("Cost", ("", ""), [("since the last adapter", cost)] if cost else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _advice(failure: Failure) -> str:
    again = f"start it again: {_goes_on(failure)}. To start it: {failure.again}."
    step = failure.kept.step
    match failure.error:
        case TrainingDiverged():
            other = f', perhaps with `train.fork_of = "{failure.kept.run}"`' if step else ""
            return (
                "Look at the curves. As it is it may diverge again; a recipe that trains otherwise "
                f"is another run, which begins at step 0{other}. Or {again}"
            )
        case UserError():
            other = " A recipe that trains otherwise begins at step 0." if step else ""
            return f"Mend what is said above, then {again}{other}"
        case IntegrityError():
            return f"Remove what is damaged, as is said above, then {again}"
    return again[0].upper() + again[1:]


def _goes_on(failure: Failure) -> str:
    """What it begins with when it is started again."""
    kept = failure.kept
    if failure.stage == "cache":
        return "it goes on from what was encoded, if anything was"
    if failure.stage == "train" and not kept.adapter:
        if kept.step is None:
            return "it goes on from the cache, and trains from step 0"
        return f"it goes on from the checkpoint at {_steps(kept)}"
    stage = failure.stage or "the summary"
    return f"it goes on from the adapter that was trained, with {stage}"


def _kept_rows(failure: Failure) -> list[tuple[str, str]]:
    kept = failure.kept
    cached = next((stage for stage in failure.stages if stage.name == "cache"), None)
    rows = []
    if cached is not None:
        index = next((tag for tag in cached.tags if tag.startswith("index:")), "").partition(":")[2]
        listed = f", listed in `indexes/{index}...`" if index else ""
        whole = (
            f"of all clips{listed}" if cached.state == "Completed" else "those that were encoded"
        )
        rows.append(("records", whole))
    if kept.step is not None:
        rows.append(("checkpoint", f"at {_steps(kept)}, in `{kept.place}`"))
    if kept.adapter:
        rows.append(("adapter", f"`{kept.adapter}`"))
    if failure.stage in ("evaluate", "promote"):
        rows.append(("videos", "those that were rendered"))
    return rows


def _steps(kept: Kept) -> str:
    return f"step {kept.step}" + (f" of {kept.steps}" if kept.steps else "")


def _fenced(text: str) -> str:
    """Text that cannot end the fence that it stands in, and is not too long to be read."""
    cut = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\n..."
    return cut.replace("```", "'''")

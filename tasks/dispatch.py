"""The one door through which a flow runs another.

Today children run in this process, which is the embedded default: a child that fails raises here,
and a child that is cancelled takes its parent along. Running them on work pools belongs behind
this same call.
"""

from typing import TypeVar

from prefect import Flow

from cogvx.recipe import Recipe

ReportT = TypeVar("ReportT")


def run_child(flow: Flow[[Recipe], ReportT], recipe: Recipe) -> ReportT:
    """Run a stage's flow to its end and return its report; its failure is raised here."""
    return flow(recipe)

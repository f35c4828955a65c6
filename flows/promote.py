"""Move the alias `champion` to a challenger that was judged better."""

from typing import Annotated

from prefect import flow
from pydantic import Field, WithJsonSchema

from cogvx.form import in_form
from flows.parameters import AnyRecipe
from tasks.documents import PromoteReport
from tasks.evaluation.approval import ask_person
from tasks.evaluation.promote import promote_adapter
from tasks.pages.labels import run_name
from tasks.workbench import open_workbench

Reason = Annotated[
    str | None,
    in_form("Approve because", "Promotes now; empty: by the verdict"),
]
Person = Annotated[str, in_form("Approved by", "Your name")]
Hours = Annotated[
    Annotated[float, Field(gt=0, le=8760)] | None,
    # Without its bounds, as with a section's: a run tells them.
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]}),
    in_form("Wait, hours", "For an answer, up to 8760"),
]


@flow(name="promote", flow_run_name=run_name)
def promote(
    recipe: AnyRecipe, approval: Reason = None, by: Person = "", hours: Hours = None
) -> PromoteReport:
    """Promote if the verdict is PROMOTE and the recipe allows it; otherwise ask, or say why not.

    `approval` is a person's reason to promote where the recipe asks for a person, `by` their name.
    As a deployment's run it waits for a person in Prefect's pages, for so many `hours`.
    """
    bench = open_workbench(recipe, purpose="judge")
    report = promote_adapter(bench, approval, by)
    return ask_person(bench, report, hours) if report.needs_person else report

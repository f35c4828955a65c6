"""What Prefect's server does by itself when something happens: its automations.

Clips arrived: retrain. A run fell silent: call it crashed. A run ended badly, or a person is asked:
tell people.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.catalog import Catalog, CatalogRecipe
from tasks.caching.arrivals import ARRIVED, dataset_resource
from tasks.caching.outage import STILL_FAILING

MARK = "cogvx: "
"""Every automation's name begins with it; one that does and is in no row is removed."""
PAUSED = "; paused in the catalog."
"""How the description of an automation ends that the catalog disabled, and not a person."""
TOP_TAG = "cogvx:top"
"""On runs that no other run waits for: people are told of their ends."""

# Every flow of this project, as heartbeats name them; a run of another is left in peace, since
# its heart may beat more slowly.
FLOWS = (
    "cache",
    "encode",
    "evaluate",
    "generate",
    "generate-shard",
    "measure-shard",
    "promote",
    "register",
    "retention",
    "retrain",
    "train",
    "watch",
)
_TOP = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TOP_TAG}"}
# Without PREFECT_UI_URL the server does not know the address of its own pages.
_PAGE = "{{ (flow_run | ui_url) or '' }}"
# A run has it as a tag, which the server may not have taken.
_VERDICT = (
    "{% for tag in flow_run.tags if tag.startswith('verdict:') %}{{ tag[8:] }}"
    "{% else %}judged{% endfor %}"
)
_HEARTBEAT = "prefect.flow-run.heartbeat"
# After these nobody waits for a heartbeat; a run that is suspended waits for a person, and one
# that will be retried has no process meanwhile.
_QUIET = (
    "AwaitingRetry",
    "Cancelled",
    "Completed",
    "Crashed",
    "Failed",
    STILL_FAILING,
    "Suspended",
    "TimedOut",
)


@dataclass(frozen=True)
class AutomationRow:
    """One automation: `trigger` as Prefect's event trigger takes it, and one action.

    The action names a deployment or a block, as ids differ between servers; `owner` is the
    deployment that it starts, without which it has no meaning.
    """

    name: str
    description: str
    trigger: Mapping[str, Any]
    action: Mapping[str, Any]
    enabled: bool = True
    owner: str | None = None


def automations(catalog: Catalog) -> tuple[AutomationRow, ...]:
    """The automations of a catalog."""
    rows = [_arrival(one) for one in catalog.recipes if one.row.on_arrival]
    rows.append(_zombies(catalog.zombies.within_seconds))
    if catalog.notify is not None:
        rows.append(_notify(catalog.notify.block, catalog.notify.on))
        rows.append(_questions(catalog.notify.block))
    return tuple(rows)


def _arrival(one: CatalogRecipe) -> AutomationRow:
    deployment = f"retrain/{one.recipe.name}"
    return AutomationRow(
        name=f"{MARK}clips of {one.recipe.name} arrived",
        description=f"Starts {deployment}{PAUSED if one.row.paused else '.'}",
        trigger={
            "expect": [ARRIVED],
            "match": {"prefect.resource.id": dataset_resource(one.recipe.dataset.uri)},
            "posture": "Reactive",
            "threshold": 1,
            "within": 0,
        },
        action={"type": "run-deployment", "deployment": deployment},
        enabled=not one.row.paused,
        owner=deployment,
    )


def _zombies(within_seconds: int) -> AutomationRow:
    return AutomationRow(
        name=f"{MARK}silent runs",
        description=f"Calls a run crashed that has given no heartbeat for {within_seconds} s.",
        trigger={
            "after": [_HEARTBEAT],
            "expect": [_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _QUIET)],
            "for_each": ["prefect.resource.id"],
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": {
                "prefect.resource.role": "flow",
                "prefect.resource.name": list(FLOWS),
            },
            "posture": "Proactive",
            "threshold": 1,
            "within": within_seconds,
        },
        action={
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "name": "Crashed",
            "message": f"no heartbeat for {within_seconds} s: its process or machine is gone",
        },
    )


def _notify(block: str, endings: tuple[str, ...]) -> AutomationRow:
    return AutomationRow(
        name=f"{MARK}tell of bad ends",
        description=f"Sends a message through {block}.",
        trigger=_each(endings, _TOP),
        action={
            "type": "send-notification",
            "block": block,
            "subject": "{{ flow_run.name }}: {{ flow_run.state.name }}",
            "body": f"{{{{ flow_run.state.message }}}}\n{_PAGE}",
        },
    )


def _questions(block: str) -> AutomationRow:
    """Of a promotion alone: whoever suspends another run by hand knows of it."""
    promotions = {"prefect.resource.role": "flow", "prefect.resource.name": "promote"}
    return AutomationRow(
        name=f"{MARK}tell of open questions",
        description=f"Sends a message through {block} when a person is asked to approve.",
        trigger=_each(("Suspended",), [_TOP, promotions]),
        action={
            "type": "send-notification",
            "block": block,
            "subject": f"{{{{ flow_run.parameters.recipe.name }}}}: {_VERDICT}, approve or reject",
            "body": f"{{{{ flow_run.name }}}} waits for an answer: press Resume there.\n{_PAGE}",
        },
    )


def _each(states: tuple[str, ...], related: object) -> Mapping[str, Any]:
    """Each time that a run of these relations comes to one of these states."""
    return {
        "expect": [f"prefect.flow-run.{state}" for state in states],
        "for_each": ["prefect.resource.id"],
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": related,
        "posture": "Reactive",
        "threshold": 1,
        "within": 0,
    }

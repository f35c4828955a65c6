"""Write prefect.yaml from the catalog: `python -m deployments.prefect_yaml`.

It is for `prefect deploy --all`, which makes the same deployments and the automations that start
them. Pools, limits and what watches over runs have no place in it: `cogvx deploy --apply` makes
them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cogvx.files import write_bytes
from deployments.catalog import CATALOG, load_catalog
from deployments.documents import PULL_STEPS, SLUG, VERSION, schedule_of
from deployments.reactions import AutomationRow
from deployments.rows import Cron, DeploymentRow, desired

PAGE = Path(__file__).parents[1] / "prefect.yaml"

_HEAD = """# Made by `python -m deployments.prefect_yaml` from deployments/catalog.toml; edit that.
# For who prefers `prefect deploy --all`. Pools, limits and the other automations are made by
# `cogvx deploy --apply --catalog YOUR.toml`, which also makes all of this, and removes what that
# catalog has no more.
"""


class _Plain(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """Writes what two deployments share twice: who reads one need not look up the other."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - its signature
        """Never an alias."""
        return True


def prefect_yaml() -> str:
    """The file, made from the project's own catalog."""
    rows = desired(load_catalog(CATALOG))
    triggers = {row.owner: row for row in rows.automations if row.owner is not None}
    document = {
        "name": "cogvx",
        "pull": PULL_STEPS,
        "deployments": [_deployment(row, triggers.get(row.full_name)) for row in rows.deployments],
    }
    body: str = yaml.dump(document, Dumper=_Plain, sort_keys=False, width=100)
    return _HEAD + body


def _deployment(row: DeploymentRow, trigger: AutomationRow | None) -> Mapping[str, Any]:
    plain: dict[str, Any] = {
        "name": row.name,
        "entrypoint": row.entrypoint,
        "version": VERSION,
        "tags": list(row.tags),
        "paused": row.paused,
        "enforce_parameter_schema": True,
        "parameters": dict(row.parameters),
        "schedules": [] if row.schedule is None else [_schedule(row)],
    }
    if row.limit is not None:
        plain["concurrency_limit"] = {"limit": row.limit, "collision_strategy": row.collision}
    plain["work_pool"] = {
        "name": row.pool,
        "work_queue_name": row.queue,
        "job_variables": dict(row.job_variables),
    }
    if trigger is not None:
        plain["triggers"] = [
            {
                "name": trigger.name,
                "description": trigger.description,
                "enabled": trigger.enabled,
                "type": "event",
                **trigger.trigger,
            }
        ]
    return plain


def _schedule(row: DeploymentRow) -> Mapping[str, Any]:
    if isinstance(row.schedule, Cron):
        return {"cron": row.schedule.cron, "timezone": row.schedule.timezone, "slug": SLUG}
    plain = schedule_of(row).model_dump(mode="json")
    every = row.schedule.seconds if row.schedule is not None else 0
    return {
        "interval": every,
        **{name: plain[name] for name in ("anchor_date", "timezone")},
        "slug": SLUG,
    }


if __name__ == "__main__":
    write_bytes(PAGE, prefect_yaml().encode())

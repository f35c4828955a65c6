"""The command `cogvx deploy`: bring Prefect's server to what a catalog says."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from cogvx.errors import ConfigError
from cogvx.terminal import printable
from tasks.settings import prepare_process

# Prefect and the flows are imported inside the command: `cogvx check` should not wait for them.


def deploy(
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Make the changes.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would change; this is the default.")
    ] = False,
    catalog: Annotated[
        Path | None,
        typer.Option(
            help="A catalog in TOML; without it the project's own, for the demo, removes nothing."
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Ask no server: show all that a new one would be given."),
    ] = False,
    partly: Annotated[bool, typer.Option("--partly", hidden=True)] = False,
) -> None:
    """Work pools, deployments, schedules, limits and automations, as the catalog says."""
    if apply and (dry_run or offline):
        other = "--dry-run" if dry_run else "--offline"
        raise ConfigError(f"--apply and {other} contradict each other; use one of them")
    prepare_process()
    from deployments.apply import apply_catalog  # noqa: PLC0415
    from deployments.catalog import CATALOG, load_catalog  # noqa: PLC0415
    from deployments.plan import Change, changes, compare, count, is_change  # noqa: PLC0415
    from deployments.render import lines  # noqa: PLC0415
    from deployments.rows import desired  # noqa: PLC0415
    from deployments.server import NOTHING, open_server  # noqa: PLC0415
    from tasks.clients.pool import address_of  # noqa: PLC0415

    rows = desired(load_catalog(catalog or CATALOG))
    if offline:
        _show(lines(compare(NOTHING, rows, partly=True), in_full=True))
        return
    with open_server() as client:
        plan: tuple[Change, ...] = (
            apply_catalog(client, rows, may_remove=catalog is not None, partly=partly)
            if apply
            else changes(client, rows)
        )
        _show(lines(plan))
        where = address_of(client)
        if not any(map(is_change, plan)):
            typer.echo(f"nothing to change at {where}")
        elif apply:
            typer.echo(f"applied to {where}: {count(plan)}")
        else:
            typer.echo(f"{count(plan)} at {where}; `--apply` does it")


def _show(rows: Iterable[str]) -> None:
    """Never wrapped, so that it can be searched and compared."""
    for row in rows:
        typer.echo(printable(row))

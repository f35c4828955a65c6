"""`cogvx up`, `status`, `down` and `trigger`: everything on one machine."""

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogvx.errors import TransientError
from deployments.up.background import clear_up, leave_running
from deployments.up.state import Desk
from tasks.clients.processes import end
from tasks.settings import prepare_process, settings

if TYPE_CHECKING:
    from deployments.up.services import Options

logger = logging.getLogger(__name__)

# Prefect is imported inside the commands: it reads its settings on import, and help should not
# wait for it.

DOWN = 3
"""Exit code of `status` when something that should run does not."""

CatalogPath = Annotated[
    Path | None,
    typer.Option(
        help="What is deployed, in TOML; without it, as the last `up` here, at first the demo."
    ),
]


def up(  # noqa: PLR0913 - these are the command's options
    context: typer.Context,
    *,
    catalog: CatalogPath = None,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Of Prefect's pages.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Of MLflow's pages.")] = 5000,
    s3: Annotated[
        bool, typer.Option("--s3", help="An S3 server as well, which keeps all in memory.")
    ] = False,
    s3_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the S3 server.")] = 9000,
    detach: Annotated[
        bool, typer.Option("--detach", help="Come back when all is well, and leave it running.")
    ] = False,
    background: Annotated[bool, typer.Option("--background", hidden=True)] = False,
) -> None:
    """Run everything on this machine: servers, workers of all pools, the catalog; until Ctrl-C."""
    prepare_process()
    log_lines()
    desk = Desk(settings().home)
    from deployments.catalog import CATALOG  # noqa: PLC0415
    from deployments.up.catalog import as_last_named  # noqa: PLC0415
    from deployments.up.services import Options  # noqa: PLC0415

    options = Options(catalog or CATALOG, prefect_port, mlflow_port, s3_port, with_s3=s3)
    if _found(desk, options, _named(context)):
        return
    options = as_last_named(options, desk, named=_named(context))
    with desk.held():
        clear_up(desk)
        _require_possible(options)
        if not detach:
            _run(options, desk, background=background)
    if detach:
        leave_running(desk, options)


def status(
    *,
    env: Annotated[
        bool,
        typer.Option(
            "--env",
            help='What other commands need to use the same servers: eval "$(cogvx status --env)".',
        ),
    ] = False,
) -> None:
    """Say what runs, since when, and which runs are under way; exit code 3 if something is down."""
    prepare_process()
    desk = Desk(settings().home)
    state = desk.read()
    if state is None or (env and not state.is_kept):
        why = "" if state is None else ": it was killed"
        # beside what a shell evaluates
        typer.echo(
            f"nothing is up for {settings().home.resolve()}{why}; `{desk.command}` starts it",
            err=env,
        )
        raise typer.Exit(DOWN)
    if env:
        for name, value in state.environment.items():
            typer.echo(f"export {name}={shlex.quote(value)}")
        return
    from deployments.up.status import Status  # noqa: PLC0415

    found = Status(state)
    width = max(len(name) for name, _ in found.rows)
    for name, words in found.rows:
        typer.echo(f"{name:<{width}}  {words}")
    if not found.is_well:
        raise typer.Exit(DOWN)


def down() -> None:
    """Stop what `cogvx up` started, workers first; also what is left after it was killed."""
    log_lines()
    desk = Desk(settings().home)
    state = desk.read()
    if state is None:
        typer.echo(f"nothing is up for {settings().home.resolve()}")
        return
    if state.is_kept:
        logger.info("stopping; runs that are under way save what they have")
        if end([state.keeper], grace=state.stop_seconds):
            logger.warning("it did not stop in time and was killed")
    clear_up(desk)
    typer.echo("all stopped")


def _named(context: typer.Context) -> frozenset[str]:
    """The parameters that a person wrote, as others have no wish in them."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(name for name, how in sources.items() if how and how.name == "COMMANDLINE")


def _found(desk: Desk, options: "Options", named: frozenset[str]) -> bool:
    """Whether all is up already, which is said; or it is up, but not well.

    Raises:
        ConfigError: It is up otherwise than is asked for.
        TransientError: It is about to be up, or to be down.
        Exit: Not all of it is well.
    """
    state = desk.read()
    if state is None or not state.is_kept:
        return False
    if state.phase != "up":
        raise TransientError(
            f"`cogvx up` of {state.home} is {state.phase} (process {state.keeper.pid}); "
            "wait, and try again; `cogvx status` shows how far it is"
        )
    from deployments.up.checks import require_same  # noqa: PLC0415
    from deployments.up.status import Status, where_lines  # noqa: PLC0415

    require_same(state, options, named)
    for line in where_lines(state):
        typer.echo(line)
    found = Status(state)
    if not found.is_well:
        typer.echo("not all of it is well: see `cogvx status`")
        raise typer.Exit(DOWN)
    typer.echo("all of it is well; `cogvx status` shows what it does, `cogvx down` stops it")
    return True


def _require_possible(options: "Options") -> None:
    from prefect.settings import PREFECT_API_URL  # noqa: PLC0415

    from deployments.catalog import load_catalog  # noqa: PLC0415
    from deployments.up.checks import require_possible  # noqa: PLC0415

    load_catalog(options.catalog)
    require_possible(options, settings(), PREFECT_API_URL.value())


def _run(options: "Options", desk: Desk, *, background: bool) -> None:
    from deployments.up.house import run_up  # noqa: PLC0415

    how = "`cogvx down` stops all of it" if background else "Ctrl-C stops all of it"
    run_up(options, settings(), desk, how_to_stop=how)


def trigger(
    name: Annotated[
        str, typer.Argument(help="A deployment, as retrain/nano-demo; a recipe's name is enough.")
    ],
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it, and what it starts, to the end.")
    ] = False,
) -> None:
    """Start a deployment now; with --wait, exit code 1 if it does not end well."""
    prepare_process()
    log_lines()
    from deployments.trigger import run_trigger  # noqa: PLC0415

    run_trigger(name, settings(), wait=wait)


def log_lines() -> None:
    """Show what ours say on stderr, one line each with its time, so that URLs stay whole."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    for name in ("cogvx", "tasks", "flows", "deployments"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)

"""What stands in the way of `cogvx up`, found before anything is started."""

import importlib.util
import socket
import sys
from typing import get_args
from urllib.parse import urlsplit

import psutil

from cogvx.errors import ConfigError, Problem
from deployments.up.services import (
    HOME,
    HOST,
    MLFLOW,
    STORE,
    Options,
    is_same_place,
    is_served_elsewhere,
    mlflow_pages,
    without_password,
)
from deployments.up.state import UpState
from tasks.clients.processes import listener
from tasks.clients.servers import Guard, answers
from tasks.settings import Settings


def require_possible(options: Options, here: Settings, api_url: str | None) -> None:
    """Refuse before anything is started.

    Args:
        options: What is wanted.
        here: Settings of this machine.
        api_url: The Prefect API that this process would use by its own settings, if any.

    Raises:
        ConfigError: With every problem.
    """
    problems = _elsewhere(options, here, api_url)
    ports = {"--prefect-port": options.prefect_port}
    if not is_served_elsewhere(options, here):
        ports["--mlflow-port"] = options.mlflow_port
    if options.with_s3:
        ports["--s3-port"] = options.s3_port
        problems += _without_s3(options, here)
    for option, port in ports.items():
        if list(ports.values()).count(port) > 1:
            problems.append(Problem(option, port, "is the port of two servers", "name another"))
        elif who := _holder(port):
            problems.append(Problem(option, port, f"is taken {who}", f"use {option} with another"))
    if problems:
        raise ConfigError("cogvx up", problems)


def require_same(state: UpState, options: Options, named: frozenset[str]) -> None:
    """Refuse what is asked for of an `up` that runs otherwise: it would be ignored.

    Args:
        state: What runs.
        options: What is wanted.
        named: The parameters of `up` that a person wrote; only these are looked at.

    Raises:
        ConfigError: With every difference.
    """
    pairs = {
        "catalog": ("--catalog", str(state.catalog), str(options.catalog.resolve())),
        "prefect_port": ("Prefect at", state.prefect, options.prefect),
    }
    if any(one.name == MLFLOW for one in state.services):  # and no server elsewhere is used
        pairs["mlflow_port"] = ("MLflow at", state.mlflow, options.mlflow)
    if options.with_s3:
        given = options.s3 if "s3_port" in named or not state.s3 else state.s3
        pairs["s3"] = ("S3 at", state.s3 or "no address", given)
    found = [
        f"{what} {there}, not {wanted}"
        for name, (what, there, wanted) in pairs.items()
        if name in named and there != wanted
    ]
    if found:
        raise ConfigError(
            f"`cogvx up` of {state.home} runs with {'; with '.join(found)}; stop it first with "
            "`cogvx down`, or leave that out"
        )


def _elsewhere(options: Options, here: Settings, api_url: str | None) -> list[Problem]:
    problems = []
    if api_url and not is_same_place(api_url, options.prefect):
        problems.append(
            Problem(
                "PREFECT_API_URL",
                without_password(api_url),
                "names another server, and `cogvx up` starts its own",
                "unset it; to work for that server, use `cogvx deploy` and "
                "`python -m tasks.clients.tend -- prefect worker start --pool NAME`",
            )
        )
    pages = mlflow_pages(options, here)
    if is_served_elsewhere(options, here):
        if not answers(f"{pages}/health"):
            use = "bring that MLflow back, or unset it to have one started here"
            problems.append(Problem("COGVX_TRACKING_URI", pages, "does not answer", use))
    elif urlsplit(here.tracking_uri).scheme not in {"", "http", "https", "sqlite"}:
        # its password would stand in the list of processes
        wrong = "names a database, and only SQLite is served here"
        use = "start `mlflow server` on that database yourself, and name that server"
        problems.append(Problem("COGVX_TRACKING_URI", None, wrong, use))
    return problems


def _without_s3(options: Options, here: Settings) -> list[Problem]:
    problems = []
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        use = f'install it: {sys.executable} -m pip install "moto[server]"'
        problems.append(Problem("--s3", None, "needs moto's server, which is not installed", use))
    is_ours = here.store_url == STORE and is_same_place(here.s3_endpoint_url or "", options.s3)
    if here.store_url and not is_ours:
        problems.append(
            Problem(
                "COGVX_STORE_URL",
                here.store_url,
                "names a store, and --s3 starts another",
                "unset it, or leave --s3 out",
            )
        )
    return problems


def _holder(port: int) -> str:
    """Who listens on a port, as "by ..."; nothing if it is free."""
    if not _is_taken(port):
        return ""
    process = listener(port)
    if process is None:
        return "by a process of another user"
    home = _home_of(process)
    if home:
        return f"by `cogvx up` of {home} (to stop it: `{HOME}={home} cogvx down`)"
    return f"by process {process.pid} ({process.name()})"


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _home_of(process: psutil.Process) -> str:
    """The home for which a supervisor of ours keeps this process; empty if none does."""
    try:
        lines = [one.cmdline() for one in (process, *process.parents())]
    except psutil.Error:
        return ""
    guards = {f"tasks.clients.{guard}" for guard in get_args(Guard)}
    words = [word for line in lines if guards & set(line) for word in line]
    return next(
        (word.removeprefix(f"{HOME}=") for word in words if word.startswith(f"{HOME}=")), ""
    )

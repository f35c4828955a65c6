"""Everything on one machine: Prefect's and MLflow's servers, workers for all pools, the catalog.

`run_up` is the one process that starts the others and stops them; what kills it ends them, too.
"""

import logging
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient

from cogvx.errors import TransientError
from deployments.catalog import load_catalog
from deployments.up.catalog import pool_plans, startable
from deployments.up.follow import Follower, schedule_lines
from deployments.up.keeper import Asked, Keeper
from deployments.up.runs import polls, settle, talking_to
from deployments.up.services import (
    BUCKET,
    PREFECT,
    S3,
    Options,
    PoolPlan,
    deploying,
    mlflow_pages,
    servers,
    shared_environment,
    slots_of,
    worker_name,
    workers,
)
from deployments.up.state import Desk, UpState, now
from tasks.clients.gpus import gpus
from tasks.clients.processes import me
from tasks.clients.servers import Service, answers
from tasks.settings import Settings

logger = logging.getLogger(__name__)

IN_MEMORY = (
    "THE S3 SERVER KEEPS EVERYTHING IN MEMORY: records, adapters, checkpoints and videos are gone "
    "when it stops. Use it to try things out; leave --s3 out for a folder, or set COGVX_STORE_URL"
)

_TURN_SECONDS = 1.0
_RUNS_EVERY = 3  # turns
_QUICKLY = 2.0  # seconds in which a server that is well answers


def run_up(options: Options, here: Settings, desk: Desk, *, how_to_stop: str) -> None:
    """Start everything, tell how it fares, and stop it when asked.

    Args:
        options: Checked by `require_possible`.
        here: Settings of this machine.
        desk: Where state and logs lie; held by the caller.
        how_to_stop: Told when all is well.

    Raises:
        ConfigError: The catalog has problems, or something did not start; what had started is
            stopped.
    """
    plans, left_out = pool_plans(load_catalog(options.catalog))
    environment = shared_environment(options, here)
    state = UpState(
        keeper=me(),
        since=now(),
        phase="starting",
        home=here.home.resolve(),
        folder=Path.cwd(),
        catalog=options.catalog.resolve(),
        prefect=options.prefect,
        mlflow=mlflow_pages(options, here),
        s3=options.s3,
        environment=environment,
    )
    keeper = Keeper(desk, state)
    with keeper.closing():
        if options.is_chosen:
            desk.remember(options.catalog)
        house = _House(options, keeper, plans)
        try:
            house.start_servers(servers(options, here), environment)
            for line in left_out:
                logger.warning(line)
            found = workers(plans, gpus(), environment, with_slots=not here.gpu_slots)
            house.start_workers(found)
            house.say_where(state)
            logger.info(how_to_stop)
            keeper.enter("up")  # last: whoever waits for it shows what was said until then
            house.follow(desk)
        except Asked:
            keeper.enter("stopping")
            house.stop()


class _House:
    """The servers and workers of one `up`, from the first to the last."""

    def __init__(self, options: Options, keeper: Keeper, plans: Sequence[PoolPlan]) -> None:
        """Nothing is started yet."""
        self._options = options
        self._keeper = keeper
        self._plans = plans
        self._services: list[Service] = []
        self._reports: list[str] = []

    def start_servers(self, found: Sequence[Service], environment: Mapping[str, str]) -> None:
        """Servers, all at once, and what is deployed on them."""
        if self._options.with_s3:
            logger.warning(IN_MEMORY)
        self._start(found)
        self._wait(PREFECT)
        for line in self._keeper.finish(deploying(self._options, environment)):
            if line.startswith("!"):  # for a person to do something about, who reads the end
                self._reports.append(line)
            else:
                logger.info("  %s", line)
        with talking_to(self._options.prefect) as client:
            self._plans, left_out = startable(client, self._plans)
            for line in left_out:
                logger.warning(line)
            # whatever an earlier `up` that was killed had under way, nobody executes now
            self._settle(client, "its worker was killed; start it again, and it goes on")
        for service in found:
            if service.name != PREFECT:
                self._wait(service.name)
        if self._options.with_s3:
            _make_bucket(self._options.s3)

    def start_workers(self, found: Sequence[Service]) -> None:
        """Workers of pools that can have some, who find servers well and deployments there."""
        pools = {plan.name for plan in self._plans}
        found = [one for one in found if one.pool in pools]
        shares = {one.gpus for one in found if "COGVX_GPU_SLOTS" in one.environment}
        with talking_to(self._options.prefect) as client:
            for share in sorted(shares):
                slots = share.count(",") + 1
                client.upsert_global_concurrency_limit_by_name(slots_of(share), slots)
            since = now()
            self._start(found)
            for service in found:
                polling = partial(
                    polls, client, service.pool, worker_name(service.name), since=since
                )
                seconds = self._keeper.wait(service.name, polling)
                logger.info("%s polls after %.0f s", service.title, seconds)

    def say_where(self, state: UpState) -> None:
        """URLs, what the catalog still waits for, and what comes next."""
        logger.info("Prefect   %s", state.prefect)
        logger.info("MLflow    %s", state.mlflow)
        if state.s3:
            logger.info("S3        %s", state.s3)
        logger.info("logs      %s", state.home / "up")
        for line in self._reports:
            logger.warning(line)
        with suppress(TransientError), talking_to(state.prefect) as client:
            for line in schedule_lines(client):
                logger.info(line)

    def follow(self, desk: Desk) -> None:
        """Tell what matters until somebody asks to stop.

        Raises:
            Asked: Somebody did.
        """
        logs = {service.name: desk.log(service.name) for service in self._services}
        follower = Follower(self._options.prefect, logs, desk.output)
        is_bucket_lost, turn = False, 0
        while True:
            is_bucket_lost |= any(one.name == S3 for one in self._keeper.tend())
            if is_bucket_lost and self._is_well(S3):
                _make_bucket(self._options.s3)
                logger.error("the S3 server was started again: EVERYTHING IT KEPT IS GONE")
                is_bucket_lost = False
            follower.tell_logs()
            if turn % _RUNS_EVERY == 0 and self._is_well(PREFECT):
                follower.tell_runs()
            turn += 1
            self._keeper.pause(_TURN_SECONDS)

    def stop(self) -> None:
        """Workers first, as runs that end still talk to the servers; then those."""
        logger.info(
            "stopping: first the workers, whose runs save what they have; "
            "Ctrl-C again ends them at once"
        )
        self._keeper.stop(lambda service: bool(service.pool))
        if self._is_well(PREFECT):
            with (
                suppress(TransientError),
                talking_to(self._options.prefect, patiently=False) as client,
            ):
                self._settle(client, "`cogvx up` was stopped; start it again, and it goes on")
        logger.info("stopping the servers")
        self._keeper.stop(lambda service: service.name != S3)
        self._keeper.stop(lambda _: True)
        logger.info("all stopped")

    def _start(self, found: Sequence[Service]) -> None:
        for service in found:
            where = f" on GPU {service.gpus}" if service.gpus else ""
            logger.info("starting %s%s", service.title, where)
        self._keeper.start(found)
        self._services += found

    def _wait(self, name: str) -> None:
        (service,) = [one for one in self._services if one.name == name]
        seconds = self._keeper.wait(name, lambda: answers(service.health))
        logger.info("%s is well after %.0f s", service.title, seconds)

    def _settle(self, client: SyncPrefectClient, why: str) -> None:
        crashed, left = settle(client, [plan.name for plan in self._plans], why)
        for run in crashed:
            logger.warning("%s was under way and is now called Crashed: %s", run.name, why)
        if left:
            logger.warning(
                "left as they are, as workers that are not of this `up` poll their pools: %s",
                ", ".join(f"{run.name} ({run.work_pool_name})" for run in left),
            )

    def _is_well(self, name: str) -> bool:
        urls = [service.health for service in self._services if service.name == name]
        return any(answers(url, seconds=_QUICKLY) for url in urls)


def _make_bucket(s3: str) -> None:
    """On a server that lets anybody in; one that is there already stays as it is."""
    request = urllib.request.Request(f"{s3}/{BUCKET}", method="PUT")  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=30):  # noqa: S310
        pass

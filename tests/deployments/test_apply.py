"""A real server becomes what a catalog says, stays so, and loses what the catalog loses.

The tests tell one story, in their order, on one server.
"""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolUpdate,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectException

from cogvx.errors import ConfigError, TransientError
from deployments.apply import apply_catalog
from deployments.documents import MADE_HERE
from deployments.plan import Change, changes, compare, count, is_change
from deployments.rows import Desired
from deployments.server import Found, asking_for
from flows.encode import encode_shard
from tests.deployments.conftest import FULL
from tests.fixtures.deployed import deploy_beside

Rows = Callable[[str], Desired]
SHIPS = "retrain/ships"
WATCHES = "cogvx: silent runs"
GRACE = "spec.template.spec.terminationGracePeriodSeconds"


def work(plan: tuple[Change, ...]) -> list[str]:
    return [f"{change.sign} {change.kind} {change.name}" for change in plan if is_change(change)]


def reports(plan: tuple[Change, ...]) -> list[str]:
    return [
        f"{change.kind} {change.name} {change.note}" for change in plan if not is_change(change)
    ]


def automation(client: SyncPrefectClient, name: str) -> Automation:
    (found,) = client.read_automations_by_name(name)
    return found


def patch(client: SyncPrefectClient, path: str, **document: Any) -> None:
    """What Prefect's pages send."""
    client.request("PATCH", path, json=document).raise_for_status()  # type: ignore[arg-type]


def edit(client: SyncPrefectClient, deployment: str, **document: Any) -> None:
    patch(client, f"/deployments/{client.read_deployment_by_name(deployment).id}", **document)


def test_what_the_server_lacks_is_said_before_anything_is_done(
    client: SyncPrefectClient, rows: Rows
) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_catalog(client, rows(FULL))
    assert 'notify.block = "slack-webhook/ops" is no block of this server' in str(caught.value)
    assert client.read_work_pools() == []


def test_a_new_server_gets_everything(client: SyncPrefectClient, rows: Rows) -> None:
    SlackWebhook(url="https://hooks.slack.com/services/T/B/x").save("ops")  # type: ignore[arg-type]
    # As it was made before there were catalogs: encode/gpu-cache, without a tag.
    deploy_beside(client, encode_shard, pool="gpu-cache")
    planned = changes(client, rows(FULL))
    assert work(planned) == work(changes(client, rows(FULL)))  # to look changes nothing
    done = apply_catalog(client, rows(FULL))
    assert work(done) == work(planned)
    assert count(done) == "18 to add, 2 to change"
    assert client.read_work_pool("gpu-train").type == "kubernetes"
    assert {
        queue.name: (queue.priority, queue.concurrency_limit)
        for queue in client.read_work_queues(work_pool_name="cpu")
    } == {"urgent": (1, None), "default": (2, None), "idle": (7, 1)}
    ships = client.read_deployment_by_name(SHIPS)
    (schedule,) = ships.schedules
    assert schedule.schedule == CronSchedule(cron="30 3 * * 1-5", timezone="Europe/Berlin")
    assert set(ships.tags) == {"cogvx", "cogvx:top", "team:harbour"}
    assert ships.work_queue_name == "urgent"
    # Nobody waits for these two, so [notify] hears of their ends.
    for name in ("promote/cpu", "retention/store"):
        assert "cogvx:top" in client.read_deployment_by_name(name).tags
    assert "cogvx:top" not in client.read_deployment_by_name("encode/gpu-cache").tags
    assert ships.parameters["recipe"]["name"] == "ships"
    assert limits_of(ships) == (1, "ENQUEUE")
    assert limits_of(client.read_deployment_by_name("retrain/trains")) == (1, "CANCEL_NEW")
    assert client.read_global_concurrency_limit_by_name("cogvx-gpus").limit == 8
    started = automation(client, "cogvx: clips of ships arrived").actions[0]
    assert started.model_dump()["deployment_id"] == ships.id


def limits_of(found: DeploymentResponse) -> tuple[int, str]:
    assert found.global_concurrency_limit is not None
    assert found.concurrency_options is not None
    return found.global_concurrency_limit.limit, found.concurrency_options.collision_strategy.value


def test_applied_again_nothing_changes(client: SyncPrefectClient, rows: Rows) -> None:
    before = client.read_deployment_by_name(SHIPS).updated
    assert changes(client, rows(FULL)) == ()
    assert apply_catalog(client, rows(FULL)) == ()
    assert client.read_deployment_by_name(SHIPS).updated == before


def test_a_pool_keeps_its_type(client: SyncPrefectClient, rows: Rows) -> None:
    text = FULL.replace('type = "docker"', 'type = "kubernetes"')
    with pytest.raises(ConfigError) as caught:
        apply_catalog(client, rows(text.replace("every = 600", "every = 700")))
    assert (
        'pools.gpu-eval.type = "kubernetes" is "docker" at the server, which never changes'
        in str(caught.value)
    )


def test_partly_applied_only_what_the_server_cannot_take_is_held_back(
    client: SyncPrefectClient, deployed_url: str, rows: Rows
) -> None:
    text = FULL.replace('type = "docker"', 'type = "kubernetes"')
    text = text.replace("every = 600", "every = 700").replace("webhook/ops", "webhook/night")
    watches = ["~ deployment watch/ships", "~ deployment watch/trains"]
    before = automation(client, "cogvx: tell of bad ends")
    done = apply_catalog(client, rows(text), partly=True)
    assert work(done) == watches
    pool, block = reports(done)
    pages = deployed_url.removesuffix("/api")
    assert "pool gpu-eval held back: " in pool
    assert f"delete it at {pages}/work-pools/work-pool/gpu-eval; then" in pool
    assert 'held back: notify.block = "slack-webhook/night" is no block of this server' in block
    assert f"make it at {pages}/blocks/catalog/slack-webhook/create; then `cogvx deploy" in block
    assert automation(client, "cogvx: tell of bad ends") == before  # as it was, people are told
    assert reports(apply_catalog(client, rows(text), partly=True)) == [pool, block]
    assert work(apply_catalog(client, rows(FULL), partly=True)) == watches


def edit_by_hand(client: SyncPrefectClient) -> None:
    """What people do in Prefect's pages, of every kind."""
    ships = client.read_deployment_by_name(SHIPS)
    recipe, variables = ships.parameters["recipe"], ships.job_variables
    env = {**variables["env"], "AWS_SECRET_ACCESS_KEY": "hidden"}
    edit(
        client,
        SHIPS,
        parameters={"recipe": {**recipe, "lora": {**recipe["lora"], "rank": 128}}},
        job_variables={**variables, "env": env, "command": "python x.py"},
        tags=["mine"],
    )
    daily, nightly = (CronSchedule(cron=f"{n} {n} * * *", timezone="UTC") for n in (0, 1))
    client.update_deployment_schedule(ships.id, ships.schedules[0].id, schedule=daily)
    promote = client.read_deployment_by_name("promote/cpu")
    client.create_deployment_schedules(promote.id, [(nightly, True)])
    limit = GlobalConcurrencyLimitUpdate(limit=1, active=False)
    client.update_global_concurrency_limit("cogvx-gpus", limit)
    template = client.read_work_pool("gpu-train").base_job_template
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = 30
    pool = WorkPoolUpdate(base_job_template=template, concurrency_limit=3)
    client.update_work_pool("gpu-train", pool)
    patch(client, "/work_pools/cpu/queues/idle", priority=1)
    silent = automation(client, WATCHES)
    core = AutomationCore.model_validate(silent.model_dump(exclude={"id", "owner_resource"}))
    trigger = core.trigger.model_copy(update={"within": timedelta(seconds=30)})
    client.update_automation(silent.id, core.model_copy(update={"trigger": trigger}))
    edit(client, "watch/ships", paused=False, concurrency_limit=5)


BY_HAND = {
    "~ pool cpu": {
        ("queues.urgent.priority", "2", "1"),
        ("queues.default.priority", "3", "2"),
        ("queues.idle.priority", "1", "7"),
    },
    "~ pool gpu-train": {
        (f"template.job_configuration.job_manifest.{GRACE}", "30", "280"),
        ("concurrency", "3", "none"),
    },
    "~ limit cogvx-gpus": {("slots", "1", "8"), ("active", "false", "true")},
    "~ deployment promote/cpu": {
        ("schedules", '[{"cron": "1 1 * * *", "timezone": "UTC"}]', "[]"),
    },
    f"~ deployment {SHIPS}": {
        ("parameters.recipe.lora.rank", "128", "64"),
        ("job_variables.env.AWS_SECRET_ACCESS_KEY", "***", "none"),
        ("job_variables.command", "python x.py", "none"),
        ("tags", '["mine"]', '["cogvx", "cogvx:top", "team:harbour"]'),
        (
            "schedules",
            '[{"cron": "0 0 * * *", "timezone": "UTC"}]',
            '[{"cron": "30 3 * * 1-5", "timezone": "Europe/Berlin"}]',
        ),
    },
    "~ deployment watch/ships": {("limit", "5", "1")},
    f"~ automation {WATCHES}": {("trigger.within", "30.0", "120.0")},
}


def test_what_people_changed_is_told_and_put_back(client: SyncPrefectClient, rows: Rows) -> None:
    edit_by_hand(client)
    plan = apply_catalog(client, rows(FULL))
    told = {f"{change.sign} {change.kind} {change.name}": set(change.fields) for change in plan}
    assert told == BY_HAND
    assert changes(client, rows(FULL)) == ()


def test_what_people_paused_stays_paused_and_is_told(client: SyncPrefectClient, rows: Rows) -> None:
    ships = client.read_deployment_by_name(SHIPS)
    watch = client.read_deployment_by_name("watch/ships")
    client.update_deployment_schedule(ships.id, ships.schedules[0].id, active=False)
    client.pause_deployment(watch.id)
    client.pause_automation(automation(client, WATCHES).id)
    client.update_work_pool("gpu-eval", WorkPoolUpdate(is_paused=True))
    told = [
        "pool gpu-eval was paused by hand, and stays so; resume it there",
        f"deployment {SHIPS} has a schedule that was paused by hand, and stays so; resume it there",
        "deployment watch/ships was paused by hand, and stays so; resume it there",
        f"automation {WATCHES} was disabled by hand, and stays so; resume it there",
    ]
    plan = changes(client, rows(FULL))
    assert (work(plan), reports(plan)) == ([], told)
    # They stay so where the catalog changes something else of them.
    other = FULL.replace("team:harbour", "team:port").replace("every = 600", "every = 900")
    other = other.replace("within_seconds = 120", "within_seconds = 150")
    plan = apply_catalog(client, rows(other))
    assert work(plan) == [
        f"~ deployment {SHIPS}",
        "~ deployment watch/ships",
        "~ deployment watch/trains",
        f"~ automation {WATCHES}",
    ]
    assert reports(plan) == told
    plan = changes(client, rows(other))
    assert (work(plan), reports(plan)) == ([], told)
    (schedule,) = client.read_deployment_by_name(SHIPS).schedules
    assert not schedule.active
    client.update_deployment_schedule(ships.id, schedule.id, active=True)
    client.resume_deployment(watch.id)
    client.resume_automation(automation(client, WATCHES).id)
    client.update_work_pool("gpu-eval", WorkPoolUpdate(is_paused=False))


def test_what_the_catalog_paused_it_resumes(client: SyncPrefectClient, rows: Rows) -> None:
    arrival = "cogvx: clips of trains arrived"
    assert client.read_deployment_by_name("retrain/trains").paused
    assert not automation(client, arrival).enabled
    apply_catalog(client, rows(FULL.replace("paused = true\n", "")))
    assert not client.read_deployment_by_name("retrain/trains").paused
    assert automation(client, arrival).enabled
    apply_catalog(client, rows(FULL))
    assert client.read_deployment_by_name("retrain/trains").paused
    assert not automation(client, arrival).enabled
    # Who resumes in the pages what the catalog paused has it paused again.
    client.resume_deployment(client.read_deployment_by_name("retrain/trains").id)
    assert work(changes(client, rows(FULL))) == ["~ deployment retrain/trains"]


def test_a_catalog_that_nobody_chose_removes_nothing(client: SyncPrefectClient, rows: Rows) -> None:
    before = changes(client, rows(FULL))
    less = FULL.replace("[limits]\ncogvx-gpus = 8", "").replace("concurrency = 4", "")
    less = less.replace('env = {COGVX_GPU_SLOTS = "cogvx-gpus"}', "")
    with pytest.raises(ConfigError) as caught:
        apply_catalog(client, rows(less), may_remove=False)
    assert "would remove 1 of this server's rows, first limit cogvx-gpus" in str(caught.value)
    assert "`cogvx deploy --apply --catalog YOUR.toml`" in str(caught.value)
    assert changes(client, rows(FULL)) == before  # nor was anything else done


def test_of_automations_that_two_made_at_once_one_stays(
    client: SyncPrefectClient, rows: Rows
) -> None:
    ships, old = (f"cogvx: clips of {name} arrived" for name in ("ships", "old"))
    core = AutomationCore.model_validate(
        automation(client, ships).model_dump(exclude={"id", "owner_resource"})
    )
    for name in (ships, ships, old, old):
        client.create_automation(core.model_copy(update={"name": name}))
    plan = apply_catalog(client, rows(FULL))
    assert {line for line in work(plan) if line.startswith("-")} == {
        f"- automation {ships}",
        f"- automation {old}",
    }
    assert {change.name: change.note for change in plan if change.sign == "-"}[ships] == (
        "is there 3 times; one of them stays"
    )
    assert automation(client, ships).actions[0].model_dump()["deployment_id"]
    assert client.read_automations_by_name(old) == []
    assert changes(client, rows(FULL)) == ()


def test_two_who_apply_at_once_end_with_what_one_makes(
    client: SyncPrefectClient, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_limit = rows(FULL.replace("[limits]", "[limits]\ncogvx-both = 1"))
    gate, ended = Barrier(2), []

    def together(found: Found, wanted: Desired, *, partly: bool) -> tuple[Change, ...]:
        plan = compare(found, wanted, partly=partly)
        gate.wait(60)
        return plan

    def one() -> None:
        with get_client(sync_client=True) as mine:
            try:
                apply_catalog(mine, with_limit)
            except TransientError as error:
                ended.append(str(error))

    monkeypatch.setattr("deployments.apply.compare", together)
    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(copy_context().run, one) for _ in range(2)]:
            done.result(60)
    monkeypatch.undo()
    assert ended in (
        [],  # one was done before the other began to write
        ["limit cogvx-both was made or removed meanwhile: somebody else applies, too; do it again"],
    )
    assert changes(client, with_limit) == ()
    apply_catalog(client, rows(FULL))


@pytest.mark.parametrize("error", [ObjectAlreadyExists, ObjectNotFound])
def test_whoever_was_overtaken_is_told_to_do_it_again(error: type[PrefectException]) -> None:
    with pytest.raises(TransientError, match="somebody else applies"), asking_for("pool cpu"):
        raise error(Exception("409"))


def test_a_row_that_is_removed_takes_along_what_it_made(
    client: SyncPrefectClient, rows: Rows
) -> None:
    # What is not of a catalog stays, whatever happens.
    flow = client.read_deployment_by_name(SHIPS).flow_id
    client.create_deployment(flow, name="mine", work_pool_name="cpu")
    client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="mine", limit=1))
    client.request("POST", "/work_pools/cpu/queues", json={"name": "mine"})
    less = FULL[FULL.index("[pools.cpu]") : FULL.index('[[recipes]]\nfile = "trains.toml"')]
    less = less.replace("queues.default = {priority = 2}\n", "")
    less = less.replace("queues.idle = {priority = 7, concurrency = 1}\n", "")
    less = less.replace('env = {COGVX_GPU_SLOTS = "cogvx-gpus"}\n', "")
    plan = apply_catalog(client, rows(less + "[pools.old]\n"))
    assert work(plan) == [
        "~ pool cpu",
        "+ pool old",
        "~ deployment encode/gpu-cache",
        f"~ automation {WATCHES}",
        "- automation cogvx: clips of trains arrived",
        "- automation cogvx: tell of bad ends",
        "- automation cogvx: tell of open questions",
        "- deployment retention/store",
        "- deployment retrain/trains",
        "- deployment watch/ships",
        "- deployment watch/trains",
        "- limit cogvx-gpus",
    ]
    queues = {queue.name for queue in client.read_work_queues(work_pool_name="cpu")}
    assert queues == {"default", "urgent", "mine"}
    plan = changes(client, rows(less))
    assert work(plan) == []
    old, unwatched = reports(plan)
    assert old.startswith("pool old is in no row")
    assert unwatched.startswith("automation cogvx: clips of ships arrived waits for")
    assert client.read_deployment_by_name("retrain/mine")
    assert client.read_global_concurrency_limit_by_name("mine")


def test_names_that_mean_something_in_addresses_take_along_nothing_else(
    client: SyncPrefectClient, rows: Rows
) -> None:
    apply_catalog(client, rows(FULL))
    # A catalog refuses such names; whoever made them, only they go.
    for name in ("cogvx-gpus#2", "cogvx-gpus?x"):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    for name, text in (("night", ""), ("night#1", MADE_HERE), ("night?x", MADE_HERE)):
        queue = {"name": name, "description": text}
        client.request("POST", "/work_pools/cpu/queues", json=queue).raise_for_status()
    assert work(apply_catalog(client, rows(FULL))) == [
        *("~ pool cpu", "- limit cogvx-gpus#2", "- limit cogvx-gpus?x"),
    ]
    assert client.read_global_concurrency_limit_by_name("cogvx-gpus").limit == 8
    queues = {queue.name for queue in client.read_work_queues(work_pool_name="cpu")}
    assert queues == {"default", "idle", "mine", "night", "urgent"}
    assert work(changes(client, rows(FULL))) == []


def test_a_refusal_is_told_without_the_request(client: SyncPrefectClient) -> None:
    with pytest.raises(ConfigError) as caught, asking_for("a pool"):
        client.request("POST", "/work_pools/", json={"name": "a/b", "type": "process"})
    assert re.fullmatch("the server refuses a pool: .{10,200}", str(caught.value))

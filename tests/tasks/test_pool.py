"""What is shown of Prefect's server, whose address can hold a password."""

import traceback
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from cogvx.errors import CogvxError, ConfigError, TransientError
from deployments.trigger import _follow as follow
from deployments.trigger import run_trigger
from tasks.clients.pool import asking, open_pool
from tasks.clients.slots import gpu_slots
from tasks.pages.shown import shown
from tasks.settings import Settings
from tests.deployments.test_server import answer
from tests.fixtures.servers import answering

REQUEST = httpx.Request("GET", "http://me:hunter2@prefect.example/api/flow_runs")


def test_a_servers_failure_is_told_without_its_password() -> None:
    with pytest.raises(TransientError) as caught, asking("look at runs"):
        httpx.Response(503, request=REQUEST).raise_for_status()
    assert "http://me:***@prefect.example/api" in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_failure_without_a_password_keeps_its_cause() -> None:
    with pytest.raises(TransientError) as caught, asking("look at runs"):
        raise httpx.ConnectError("all attempts failed")
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


def test_who_follows_a_run_that_was_deleted_is_told() -> None:
    with answering(answer("200 OK", [])) as port:
        url = f"http://127.0.0.1:{port}/api"
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}),
            get_client(sync_client=True) as client,
            pytest.raises(CogvxError, match=r"flow run .{36} was deleted, so nobody knows how"),
        ):
            follow(client, uuid4())


def test_no_message_about_a_deployment_shows_the_password(tmp_path: Path) -> None:
    with answering(answer("404 Not Found", {"detail": "Deployment not found"})) as port:
        url = f"http://me:hunter2@127.0.0.1:{port}/api"
        with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
            with pytest.raises(CogvxError) as ours, open_pool("encode/gpu-cache"):
                pass
            with pytest.raises(CogvxError) as started:
                run_trigger("ships", Settings(home=tmp_path), wait=False)
    assert "hunter2" not in "".join(traceback.format_exception(ours.value)) + str(started.value)
    assert f"http://me:***@127.0.0.1:{port}/api" in str(ours.value)


def test_an_address_that_is_none_is_a_setting_and_is_not_shown() -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://me:hun/ter2@127.0.0.1/api"}),
        pytest.raises(ConfigError, match=r"PREFECT_API_URL is no address.*%2F") as caught,
        open_pool("encode/gpu-cache"),
    ):
        pass
    assert "hun" not in "".join(traceback.format_exception(caught.value))


def test_what_cannot_be_shown_is_told_without_a_password(caplog: pytest.LogCaptureFixture) -> None:
    with shown("stages"):
        httpx.Response(413, request=REQUEST).raise_for_status()
    assert "not shown in Prefect's pages" in caplog.text
    assert "hunter2" not in caplog.text


def test_slots_that_are_refused_are_told_without_a_password(tmp_path: Path) -> None:
    limit = {"id": str(uuid4()), "name": "cogvx-gpus", "limit": 1, "active": True}
    limit |= {"active_slots": 0, "slot_decay_per_second": 0.0}
    with answering(answer("200 OK", limit)) as port:
        url = f"http://me:hunter2@127.0.0.1:{port}/api"
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
            pytest.raises(TransientError, match="no slot of cogvx-gpus") as caught,
            gpu_slots(Settings(home=tmp_path, gpu_slots="cogvx-gpus"), 1),
        ):
            pass
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))

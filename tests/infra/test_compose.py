"""What `docker compose` would start, held to its rules where there is no Docker to ask."""

import re
import tomllib
from typing import Any
from uuid import uuid4

import mlflow.environment_variables as known
import pytest
from mlflow.cli import cli as mlflow_cli
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings
from prefect.settings import Settings as PrefectSettings
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from tasks.clients.pool import page_of_run
from tasks.clients.registry import Registry, Version
from tasks.registry.history import links_of, picture_of
from tasks.settings import Settings, settings
from tests.infra.compose import (
    EXAMPLE,
    INFRA,
    ROOT,
    SECRETS,
    UnsetError,
    compose,
    example,
    filled,
    put_in,
    seconds,
    variables_of,
)

# Of the Compose specification, what this project uses: a key that is misspelt is nobody's.
_SERVICE_KEYS = {
    *(
        "build",
        "cap_drop",
        "command",
        "depends_on",
        "deploy",
        "environment",
        "healthcheck",
        "image",
    ),
    *("logging", "ports", "profiles", "read_only", "restart", "security_opt", "shm_size"),
    *("stop_grace_period", "tmpfs", "user", "volumes"),
}
_ONE_SHOT = {"bucket", "deploy"}
_SERVERS = {"postgres", "s3", "prefect", "mlflow"}
# Seconds that infra/entrypoint.sh adds to COGVX_STOP_SECONDS, and what is to spare.
_ENTRYPOINT_SECONDS = 130
_SPARE_SECONDS = 30


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return compose(filled())


@pytest.fixture(scope="module")
def services(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = document["services"]
    return found


def test_it_has_only_keys_of_the_specification(document: dict[str, Any]) -> None:
    assert set(document) == {"name", "services", "volumes"}
    for name, service in document["services"].items():
        assert set(service) <= _SERVICE_KEYS, name
        assert set(service.get("healthcheck", {})) <= {
            *("test", "interval", "timeout", "retries", "start_period"),
        }, name


@pytest.mark.parametrize("secret", SECRETS)
def test_without_a_secret_nothing_starts(secret: str) -> None:
    with pytest.raises(UnsetError, match=f"{secret}: set it in infra/.env"):
        compose(filled() | {secret: ""})


def test_the_example_has_no_secret_and_every_other_variable() -> None:
    given = example()
    assert {name for name, value in given.items() if not value} >= set(SECRETS)
    asked = variables_of((INFRA / "compose.yaml").read_text())
    mentioned = set(re.findall(r"^#? ?([A-Z0-9_]+)=", EXAMPLE.read_text(), re.MULTILINE))
    # Compose itself reads COMPOSE_PROFILES; ports and the hub's mode are seldom changed.
    assert mentioned - asked == {"COMPOSE_PROFILES"}
    assert asked - mentioned == {"S3_PORT", "PREFECT_PORT", "MLFLOW_PORT", "HF_HUB_OFFLINE"}


def test_every_default_of_the_document_is_that_of_the_example() -> None:
    text = (INFRA / "compose.yaml").read_text()
    for name, value in example().items():
        for default in re.findall(rf"\$\{{{name}:?-([^}}]*)}}", text):
            assert default in {value, ""}, name


def test_images_are_pinned_and_ours_are_built_here(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        image, _, tag = service["image"].rpartition(":")
        assert re.search(r"\d+\.\d+", tag), f"{name}: {service['image']} is not pinned"
        if image.startswith("cogvx-"):
            assert service["build"]["context"] == ".."
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    built = [service["build"]["dockerfile"] for service in services.values() if "build" in service]
    assert set(built) == {"infra/worker.Dockerfile", "infra/control.Dockerfile"}


def test_only_this_machine_is_listened_on(services: dict[str, dict[str, Any]]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(ports) == {"s3", "prefect", "mlflow"}
    assert all(port.startswith("127.0.0.1:") for found in ports.values() for port in found)


def test_who_waits_for_whom_can_come_true(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], (name, other)
            else:
                assert how["condition"] == "service_completed_successfully", (name, other)
                assert other in _ONE_SHOT, (name, other)
    assert {name for name, service in services.items() if service["restart"] == "no"} == _ONE_SHOT


def test_servers_say_whether_they_are_healthy(services: dict[str, dict[str, Any]]) -> None:
    assert {name for name, service in services.items() if "healthcheck" in service} == _SERVERS
    for name in set(services) - _ONE_SHOT:
        assert services[name]["restart"] == "unless-stopped"
        if name not in _SERVERS:  # the image asks the worker itself
            assert "--with-healthcheck" in services[name]["command"]


def test_each_pool_of_the_catalog_has_a_worker(services: dict[str, dict[str, Any]]) -> None:
    workers = {name: one for name, one in services.items() if name.startswith("worker-")}
    catalog = tomllib.loads((INFRA / "catalog" / "catalog.toml").read_text())
    assert {name.removeprefix("worker-") for name in workers} == set(catalog["pools"])
    for name, worker in workers.items():
        command = worker["command"]
        assert command[command.index("--pool") + 1] == name.removeprefix("worker-")
        assert command[command.index("--type") + 1] == "process"
        assert ("--limit" in command) == (name != "worker-cpu")
        assert worker["environment"]["COGVX_GPU_SLOTS"] in catalog["limits"]


def test_gpu_pools_have_gpus_and_shared_memory(services: dict[str, dict[str, Any]]) -> None:
    for name, worker in services.items():
        if not name.startswith("worker-"):
            continue
        is_gpu = name != "worker-cpu"
        assert (worker["profiles"] == ["gpu"]) == is_gpu
        assert worker["shm_size"]
        assert worker["environment"]["COGVX_DEVICE"] == ("cuda" if is_gpu else "cpu")
        assert ("deploy" in worker) == is_gpu
        if is_gpu:
            (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
            assert device["driver"] == "nvidia"
            assert device["capabilities"] == ["gpu"]
            assert ("count" in device) != ("device_ids" in device)


def test_a_stop_is_more_patient_than_a_checkpoint(services: dict[str, dict[str, Any]]) -> None:
    for name, worker in services.items():
        if name.startswith("worker-"):
            stop = float(worker["environment"]["COGVX_STOP_SECONDS"])
            grace = seconds(worker["stop_grace_period"])
            assert grace >= stop + _ENTRYPOINT_SECONDS + _SPARE_SECONDS, name


def test_settings_exist(services: dict[str, dict[str, Any]]) -> None:
    ours = {f"COGVX_{field.upper()}" for field in Settings.model_fields}
    prefects = _prefect_variables()
    of_mlflow = {option.envvar for option in mlflow_cli.commands["server"].params}
    for name, service in services.items():
        for variable in service.get("environment", {}):
            if variable.startswith("COGVX_"):
                assert variable in ours, (name, variable)
            if variable.startswith("PREFECT_"):
                assert variable in prefects, (name, variable)
            if variable.startswith("MLFLOW_"):
                assert hasattr(known, variable) or variable in of_mlflow, (name, variable)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COGVX_GPU_HOUR_PRICE", "2.5"),
        ("COGVX_POOL_PRICES", "{}"),
        ("COGVX_CURRENCY", "EUR"),
        ("COGVX_APPROVAL_HOURS", "48"),
        ("HF_TOKEN", "hf_0"),
    ],
)
def test_workers_are_told_what_is_set(name: str, value: str) -> None:
    given = compose(filled() | {name: value})["services"]
    workers = [one for key, one in given.items() if key.startswith("worker-")]
    assert workers
    assert all(str(one["environment"][name]) == value for one in workers)


@pytest.mark.parametrize("page", ["http://127.0.0.1", "https://pages.example.com"])
def test_links_lead_where_a_browser_goes(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    is_here = page.endswith("127.0.0.1")
    said = {} if is_here else {"PREFECT_URL": page, "MLFLOW_URL": page}
    given = compose(filled() | said)["services"]
    worker = given["worker-cpu"]["environment"]
    version = Version("ink", 1, (), run_id="r", source="s")
    monkeypatch.setenv("COGVX_MLFLOW_URL", worker["COGVX_MLFLOW_URL"])
    settings.cache_clear()
    with temporary_settings(
        {PREFECT_API_URL: worker["PREFECT_API_URL"], PREFECT_UI_URL: worker["PREFECT_UI_URL"]}
    ):
        assert page_of_run(uuid4()).startswith(f"{page}:4200/" if is_here else f"{page}/")
    registry = Registry.__new__(Registry)
    registry.tracking_uri = worker["COGVX_TRACKING_URI"]
    for link in [*links_of(registry, version).values(), picture_of(registry, version)]:
        assert link.startswith(f"{page}:5000/" if is_here else f"{page}/")
    settings.cache_clear()
    assert given["prefect"]["environment"]["PREFECT_UI_URL"] == worker["PREFECT_UI_URL"]


def test_secrets_reach_only_those_who_need_them(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        shown = repr(service)
        assert ("postgres_password0" in shown) == (name in {"postgres", "prefect", "mlflow"}), name
        # Who may list processes sees a command.
        secrets = [value for key, value in filled().items() if key in SECRETS]
        assert not any(secret in repr(service.get("command")) for secret in secrets), name


def test_volumes_are_declared_and_sources_exist(document: dict[str, Any]) -> None:
    used = set()
    for service in document["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert source == "./clips" or (INFRA / source).exists(), source
            else:
                used.add(source)
    assert used == set(document["volumes"])


def test_interpolation_is_that_of_the_specification() -> None:
    given = {"A": "a", "E": ""}
    text = "${A}|${E:-e}|${E-e}|${N-n}|${A:+yes}|${E:+yes}|${N:-}"
    assert put_in(text, given) == "a|e||n|yes||"
    with pytest.raises(UnsetError, match="N: say"):
        put_in("${N:?say}", given)


def _prefect_variables(settings: type[BaseSettings] = PrefectSettings) -> set[str]:
    """Every name under which the installed Prefect reads a setting."""
    found = set()
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseSettings):
            found |= _prefect_variables(kind)
            continue
        found.add(f"{settings.model_config['env_prefix']}{name}".upper())
        if isinstance(field.validation_alias, AliasChoices):
            choices = field.validation_alias.choices
            found |= {choice.upper() for choice in choices if isinstance(choice, str)}
    return found

"""Base job templates: what Prefect's server and its workers take, with what the catalog says."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from prefect.utilities.templating import apply_values

from deployments.catalog_sections import PoolConfig
from deployments.pools import base_job_template

KUBERNETES = PoolConfig.model_validate(
    {
        "type": "kubernetes",
        "image": "registry/cogvx-worker:1",
        "gpus": 8,
        "cpu": "32",
        "memory": "256Gi",
        "shm": "64Gi",
        "stop_seconds": 120.0,
        "tolerations": [
            {"key": "nvidia.com/gpu", "effect": "NoSchedule"},
            {"key": "a", "value": "b"},
        ],
        "node_selector": {"gpu": "h100"},
    }
)
DOCKER = PoolConfig.model_validate(
    {"type": "docker", "image": "cogvx-worker:1", "gpus": 2, "memory": "64Gi", "shm": "512Mi"}
)
POOLS = {
    "process": PoolConfig(),
    "docker": DOCKER,
    "docker, plain": PoolConfig(type="docker", image="i"),
    "kubernetes": KUBERNETES,
    "kubernetes, plain": PoolConfig(type="kubernetes", image="i"),
}


def placeholders(part: object) -> set[str]:
    return set(re.findall(r"{{ (\w+) }}", json.dumps(part)))


def worker_types() -> dict[str, Any]:
    """The list that Prefect's own pages offer when somebody makes a pool."""
    views = resources.files("prefect.server.api.collections_data.views")
    listed = json.loads((views / "aggregate-worker-metadata.json").read_text())
    return {name: worker for each in listed.values() for name, worker in each.items()}


@pytest.fixture(params=POOLS.values(), ids=list(POOLS))
def pool(request: pytest.FixtureRequest) -> PoolConfig:
    found: PoolConfig = request.param
    return found


def test_every_variable_has_a_place_and_every_place_a_variable(pool: PoolConfig) -> None:
    template = base_job_template(pool)
    schema = template["variables"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert placeholders(template["job_configuration"]) == set(schema["properties"])
    defaults = {n: p["default"] for n, p in schema["properties"].items() if p.get("default")}
    jsonschema.validate(defaults, schema)


def test_no_run_can_be_given_a_command(pool: PoolConfig) -> None:
    assert "command" not in json.dumps(base_job_template(pool)["job_configuration"])
    assert "command" not in base_job_template(pool)["variables"]["properties"]


def test_a_worker_knows_what_its_template_configures(pool: PoolConfig) -> None:
    listed = worker_types()[pool.type]["default_base_job_configuration"]["job_configuration"]
    # Taken by the worker, and not in Prefect's list; it has no variable of its own.
    known = {*listed, "container_create_kwargs"}
    assert set(base_job_template(pool)["job_configuration"]) <= known


def rendered(pool: PoolConfig, **given: object) -> dict[str, Any]:
    """What a worker makes of a template, by Prefect's own rules."""
    template = base_job_template(pool)
    properties = template["variables"]["properties"]
    values = {n: p["default"] for n, p in properties.items() if "default" in p}
    found: dict[str, Any] = apply_values(template["job_configuration"], {**values, **given})
    return found


def test_a_kubernetes_run_gets_what_the_catalog_says(tmp_path: Path) -> None:
    found = rendered(KUBERNETES, name="run", labels={"a": "b"}, env={"X": "1"})
    job = found["job_manifest"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert job["spec"]["backoffLimit"] == 0
    assert pod["terminationGracePeriodSeconds"] == 120 + 160
    assert container["resources"] == {
        "requests": {"cpu": "32", "memory": "256Gi", "nvidia.com/gpu": 8},
        "limits": {"memory": "256Gi", "nvidia.com/gpu": 8},
    }
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}} in pod["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "a", "operator": "Equal", "value": "b"},
    ]
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert container["image"] == "registry/cogvx-worker:1"
    assert container["env"] == {"X": "1"}
    assert found["namespace"] == job["metadata"]["namespace"] == "cogvx"
    assert "args" not in container
    assert "command" not in container


def test_what_a_kubernetes_pool_does_not_say_is_left_to_the_cluster() -> None:
    pod = rendered(PoolConfig(type="kubernetes", image="i"))["job_manifest"]["spec"]["template"][
        "spec"
    ]
    (container,) = pod["containers"]
    assert container["resources"] == {"requests": {}, "limits": {}}
    assert [volume["name"] for volume in pod["volumes"]] == ["home", "files"]
    assert not {"tolerations", "nodeSelector"} & set(pod)


def test_a_deployment_may_ask_for_fewer_gpus() -> None:
    job = rendered(KUBERNETES, gpus=1)["job_manifest"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_a_container_gets_its_gpus_and_shared_memory() -> None:
    found = rendered(DOCKER)
    assert found["container_create_kwargs"] == {
        "device_requests": [{"count": 2, "capabilities": [["gpu"]]}],
        "shm_size": "512m",
    }
    assert found["mem_limit"] == "64g"
    assert found["image"] == "cogvx-worker:1"

"""Manifests and what workers make of them, against the schemas of Kubernetes' own API."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prefect.utilities.templating import apply_values
from prefect.workers.base import BaseJobConfiguration

from deployments import pools
from deployments.catalog import load_catalog
from deployments.catalog_sections import PoolConfig
from tasks.settings import Settings
from tests.infra.compose import INFRA
from tests.infra.readme import README

MANIFESTS = INFRA / "kubernetes"
# The oldest that is still supported by somebody, and the newest that there is a schema for.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
KUBECTL = shutil.which("kubectl")
_ENTRYPOINT_SECONDS = 130
_TRAIN = PoolConfig(
    type="kubernetes", image="registry.example.com/cogvx-worker:0.1.0", gpus=4, cpu="16",
    memory="128Gi", shm="16Gi", tolerations=({"key": "nvidia.com/gpu"},),
)  # fmt: skip


@cache
def _documents(folder: Path = MANIFESTS) -> tuple[dict[str, Any], ...]:
    """The manifests that kustomization.yaml in a folder names."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization["namespace"] == pools.NAMESPACE
    named = set(kustomization["resources"])
    assert named == {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    return tuple(
        document
        for name in kustomization["resources"]
        for document in yaml.safe_load_all((folder / name).read_text())
    )


def _all() -> tuple[dict[str, Any], ...]:
    return (*_documents(), *_documents(MANIFESTS / "machines"))


def _of(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in _all() if one["kind"] == kind}


def _pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for one in _all():
        if one["kind"] in {"Deployment", "Job"}:
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def _job(pool: PoolConfig) -> dict[str, Any]:
    """The Job that Prefect's worker makes of a flow run in this pool."""
    template = pools.base_job_template(pool)
    # Prefect's own defaults and filling in; only blocks are not looked up, which needs a server.
    variables = BaseJobConfiguration._get_base_config_defaults(template["variables"]["properties"])
    variables |= {"name": "fine-otter", "labels": {"prefect.io/flow-run-id": "1"}}
    variables |= {"env": [{"name": "PREFECT__FLOW_RUN_ID", "value": "1"}]}
    job: dict[str, Any] = apply_values(template["job_configuration"], variables)["job_manifest"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["args"] = ["prefect", "flow-run", "execute"]  # the worker's own
    return job


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_valid(version: str) -> None:
    for document in _all():
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "pool", [_TRAIN, PoolConfig(type="kubernetes", image="cogvx-worker-cpu:0.1.0")]
)
def test_the_job_of_a_flow_run_is_valid(version: str, pool: PoolConfig) -> None:
    job = _job(pool)
    spec = job["spec"]["template"]["spec"]
    # Prefect's worker insists on these two in the pod's spec, where Kubernetes drops them unread.
    assert (spec.pop("parallelism"), spec.pop("completions")) == (1, 1)
    kubernetes_validate.validate(job, version, strict=True)
    assert "{{" not in str(job)


def test_a_training_run_gets_what_its_pool_says() -> None:
    pod = _job(_TRAIN)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert pod["terminationGracePeriodSeconds"] >= _TRAIN.stop_seconds + _ENTRYPOINT_SECONDS


@pytest.mark.parametrize("file", ["catalog/catalog.toml", "kubernetes/catalog.toml"])
def test_a_catalog_can_be_deployed_with_a_recipe_beside_it(file: str, tmp_path: Path) -> None:
    recipes = INFRA.parent / "deployments" / "recipes"
    shutil.copy(INFRA / file, tmp_path / "catalog.toml")
    shutil.copy(recipes / "cogvideox-5b.toml", tmp_path / "my-style.toml")
    catalog = load_catalog(tmp_path / "catalog.toml")
    workers = {name.removeprefix("worker-") for name in _of("Deployment")}
    assert set(catalog.pools) == workers
    for name, pool in catalog.pools.items():
        if pool.type == "kubernetes":
            pod = _job(pool)["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            assert container["image"].startswith("registry.example.com/cogvx-worker")
            assert container["resources"]["limits"].get("nvidia.com/gpu", 0) == pool.gpus
            assert (pool.gpus > 0) == name.startswith("gpu-")


def test_the_way_to_four_gpus_is_one_that_can_be_deployed(tmp_path: Path) -> None:
    (train,) = re.findall(r"^```toml\n(processes = 4\n.*?)```", README, re.MULTILINE | re.DOTALL)
    assert "`gpus = 4` in `[pools.gpu-train]` of infra/kubernetes/catalog.toml" in README
    before, pool, after = (MANIFESTS / "catalog.toml").read_text().partition("[pools.gpu-train]")
    text = before + pool + after.replace("gpus = 1", "gpus = 4", 1)
    (tmp_path / "catalog.toml").write_text(text)
    assert {"gpus = 4", "processes = 4", "global_batch = 4"} <= set(re.findall(r"\w+ = 4", before))
    recipe = (INFRA.parent / "deployments" / "recipes" / "cogvideox-5b.toml").read_text()
    (tmp_path / "my-style.toml").write_text(recipe.replace("global_batch = 2\n", train))
    (found,) = load_catalog(tmp_path / "catalog.toml").recipes
    assert found.recipe.train.processes == found.recipe.train.global_batch == 4


def test_templates_and_manifests_name_the_same_things() -> None:
    pod = _job(_TRAIN)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["serviceAccountName"] in _of("ServiceAccount")
    claims = {one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"]
              if "persistentVolumeClaim" in one}  # fmt: skip
    assert claims == set(_of("PersistentVolumeClaim"))
    maps = {one["configMapRef"]["name"] for one in container["envFrom"] if "configMapRef" in one}
    assert maps == set(_of("ConfigMap"))
    (files,) = [one["configMap"] for one in pod["volumes"] if "configMap" in one]
    assert files["optional"]
    assert f"create configmap {files['name']} " in README
    assert _job(_TRAIN)["metadata"]["namespace"] in _of("Namespace")


def test_secrets_stand_nowhere() -> None:
    assert "Secret" not in {one["kind"] for one in _all()}
    for name, pod in _pods():
        for container in pod["containers"]:
            assert {"secretRef": {"name": "cogvx"}} in container["envFrom"], name
            plain = {one["name"] for one in container["env"] if "value" in one}
            assert not {one for one in plain if re.match(r"COGVX_.*_KEY$", one)}
            assert "PREFECT_API_AUTH_STRING" not in plain


def test_pods_may_do_little_and_ask_for_what_they_need() -> None:
    for name, pod in _pods():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert ":" not in container["image"]  # kustomization.yaml has the version
    for folder in (MANIFESTS, MANIFESTS / "machines"):
        for image in yaml.safe_load((folder / "kustomization.yaml").read_text())["images"]:
            assert re.fullmatch(r"\d+\.\d+\.\d+", image["newTag"])


def test_each_pool_has_workers_one_of_which_stays() -> None:
    workers = _of("Deployment")
    assert set(workers) == {
        f"worker-{pool}" for pool in ("cpu", "gpu-cache", "gpu-train", "gpu-eval")
    }
    observers = []
    for name, worker in workers.items():
        assert worker["spec"]["replicas"] >= 2
        budget = _of("PodDisruptionBudget")[name]["spec"]
        labels = worker["spec"]["template"]["metadata"]["labels"]
        assert (
            budget["selector"]["matchLabels"] == labels == worker["spec"]["selector"]["matchLabels"]
        )
        (container,) = worker["spec"]["template"]["spec"]["containers"]
        command = container["args"]
        assert command[command.index("--pool") + 1] == name.removeprefix("worker-")
        assert command[command.index("--type") + 1] == "kubernetes"
        environment = {one["name"]: one["value"] for one in container["env"]}
        # Else the worker would write its own into each Job.
        secret = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_"
        assert environment[f"{secret}NAME"] == "cogvx"
        if "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES" in environment:
            observers.append(name)
    assert observers == ["worker-cpu"]  # each crash is told once


def test_workers_may_make_jobs_and_runs_may_do_nothing() -> None:
    (binding,) = _of("RoleBinding").values()
    assert [one["name"] for one in binding["subjects"]] == ["cogvx-worker"]
    rules = {
        tuple(rule["resources"]): set(rule["verbs"])
        for rule in _of("Role")["cogvx-worker"]["rules"]
    }
    assert {"create", "delete", "watch"} <= rules[("jobs",)]
    assert not any("secrets" in resources or "*" in verbs for resources, verbs in rules.items())
    assert not any(one["automountServiceAccountToken"] for one in _of("ServiceAccount").values())


def test_settings_of_the_config_map_exist() -> None:
    ours = {f"COGVX_{field.upper()}" for field in Settings.model_fields}
    for name in _of("ConfigMap")["cogvx"]["data"]:
        assert not name.startswith("COGVX_") or name in ours


def test_machines_of_one_run_find_each_other() -> None:
    (job,) = _of("Job").values()
    (service,) = _of("Service").values()
    text = (MANIFESTS / "machines" / "job.yaml").read_text()
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert spec["completionMode"] == "Indexed"
    held = spec["completions"] * int(container["resources"]["limits"][pools._GPU])
    assert f"processes = {held} and global_batch = {held}" in text
    assert f"`processes = {held}` and `global_batch" in README
    assert spec["completions"] == spec["parallelism"] == int(environment["COGVX_MACHINES"])
    name = job["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    assert service["spec"]["selector"] == {"job-name": name}
    # Kubernetes calls pod 0 of an indexed Job so, within the Service's domain.
    assert environment["COGVX_MAIN_ADDRESS"] == f"{name}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["ports"][0]["port"] == int(environment["COGVX_MAIN_PORT"])
    ours = {f"COGVX_{field.upper()}" for field in Settings.model_fields}
    assert {one for one in environment if one.startswith("COGVX_")} <= ours
    stop = float(environment["COGVX_STOP_SECONDS"] or 0)
    assert pod["terminationGracePeriodSeconds"] >= stop + _ENTRYPOINT_SECONDS + 30
    policy = _of("NetworkPolicy")["cogvx-machines"]["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= spec["template"]["metadata"]["labels"].items()


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", [MANIFESTS, MANIFESTS / "machines"], ids=["all", "machines"])
def test_kustomize_puts_them_together(folder: Path) -> None:
    command = [str(KUBECTL), "kustomize", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    documents = list(yaml.safe_load_all(built))
    assert len(documents) == len(_documents(folder))
    for document in documents:
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "cogvx"
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
    assert "registry.example.com/cogvx-" in built

"""Base job templates: what a worker of each type makes of a flow run.

A template has the form that Prefect documents for its pool type: `variables` is a JSON schema of
what a deployment may set, `job_configuration` says where those values go. Workers for containers
and for Kubernetes are packages of their own that the machine which deploys need not have, so their
parts stand here; tests hold them against the list of worker types that Prefect's server carries.

No template takes the variable `command`: a run with a command of its own is stopped in another way,
which reaches its process alone and orphans the trainer below it.
"""

import copy
from collections.abc import Mapping
from typing import Any

from prefect.workers.process import ProcessWorker

from deployments.catalog_rules import grace_seconds
from deployments.catalog_sections import PoolConfig

# Names that the manifests of infra/kubernetes make.
NAMESPACE = "cogvx"
SERVICE_ACCOUNT = "cogvx-run"
SETTINGS = "cogvx"
HOME_CLAIM = "cogvx-home"
FILES = "cogvx-recipe"
"""A ConfigMap whose files, as a suite, runs find in /etc/cogvx; it may be missing."""
HOME = "/var/lib/cogvx"
_USER = 10001
_KEEP_JOBS_SECONDS = 86_400
# The first image of a day is several GB.
_START_SECONDS = 1800
_GPU = "nvidia.com/gpu"


def base_job_template(pool: PoolConfig) -> dict[str, Any]:
    """The template of a pool, with what the catalog says of it as the defaults of its variables."""
    if pool.type == "process":
        return _process()
    return _docker(pool) if pool.type == "docker" else _kubernetes(pool)


def _process() -> dict[str, Any]:
    """That of the installed worker."""
    template = copy.deepcopy(ProcessWorker.get_default_base_job_template())
    del template["job_configuration"]["command"], template["variables"]["properties"]["command"]
    return template


def _docker(pool: PoolConfig) -> dict[str, Any]:
    """Containers; what Prefect's worker has no variable for goes to Docker as it is."""
    extra: dict[str, Any] = {}
    if pool.gpus:
        extra["device_requests"] = [{"count": pool.gpus, "capabilities": [["gpu"]]}]
    if pool.shm is not None:
        extra["shm_size"] = _docker_size(pool.shm)
    variables = {
        **_common(pool),
        "image_pull_policy": _choice(
            "When the image is pulled.", ["IfNotPresent", "Always", "Never"]
        ),
        "networks": _texts("Docker networks that containers join.", []),
        "volumes": _texts("Volumes of containers, source:target.", [f"{HOME_CLAIM}:{HOME}"]),
        "auto_remove": _flag("Remove a container that has ended.", default=False),
        "stream_output": _flag("Show what runs print in the worker's output.", default=True),
        "mem_limit": _text(
            "Most memory of a container.", pool.memory and _docker_size(pool.memory)
        ),
    }
    template = _template(variables)
    template["job_configuration"]["container_create_kwargs"] = extra
    return template


def _kubernetes(pool: PoolConfig) -> dict[str, Any]:
    """Jobs of one pod that is never started again: the run itself says what comes next."""
    variables = {
        **_common(pool),
        "namespace": _text("Namespace of Jobs.", NAMESPACE),
        "service_account_name": _text("Service account of Jobs.", SERVICE_ACCOUNT),
        "image_pull_policy": _choice(
            "When the image is pulled.", ["IfNotPresent", "Always", "Never"]
        ),
        "finished_job_ttl": _count("Seconds that an ended Job is kept.", _KEEP_JOBS_SECONDS),
        "pod_watch_timeout_seconds": _count(
            "Seconds that a pod may take to start.", _START_SECONDS
        ),
        "stream_output": _flag("Show what runs print in the worker's output.", default=True),
        "cpu": _text("CPUs that a run asks for.", pool.cpu),
        "memory": _text("Memory of a run, asked for and most.", pool.memory),
        **({"gpus": _count("GPUs of a run.", pool.gpus)} if pool.gpus else {}),
        **({"shm": _text("Size of /dev/shm.", pool.shm)} if pool.shm else {}),
    }
    template = _template({name: variables[name] for name in variables if name not in _IN_MANIFEST})
    template["variables"]["properties"] = variables
    template["job_configuration"]["job_manifest"] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "labels": "{{ labels }}",
            "namespace": "{{ namespace }}",
            "generateName": "{{ name }}-",
        },
        "spec": {
            # With any other number Kubernetes would start a run again that Prefect knows ended.
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": "{{ finished_job_ttl }}",
            "template": {"spec": _pod(pool)},
        },
    }
    return template


# Variables whose place is in the manifest only, and not in the worker's own configuration.
_IN_MANIFEST = frozenset(
    {
        "image",
        "image_pull_policy",
        "service_account_name",
        "finished_job_ttl",
        "cpu",
        "memory",
        "gpus",
        "shm",
    }
)


def _pod(pool: PoolConfig) -> dict[str, Any]:
    resources = {"cpu": "{{ cpu }}", "memory": "{{ memory }}"}
    gpus = {_GPU: "{{ gpus }}"} if pool.gpus else {}
    volumes: list[dict[str, Any]] = [
        {"name": "home", "persistentVolumeClaim": {"claimName": HOME_CLAIM}}
    ]
    volumes.append({"name": "files", "configMap": {"name": FILES, "optional": True}})
    mounts: list[dict[str, Any]] = [
        {"name": "home", "mountPath": HOME},
        {"name": "files", "mountPath": "/etc/cogvx", "readOnly": True},
    ]
    if pool.shm is not None:
        memory = {"medium": "Memory", "sizeLimit": "{{ shm }}"}
        volumes.append({"name": "shm", "emptyDir": memory})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - its only place
    return {
        # Prefect's worker insists on finding these two here, where Kubernetes overlooks them.
        "parallelism": 1,
        "completions": 1,
        "restartPolicy": "Never",
        "serviceAccountName": "{{ service_account_name }}",
        "automountServiceAccountToken": False,
        # From SIGTERM to SIGKILL: the trainer needs it for its checkpoint.
        "terminationGracePeriodSeconds": grace_seconds(pool),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"nodeSelector": dict(pool.node_selector)} if pool.node_selector else {}),
        **({"tolerations": _tolerations(pool)} if pool.tolerations else {}),
        "volumes": volumes,
        "containers": [
            {
                "name": "prefect-job",
                "image": "{{ image }}",
                "imagePullPolicy": "{{ image_pull_policy }}",
                "env": "{{ env }}",
                # Settings and secrets by reference, so that no page and no manifest shows them.
                "envFrom": [
                    {"configMapRef": {"name": SETTINGS}},
                    {"secretRef": {"name": SETTINGS}},
                ],
                "resources": {
                    "requests": {**resources, **gpus},
                    "limits": {"memory": "{{ memory }}", **gpus},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": mounts,
            }
        ],
    }


def _tolerations(pool: PoolConfig) -> list[dict[str, str]]:
    return [
        {
            "key": one.key,
            **({"operator": "Exists"} if one.value is None else {}),
            **({"operator": "Equal", "value": one.value} if one.value is not None else {}),
            **({"effect": one.effect} if one.effect is not None else {}),
        }
        for one in pool.tolerations
    ]


def _template(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Each variable in the place of the worker's configuration that has its name."""
    return {
        "job_configuration": {name: f"{{{{ {name} }}}}" for name in variables},
        "variables": {"type": "object", "properties": dict(variables)},
    }


def _common(pool: PoolConfig) -> dict[str, Any]:
    plain = {"type": "object", "additionalProperties": {"type": "string"}}
    return {
        "name": _text("Name of what is started; by default that of the run.", None),
        "env": {"title": "Env", "description": "Environment of runs.", **plain},
        "labels": {"title": "Labels", "description": "Labels of what is started.", **plain},
        "image": _text("Image with this project installed.", pool.image),
    }


def _property(description: str, kind: str, default: object) -> dict[str, Any]:
    found: dict[str, Any] = {"description": description, "type": kind}
    return found if default is None else {**found, "default": default}


def _text(description: str, default: str | None) -> dict[str, Any]:
    return _property(description, "string", default)


def _count(description: str, default: int) -> dict[str, Any]:
    return {**_property(description, "integer", default), "minimum": 0}


def _flag(description: str, *, default: bool) -> dict[str, Any]:
    return _property(description, "boolean", default)


def _choice(description: str, choices: list[str]) -> dict[str, Any]:
    return {**_property(description, "string", choices[0]), "enum": choices}


def _texts(description: str, default: list[str]) -> dict[str, Any]:
    return {**_property(description, "array", default), "items": {"type": "string"}}


def _docker_size(quantity: str) -> str:
    """Docker's way to write a size."""
    return quantity.replace("Gi", "g").replace("Mi", "m")

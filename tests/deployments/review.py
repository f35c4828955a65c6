"""What catalogs ask for, as text that people review: rows, templates as YAML, forms line by line.

What two things have in common is said once: a deployment is shown by what tells it from the demo's,
which catalog.txt has in full, and equal templates and parts of forms stand where they come first.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from deployments.documents import deployment_document
from deployments.plan import compare, differences
from deployments.render import lines
from deployments.rows import DeploymentRow, Desired, PoolRow, flow_of
from deployments.server import NOTHING


def rows(asked: Desired, demo: Desired) -> Iterator[str]:
    """Everything that a new server would be given, deployments against those of the demo."""
    yield from _pools(asked.pools)
    theirs = {row.flow: row for row in demo.deployments}
    for row in asked.deployments:
        differing = list(_but_for(theirs[row.flow], row))
        yield f"+ deployment  {row.full_name}, as the demo's{' but for' if differing else ''}"
        yield from differing
    for change in compare(NOTHING, asked):
        if change.kind in {"automation", "limit"}:
            yield from lines([change], in_full=True)


def _but_for(theirs: DeploymentRow, row: DeploymentRow) -> Iterator[str]:
    for field, _, new in differences(deployment_document(theirs), deployment_document(row)):
        yield f"    {field} = {new}"


def _pools(pools: Iterable[PoolRow]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for pool in pools:
        limit = "" if pool.concurrency is None else f", concurrency {pool.concurrency}"
        queues = f", queues {json.dumps(pool.queues)}" if pool.queues else ""
        yield f"+ pool        {pool.name}, {pool.type}{limit}{queues}"
        text = "\n".join(template(pool.template, pool.type))
        if text in seen:
            yield f"    template as of {seen[text]}"
        else:
            seen[text] = pool.name
            yield text


def template(made: Mapping[str, Any], kind: str) -> Iterator[str]:
    """A base job template; of processes only what tells it from Prefect's own, which may change."""
    if kind == "process":
        yield "    template as Prefect's own for processes but for"
        for field, _, new in differences(ProcessWorker.get_default_base_job_template(), made):
            yield f"        {field} = {new}"
        return
    text = yaml.safe_dump(made["job_configuration"], sort_keys=False, width=1000)
    yield from (f"    {line}" for line in text.splitlines())
    yield "    variables:"
    yield from _fields(made["variables"], "      ")
    yield from _rest(made, {"job_configuration", "variables"}, "    ")


def forms(asked: Desired) -> Iterator[str]:
    """What Prefect's pages ask people for who start a run, and check it by."""
    known: dict[str, Any] = {}
    for row in asked.deployments:
        schema = parameter_schema(flow_of(row.entrypoint)).model_dump_for_openapi()
        yield f"form of {row.flow}"
        yield from _fields(schema, "    ")
        for name, part in schema.get("definitions", {}).items():
            if known.get(name) != part:
                known[name] = part
                yield f"form of {name}"
                yield from _fields(part, "    ")


def _fields(schema: Mapping[str, Any], gap: str) -> Iterator[str]:
    """A line for each property, and one for all that is said of them together."""
    yield from _rest(schema, {"properties", "definitions", "required"}, gap)
    required = schema.get("required") or ()
    for name, field in schema.get("properties", {}).items():
        parts = [_kind(field), "required" if name in required else ""]
        parts += [f"{key} {json.dumps(field[key])}" for key in field if key not in _SAID]
        line = f"{gap}{name}: {', '.join(part for part in parts if part)}"
        texts = [str(field[key]) for key in ("title", "description") if field.get(key)]
        yield f"{line}  # {': '.join(' '.join(text.split()) for text in texts)}" if texts else line


_SAID = {"title", "description", "type", "$ref", "enum", "anyOf"}


def _kind(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "enum" in field:
        return " or ".join(json.dumps(one) for one in field["enum"])
    if "anyOf" in field:
        plain = {"type", "$ref", "enum"}
        return " or ".join(
            _kind(one) if set(one) <= plain else json.dumps(one) for one in field["anyOf"]
        )
    return str(field.get("type", "anything"))


def _rest(whole: Mapping[str, Any], said: set[str], gap: str) -> Iterator[str]:
    rest = {key: value for key, value in whole.items() if key not in said and value}
    if rest:
        yield f"{gap}{json.dumps(rest)}"

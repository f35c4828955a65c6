"""Write docs/deployments.md from the catalog's sections: `python -m deployments.catalog_page`."""

from pathlib import Path

from cogvx.files import write_bytes
from cogvx.section import Section
from deployments.catalog_sections import (
    NotifyConfig,
    PlacesConfig,
    PoolConfig,
    QueueConfig,
    RecipeConfig,
    RetentionConfig,
    TolerationConfig,
    WatchConfig,
    ZombiesConfig,
)
from deployments.recipe_page import table

PAGE = Path(__file__).parents[1] / "docs" / "deployments.md"

_HEAD = """# What is deployed: the catalog

Made by `python -m deployments.catalog_page` from `deployments/catalog_sections.py`; edit that.

One TOML file says which recipes are retrained, when, and where their work is done. It is closed:
an unknown key is an error. Without `--catalog` it is `deployments/catalog.toml`, for the demo;
that refuses to remove anything, so name your own wherever `--apply` is meant for a team's server.

```sh
cogvx deploy --offline --catalog my.toml     # all that a new server would be given; asks none
cogvx deploy --dry-run --catalog my.toml     # what would change at PREFECT_API_URL; changes nothing
cogvx deploy --apply --catalog my.toml       # changes it; again, it says "nothing to change"
```

A line for each change: `+` is added, `~` changed (with field, old and new value), `-` removed;
`!` is only reported. Every problem of the catalog and of its recipes is told at once, before a
server is asked. Values of variables whose name or form is a secret's (`..._WEBHOOK_URL`, a login in
an address, `--password=...`, `AccountKey=...`) are shown as `***`; a catalog that has any is
refused, and they are not repeated. So are `COGVX_...` variables that a run would not know or could
not read, and images, labels and taints that Docker or Kubernetes would refuse.

## What it makes

| | name | marked by |
|---|---|---|
| work pools with their base job templates and queues | as in the catalog | their description |
| work that retrainings start on other pools | flow and pool: `encode/gpu-cache` | tag `cogvx` |
| retraining of a recipe | `retrain/<recipe>` | tag `cogvx` |
| looking for its new clips, with `on_arrival` and `[watch]` | `watch/<recipe>` | tag `cogvx` |
| sweeping the store | `retention/store` | tag `cogvx` |
| global concurrency limits, which flows ask for strictly | `cogvx-...` | that name |
| clips: retrain; silent runs: Crashed; bad ends, questions: told | `cogvx: ...` | that name |

**A row that is removed** takes its deployment, automation, queue or limit along: what carries the
mark and is in no row is deleted. A work pool is never deleted, as runs wait in it; it is
reported. What does not carry the mark is left alone.

**What people change** in Prefect's pages is shown and put back: parameters, schedules, templates,
priorities, limits, automations. Only what they **paused by hand** stays paused, and is reported
by `!`: a deployment, a schedule, a pool, an automation. Resume it where it was paused. What the
catalog pauses (`paused = true`) has the tag `cogvx:paused`, and is resumed when the catalog says
so.

**Runs** are given the environment of their pool, `COGVX_STOP_SECONDS` of its `stop_seconds`,
`COGVX_POOL_GPUS` of the `gpus` of containers and pods, and a heartbeat of 30 s; those of `retrain`
also the names of the deployments on its `places`. Stores, secrets and devices are settings of the
workers. The job variable `command` does not exist in any template: a run with a command of its own
cannot be stopped with its trainer.

**Who prefers `prefect deploy --all`** finds the same deployments in `prefect.yaml`, made by
`python -m deployments.prefect_yaml` from the project's own catalog. Pools, limits and the other
automations must be there before: `cogvx deploy --apply --catalog YOUR.toml`.

## Pools

`cpu`, `gpu-cache`, `gpu-train` and `gpu-eval` must be there; more may be, for recipes that name
other `places`. A pool's type never changes at a server; another type needs another name.

* `process`: a worker on each machine, `python -m tasks.clients.tend -- prefect worker start
  --pool NAME --limit 1` for each GPU, or without a limit for `cpu`; systemd's unit and `cogvx up`
  do so ([why under `tend`](cancellation.md#rules-that-follow)). Prefect's worker kills 30 s after
  it has stopped a run, so `stop_seconds` is 30 at most.
* `docker`: the same, with an image, GPUs and shared memory for each container; needs
  `prefect-docker` on the worker's machine.
* `kubernetes`: a worker in the cluster (`prefect-kubernetes`) makes a Job of each run, with the
  names that `infra/kubernetes` makes: namespace and ConfigMap `cogvx`, Secret `cogvx`, service
  account `cogvx-run`, claim `cogvx-home`, and in `/etc/cogvx` the files of a ConfigMap
  `cogvx-recipe`, as a suite. `nvidia.com/gpu` is asked for and limited to `gpus`; `shm` becomes an
  emptyDir of memory; `grace_seconds` is how long a pod has to save its checkpoint and to
  send it to the store, at least `stop_seconds` + 130.

Where pools share the GPUs of a machine, a limit counts them, and the pools' runs are told its
name:

```toml
[limits]
cogvx-host-1 = 8

[pools.gpu-train]
env = {COGVX_GPU_SLOTS = "cogvx-host-1"}
```
"""

_SECTIONS: tuple[tuple[str, type[Section]], ...] = (
    ("[pools.NAME]", PoolConfig),
    ("[pools.NAME.queues.NAME]", QueueConfig),
    ("[[pools.NAME.tolerations]]", TolerationConfig),
    ("[[recipes]]", RecipeConfig),
    ("[recipes.places]", PlacesConfig),
    ("[watch]", WatchConfig),
    ("[retention]", RetentionConfig),
    ("[notify]", NotifyConfig),
    ("[zombies]", ZombiesConfig),
)


def catalog_page() -> str:
    """The page as Markdown."""
    parts = [
        f"\n## {name}\n\n{kind.__doc__ or ''}\n\n{table(kind.model_fields)}"
        for name, kind in _SECTIONS
    ]
    limits = "\n## [limits]\n\nSlots of a global concurrency limit by name: `cogvx-NAME = 8`.\n"
    return "".join([_HEAD, *parts, limits])


if __name__ == "__main__":
    write_bytes(PAGE, catalog_page().encode())

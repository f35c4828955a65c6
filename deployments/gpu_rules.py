"""Rules between the GPUs that a pool gives each run and those that the recipes on it use.

Asked when the catalog is read: a pod that lacks a GPU says so only after all clips were encoded,
and one that has too many never does.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from cogvx.errors import Problem
from cogvx.recipe import Recipe
from deployments.catalog_sections import PoolConfig, RecipeConfig

RESERVED = "COGVX_POOL_GPUS"
SLOTS = "COGVX_GPU_SLOTS"
_MACHINES = "COGVX_MACHINES"
# A shard is encoded, generated or measured by one process.
_OF_ONE_GPU = ("cache", "evaluate")


def reserved_gpus(pool: PoolConfig) -> int:
    """GPUs that nobody else may use while a run lasts; workers of processes share a machine's."""
    return 0 if pool.type == "process" else pool.gpus


def gpu_problems(
    recipes: Iterable[tuple[RecipeConfig, Recipe]],
    pools: Mapping[str, PoolConfig],
    limits: Mapping[str, int],
) -> Iterator[Problem]:
    """GPUs or slots of GPUs that training will lack, and such as would be reserved for nothing.

    `pools` are those that could be read; a pool of processes that says no number has any. `limits`
    are slots by name.
    """
    rows = list(recipes)
    trained = Counter(row.places.train for row, _ in rows)
    for row, recipe in rows:
        name = row.places.train
        if name in pools:
            found = _training(name, pools[name], row, recipe)
            shared = f", or another pool as its places.train: {trained[name]} recipes share this"
            for problem in found:
                use = problem.use + (shared if trained[name] > 1 else "")
                yield Problem(problem.where, problem.value, problem.wrong, use)
            yield from _slots(name, pools[name], row, recipe, limits)
    for place in _OF_ONE_GPU:
        for name in dict.fromkeys(getattr(row.places, place) for row, _ in rows):
            if name in pools and (held := reserved_gpus(pools[name])) > 1:
                wrong = f"is more than the 1 GPU that a run of places.{place} uses"
                use = f"use gpus = 1, or a pool with one GPU as places.{place}"
                yield Problem(f"pools.{name}.gpus", held, wrong, use)


def _training(name: str, pool: PoolConfig, row: RecipeConfig, recipe: Recipe) -> Iterator[Problem]:
    where, train = f"pools.{name}.gpus", recipe.train
    machines = _machines(pool)
    share = -(-train.processes // machines)
    theirs = f"train.processes = {train.processes} of {row.file}"
    theirs += f" on {machines} machines" if machines > 1 else ""
    processes = pool.gpus * machines
    here = f"use gpus = {share}"
    there = f"train.processes = {processes} in the recipe"
    if processes and train.global_batch % (processes * train.micro_batch):
        there += f", with a train.global_batch that {processes * train.micro_batch} divides"
    if share > pool.gpus > 0:
        yield Problem(where, pool.gpus, f"is less than {theirs} needs", f"{here}, or {there}")
    elif not pool.gpus and pool.type != "process" and pool.env.get("COGVX_DEVICE") == "cuda":
        wrong = f"is none, where COGVX_DEVICE = cuda asks for them and {theirs} needs {share}"
        yield Problem(where, 0, wrong, f"{here}, or take COGVX_DEVICE away to train on the CPU")
    elif share < reserved_gpus(pool):
        wrong = f"is more than {theirs} uses: {pool.gpus - share} would be reserved and stay idle"
        yield Problem(where, pool.gpus, wrong, f"{here}, or {there}")


def _slots(
    name: str, pool: PoolConfig, row: RecipeConfig, recipe: Recipe, limits: Mapping[str, int]
) -> Iterator[Problem]:
    """Slots that a run of training would wait for and never have, as it asks for them at once."""
    limit = pool.env.get(SLOTS, "")
    machines = _machines(pool)
    share = -(-recipe.train.processes // machines)
    if limit in limits and limits[limit] < share:
        theirs = f"train.processes = {recipe.train.processes} of {row.file}"
        wrong = f"is less than the slots that each run of pools.{name} occupies for {theirs}"
        use = f"use {limit} = {share}, or train.processes = {limits[limit] * machines}"
        yield Problem(f"limits.{limit}", limits[limit], wrong, f"{use} in the recipe")


def _machines(pool: PoolConfig) -> int:
    """Machines that train one run of the pool together, where its environment says so."""
    said = pool.env.get(_MACHINES, "1")
    return max(1, int(said)) if said.isdecimal() else 1

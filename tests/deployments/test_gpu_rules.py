"""What a pool gives each run and what recipes use agree, or the catalog is refused with both ways."""

# ruff: noqa: E501 - messages stand here as they are printed

from pathlib import Path

import pytest

from cogvx.errors import ConfigError
from deployments.catalog import CATALOG, load_catalog
from deployments.rows import desired
from deployments.up.catalog import pool_plans

RECIPE = (CATALOG.parent / "recipes" / "nano-demo.toml").read_text()
ROW = '[[recipes]]\nfile = "one.toml"\n'
POD = 'type = "kubernetes"\nimage = "i"\n'


def read(folder: Path, processes: int, train: str, *, more: str = ROW) -> list[str]:
    """The problems of a catalog with such a pool gpu-train; its recipe has micro_batch = 4."""
    for name, count in (("one", processes), ("other", 2)):
        text = RECIPE.replace('"nano-demo"', f'"{name}"')
        text = text.replace(
            "global_batch = 4\n", f"global_batch = {4 * count}\nprocesses = {count}\n"
        )
        (folder / f"{name}.toml").write_text(text)
    pools = "[pools.cpu]\n[pools.gpu-cache]\n[pools.gpu-eval]\n"
    (folder / "catalog.toml").write_text(f"{pools}[pools.gpu-train]\n{train}\n{more}")
    try:
        desired(load_catalog(folder / "catalog.toml"))
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("processes", "train"),
    [
        (4, f"{POD}gpus = 4"),
        (4, 'type = "docker"\nimage = "i"\ngpus = 4'),
        # Of a pool of processes the machine's worker decides, whatever it is told here.
        (4, ""),
        (1, "gpus = 4"),
        # Without a GPU processes are workers of the CPU.
        (2, POD),
        (8, f'{POD}gpus = 4\nenv = {{COGVX_MACHINES = "2"}}'),
    ],
)
def test_what_is_given_and_used_agrees(tmp_path: Path, processes: int, train: str) -> None:
    assert read(tmp_path, processes, train) == []


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_training_that_would_lack_gpus_is_refused_at_deploy(tmp_path: Path, kind: str) -> None:
    image = "" if kind == "process" else 'image = "i"\n'
    assert read(tmp_path, 8, f'type = "{kind}"\n{image}gpus = 4') == [
        "pools.gpu-train.gpus = 4 is less than train.processes = 8 of one.toml needs; use gpus = 8, or train.processes = 4 in the recipe"
    ]


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_gpus_that_would_be_reserved_for_nothing_are_refused(tmp_path: Path, kind: str) -> None:
    assert read(tmp_path, 1, f'type = "{kind}"\nimage = "i"\ngpus = 4') == [
        "pools.gpu-train.gpus = 4 is more than train.processes = 1 of one.toml uses: 3 would be reserved and stay idle; use gpus = 1, or train.processes = 4 in the recipe, with a train.global_batch that 16 divides"
    ]


def test_machines_share_the_processes_of_a_run(tmp_path: Path) -> None:
    train = f'{POD}gpus = 8\nenv = {{COGVX_MACHINES = "2"}}'
    (said,) = read(tmp_path, 8, train)
    assert "train.processes = 8 of one.toml on 2 machines uses: 4 would" in said
    assert "use gpus = 4, or train.processes = 16 in the recipe" in said


def test_a_pod_without_a_gpu_that_must_have_one_is_refused(tmp_path: Path) -> None:
    (said,) = read(tmp_path, 2, f'{POD}env = {{COGVX_DEVICE = "cuda"}}')
    assert said.endswith("use gpus = 2, or take COGVX_DEVICE away to train on the CPU")


def test_recipes_that_share_a_pool_and_differ_are_told_of_another(tmp_path: Path) -> None:
    more = f'{ROW}[[recipes]]\nfile = "other.toml"\n'
    (said,) = read(tmp_path, 4, f"{POD}gpus = 4", more=more)
    assert "train.processes = 2 of other.toml uses: 2 would" in said
    assert said.endswith(", or another pool as its places.train: 2 recipes share this")


def test_work_of_one_gpu_reserves_one(tmp_path: Path) -> None:
    more = f"{ROW}[pools.eight]\n{POD}gpus = 8\n"
    more = more.replace(ROW, f'{ROW}places.evaluate = "eight"\n')
    assert read(tmp_path, 1, f"{POD}gpus = 1", more=more) == [
        "pools.eight.gpus = 8 is more than the 1 GPU that a run of places.evaluate uses; use gpus = 1, or a pool with one GPU as places.evaluate"
    ]


def test_runs_are_told_what_is_reserved_for_them(tmp_path: Path) -> None:
    assert read(tmp_path, 4, f"{POD}gpus = 4") == []
    rows = desired(load_catalog(tmp_path / "catalog.toml")).deployments
    told = {row.full_name: row.job_variables["env"].get("COGVX_POOL_GPUS") for row in rows}
    assert {name: gpus for name, gpus in told.items() if gpus} == {"train/gpu-train": "4"}


def test_slots_that_training_can_never_have_are_refused_at_deploy(tmp_path: Path) -> None:
    train, more = 'env = {COGVX_GPU_SLOTS = "cogvx-host"}\n', f"{ROW}[limits]\ncogvx-host = 2\n"
    assert read(tmp_path, 4, train, more=more) == [
        "limits.cogvx-host = 2 is less than the slots that each run of pools.gpu-train occupies for train.processes = 4 of one.toml; use cogvx-host = 4, or train.processes = 2 in the recipe"
    ]
    assert read(tmp_path, 2, train, more=more) == []
    on_two = 'env = {COGVX_GPU_SLOTS = "cogvx-host", COGVX_MACHINES = "2"}\n'
    assert read(tmp_path, 4, on_two, more=more) == []


def test_what_is_reserved_is_said_by_gpus_alone(tmp_path: Path) -> None:
    said = 'pools.gpu-train.env.COGVX_POOL_GPUS = "1" has a setting of its own; use gpus'
    assert read(tmp_path, 4, f'{POD}gpus = 4\nenv = {{COGVX_POOL_GPUS = "1"}}') == [said]


def test_up_gives_training_on_processes_the_gpus_that_its_recipes_use(tmp_path: Path) -> None:
    more = f'{ROW}[[recipes]]\nfile = "other.toml"\nplaces.evaluate = "cpu"\n'
    assert read(tmp_path, 4, "", more=more) == []
    plans, _ = pool_plans(load_catalog(tmp_path / "catalog.toml"))
    given = {plan.name: plan.gpus for plan in plans}
    assert given == {"cpu": 1, "gpu-cache": 1, "gpu-eval": 1, "gpu-train": 4}


def test_every_disagreement_is_told_at_once(tmp_path: Path) -> None:
    more = f'{ROW}places.cache = "gpu-train"\ncron = "x"\n'
    said = read(tmp_path, 1, f"{POD}gpus = 4", more=more)
    assert [problem.split(" is ")[0] for problem in said] == [
        'recipes[0].cron = "x"',
        "pools.gpu-train.gpus = 4",
        "pools.gpu-train.gpus = 4",
    ]

"""The catalog: the one document that says what is deployed, where, and when it runs.

It is TOML, closed and frozen like a recipe. Files of recipes are relative to the catalog's folder;
paths inside a recipe mean the folder that a worker runs in. Nothing here asks a server.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogvx.check import check_file
from cogvx.errors import ConfigError, Problem
from cogvx.recipe import Recipe
from cogvx.section import Section, parse_section, read_toml, unknown_key
from deployments.catalog_rules import (
    LIMIT_MARK,
    name_problems,
    place_problems,
    pool_problems,
    zombie_problems,
)
from deployments.catalog_sections import (
    NotifyConfig,
    PoolConfig,
    RecipeConfig,
    RetentionConfig,
    TolerationConfig,
    WatchConfig,
    ZombiesConfig,
)
from deployments.env_rules import holds_secret, secret_problem
from deployments.gpu_rules import gpu_problems
from tasks.clients.secrets import is_secret

CATALOG = Path(__file__).with_name("catalog.toml")
"""What `cogvx deploy` takes without a name: the demo's recipe, on pools of processes."""

_KINDS: Mapping[str, type[Section]] = {
    "watch": WatchConfig,
    "retention": RetentionConfig,
    "notify": NotifyConfig,
    "zombies": ZombiesConfig,
}
_SECTIONS = ("pools", "recipes", "limits", *_KINDS)


@dataclass(frozen=True)
class CatalogRecipe:
    """A row of the catalog, and the recipe that it names."""

    row: RecipeConfig
    recipe: Recipe


@dataclass(frozen=True)
class Catalog:
    """A catalog without problems; a section that is not there is None, and nothing is made of it.

    `limits` are the slots of global concurrency limits by name.
    """

    pools: Mapping[str, PoolConfig]
    recipes: tuple[CatalogRecipe, ...]
    limits: Mapping[str, int]
    zombies: ZombiesConfig
    watch: WatchConfig | None = None
    retention: RetentionConfig | None = None
    notify: NotifyConfig | None = None


def load_catalog(path: Path) -> Catalog:
    """Read a catalog and the recipes that it names.

    The bases and clips of recipes may be absent: the machine that deploys need not have them.

    Raises:
        ConfigError: With every problem of the catalog and of its recipes.
    """
    document = read_toml(path)
    pools, problems = _tables(document, "pools", PoolConfig)
    rows, found = _rows(document.get("recipes", []))
    problems += found
    single: dict[str, Any] = {}
    for name, kind in _KINDS.items():
        if name in document or name == "zombies":
            single[name], found = parse_section(document.get(name, {}), kind, name)
            problems += found
    limits, found = _limits(document.get("limits", {}))
    problems += found
    problems += [
        unknown_key(name, document[name], name, _SECTIONS)
        for name in document
        if name not in _SECTIONS
    ]
    for name, pool in pools.items():
        problems += pool_problems(f"pools.{name}", pool, limits)
    # A pool that cannot be read is known all the same: nobody should be told to make it.
    known = document["pools"] if isinstance(document.get("pools"), dict) else {}
    problems += place_problems(rows, single.get("retention"), known=known, pools=pools)
    if single["zombies"] is not None:
        problems += zombie_problems(single["zombies"])
    recipes, found = _recipes(path.parent, rows)
    problems += found
    problems += gpu_problems([(one.row, one.recipe) for one in recipes], pools, limits)
    if problems:
        raise ConfigError(str(path), [_without_secret(problem) for problem in problems])
    return Catalog(pools=pools, recipes=recipes, limits=limits, **single)


def _tables(
    document: Mapping[str, Any], name: str, kind: type[PoolConfig]
) -> tuple[dict[str, PoolConfig], list[Problem]]:
    """The sections below one name, those that could be read; and the problems of the others."""
    tables = document.get(name, {})
    if not isinstance(tables, dict) or not tables:
        return {}, [Problem(name, None, "has no tables", f"write [{name}.cpu]")]
    found: dict[str, PoolConfig] = {}
    problems: list[Problem] = []
    for key, table in tables.items():
        problems += name_problems(f"{name}.{key}", key, "pool")
        section, wrong = parse_section(table, kind, f"{name}.{key}")
        problems += [_without_env(problem, f"{name}.{key}.env") for problem in wrong]
        if isinstance(section, kind):
            found[key] = section
    return found, problems


def _without_env(problem: Problem, env: str) -> Problem:
    """A variable that is of the wrong kind may be a secret all the same, as may what it is called.

    Of what a person wrote, that leaves the part of its name before an equals sign.
    """
    if problem.where != env and not problem.where.startswith(f"{env}."):
        return problem
    where = problem.where.partition("=")[0]
    if is_secret(where.removeprefix(env)):
        return secret_problem(where)
    return replace(problem, where=where, value=None)


def _without_secret(problem: Problem) -> Problem:
    """A problem whose value is not shown where it is a secret, by its place or by its form."""
    value, name = problem.value, problem.where.rpartition(".")[2]
    said = value if isinstance(value, list | tuple) else [value]
    held = any(isinstance(one, str) and holds_secret(one) for one in said)
    # A setting that does not exist, as a password beside the block; a webhook instead of a block.
    named = is_secret(name) and name not in TolerationConfig.model_fields
    hook = problem.where == "notify.block" and str(value).count("/") > 1
    return replace(problem, value=None) if held or named or hook else problem


def _rows(tables: object) -> tuple[dict[int, RecipeConfig], list[Problem]]:
    """The rows of recipes by their place in the catalog."""
    if not isinstance(tables, list):
        return {}, [Problem("recipes", None, "is not a list of tables", "write [[recipes]]")]
    rows: dict[int, RecipeConfig] = {}
    problems: list[Problem] = []
    for index, table in enumerate(tables):
        row, wrong = parse_section(table, RecipeConfig, f"recipes[{index}]")
        problems += wrong
        if isinstance(row, RecipeConfig):
            rows[index] = row
    return rows, problems


def _limits(table: object) -> tuple[dict[str, int], list[Problem]]:
    if not isinstance(table, dict):
        return {}, [Problem("limits", None, "is not a table", "write [limits]")]
    limits: dict[str, int] = {}
    problems: list[Problem] = []
    for name, slots in table.items():
        where = f"limits.{name}"
        problems += name_problems(where, name, "limit")
        if not name.startswith(LIMIT_MARK):
            wrong = f"does not begin with {LIMIT_MARK}: so a limit is found whose row was removed"
            problems.append(Problem(where, slots, wrong, f"call it {LIMIT_MARK}{name}"))
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            problems.append(Problem(where, slots, "is no number of slots", "use 1 or more"))
        else:
            limits[name] = slots
    return limits, problems


def _recipes(
    folder: Path, rows: Mapping[int, RecipeConfig]
) -> tuple[tuple[CatalogRecipe, ...], list[Problem]]:
    """The recipes of these rows, with their own problems told at the row that names them."""
    found: dict[int, CatalogRecipe] = {}
    problems: list[Problem] = []
    for index, row in rows.items():
        path = folder / row.file
        try:
            recipe = check_file(path, absent_is_fine=True, purpose="judge").recipe
        except ConfigError as error:
            where = f"recipes[{index}].file"
            problems += [Problem(where, row.file, wrong) for wrong in _faults(path, error)]
        else:
            found[index] = CatalogRecipe(row, recipe)
    problems += _twice({index: one.recipe.name for index, one in found.items()})
    return tuple(found.values()), problems


def _faults(path: Path, error: ConfigError) -> Sequence[str]:
    if not error.problems:
        return [f"cannot be used: {error.subject.removeprefix(f'{path}: ')}"]
    return [f"has a problem: {problem}" for problem in error.problems]


def _twice(names: Mapping[int, str]) -> Iterator[Problem]:
    """Deployments are named after recipes, so two of one name would be one."""
    count = Counter(names.values())
    first: dict[str, int] = {}
    for index, name in names.items():
        if count[name] > 1 and name in first:
            wrong = f"is the name of two recipes, here and in recipes[{first[name]}]"
            yield Problem(f"recipes[{index}]", name, wrong, "give one another name in its file")
        first.setdefault(name, index)

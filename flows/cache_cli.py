"""The commands below `cogvx cache`: the stage itself, and looking after what it keeps."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cogvx.__main__ import RecipePath
from cogvx.errors import IntegrityError
from cogvx.recipe import Recipe
from flows.terminal import begin, log_to_terminal, show
from tasks.retraining import summary
from tasks.settings import prepare_process

# What asks MLflow or loads torch is imported inside the commands: `cogvx check` should not wait.


class _StageByDefault(TyperGroup):
    """A group in which what is no command is a recipe: `cache RECIPE` is `cache run RECIPE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See click's `Group.resolve_command`."""
        known = args and args[0] in self.commands
        return super().resolve_command(ctx, args if known else ["run", *args])


app = typer.Typer(
    cls=_StageByDefault,
    help="`cache RECIPE` surveys the clips and encodes what the cache lacks; the commands look "
    "after what it keeps.",
    no_args_is_help=True,
)

AnyRecipe = Annotated[
    Path | None, typer.Argument(help="A recipe in TOML; without it all of the store is meant.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


@app.command()
def run(recipe: RecipePath) -> None:
    """Survey the clips and encode what the cache lacks."""
    loaded = begin(recipe, purpose="cache")
    from flows.cache import cache as flow  # noqa: PLC0415

    show(f"cache {loaded.name}", summary.cache_rows(flow(loaded)))


@app.command()
def stats(recipe: AnyRecipe = None, *, as_json: AsJson = False) -> None:
    """Count what the store holds, who needs it, and what a recipe still lacks; reads no record."""
    loaded = _begin(recipe)
    from tasks.keeping.housekeeping import store_stats  # noqa: PLC0415
    from tasks.keeping.store_summary import stats_rows  # noqa: PLC0415

    found = store_stats(loaded)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    show(found.store, stats_rows(found))


@app.command()
def inspect(
    recipe: RecipePath,
    what: Annotated[
        str,
        typer.Argument(
            metavar="CLIP|KEY", help="A clip as the dataset names it, or a record's key."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The mp4; by default in the work folder.")
    ] = None,
) -> None:
    """Decode a record into an mp4 beside its source, and say what it was made from."""
    loaded = begin(recipe, purpose="cache")
    from tasks.keeping.inspection import inspect_record  # noqa: PLC0415

    found = inspect_record(loaded, what, out)
    rows = list(found.facts)
    if found.video is not None:
        rows.append(("video", found.video))
    show(f"inspect {what}", rows)


@app.command()
def verify(
    recipe: AnyRecipe = None,
    *,
    drop: Annotated[
        bool,
        typer.Option("--drop", help="Remove damaged records: the next run encodes them again."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every record and find damaged ones; ends with exit code 3 if there are any."""
    loaded = _begin(recipe)
    from tasks.keeping.housekeeping import verify_records  # noqa: PLC0415
    from tasks.keeping.store_summary import verify_rows  # noqa: PLC0415

    found = verify_records(loaded, drop=drop)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        show(found.store, verify_rows(found))
    if found.damaged:
        raise IntegrityError(
            f"{len(found.damaged)} of {found.verified} records are damaged; "
            + (
                f"{found.dropped} were removed: run `cogvx cache` to encode them again"
                if found.dropped
                else "`cogvx cache verify --drop` removes them, and the next run encodes them again"
            )
        )


@app.command()
def prune(
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Remove it; without this nothing is changed.")
    ] = False,
    older_than: Annotated[
        float,
        typer.Option(min=0, help="Days that superseded manifests keep what they reach."),
    ] = 30.0,
    grace: Annotated[
        float,
        typer.Option(min=0, help="Days that everything stays, as a run may be about to need it."),
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Say what no manifest, run or registered version needs; with --apply remove it."""
    _begin(None)
    from tasks.keeping.housekeeping import prune_store  # noqa: PLC0415
    from tasks.keeping.store_summary import prune_rows  # noqa: PLC0415

    found = prune_store(apply=apply, keep_days=older_than, grace_days=grace)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    show(found.store, prune_rows(found))


def _begin(path: Path | None) -> Recipe | None:
    """Like `begin`, for commands that mean the whole store when no recipe is given."""
    if path is not None:
        return begin(path, purpose="cache")
    prepare_process()
    log_to_terminal()
    return None

"""The command `cogvx`: what needs no server, and one command for each flow."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from cogvx.__main__ import RecipePath, app, guarded
from cogvx.check import check_file
from cogvx.recipe import Recipe
from tasks import summary
from tasks.settings import prepare_process

# Prefect is imported inside the commands: it reads its settings on import, and `cogvx check`
# should not wait for it.


@app.command()
def retrain(recipe: RecipePath) -> None:
    """Run the whole chain; stops at once when nothing changed since the last verdict."""
    loaded = _begin(recipe)
    from flows.retrain import retrain as flow  # noqa: PLC0415

    _show(f"retrain {loaded.name}", summary.summary_rows(flow(loaded)))


@app.command()
def cache(recipe: RecipePath) -> None:
    """Survey the clips and encode what the cache lacks."""
    loaded = _begin(recipe, for_training=False)
    from flows.cache import cache as flow  # noqa: PLC0415

    _show(f"cache {loaded.name}", summary.cache_rows(flow(loaded)))


@app.command()
def train(recipe: RecipePath) -> None:
    """Train the adapter on what was cached; goes on where an interrupted run stopped."""
    loaded = _begin(recipe)
    from flows.train import train as flow  # noqa: PLC0415

    _show(f"train {loaded.name}", summary.train_rows(flow(loaded)))


@app.command()
def register(recipe: RecipePath) -> None:
    """Register the trained adapter in MLflow as the challenger."""
    loaded = _begin(recipe)
    from flows.register import register as flow  # noqa: PLC0415

    _show(f"register {loaded.name}", summary.register_rows(flow(loaded)))


@app.command()
def evaluate(recipe: RecipePath) -> None:
    """Judge the challenger against the champion, or against the base if there is none."""
    loaded = _begin(recipe)
    from flows.evaluate import evaluate as flow  # noqa: PLC0415

    _show(f"evaluate {loaded.name}", summary.evaluate_rows(flow(loaded)))


@app.command()
def promote(
    recipe: RecipePath,
    approve: Annotated[
        str, typer.Option(help="Your reason to promote where the recipe leaves it to a person.")
    ] = "",
) -> None:
    """Make the challenger the champion, if it was judged better and the recipe allows it."""
    loaded = _begin(recipe)
    from flows.promote import promote as flow  # noqa: PLC0415

    _show(f"promote {loaded.name}", summary.promote_rows(flow(loaded, approve or None)))


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Where Prefect's pages are.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Where MLflow's pages are.")] = 5000,
) -> None:
    """Serve Prefect's and MLflow's pages over what was made here, until Ctrl-C."""
    prepare_process()
    _log_to_terminal()
    from tasks.clients.servers import serve_until_interrupted  # noqa: PLC0415

    serve_until_interrupted(prefect_port=prefect_port, mlflow_port=mlflow_port)


def _begin(path: Path, *, for_training: bool = True) -> Recipe:
    """Check the recipe before anything slow is imported, and set up this process."""
    checked = check_file(path, for_training=for_training)
    prepare_process()
    _log_to_terminal()
    return checked.recipe


def _log_to_terminal() -> None:
    """Show our own loggers on stderr; Prefect shows its warnings by itself."""
    handler = RichHandler(
        console=Console(stderr=True), show_path=False, show_level=False, log_time_format="[%X]"
    )
    for name in ("cogvx", "tasks", "flows"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _show(title: str, rows: list[summary.Row]) -> None:
    """Print facts one a line, never wrapped, so that paths can be copied."""
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
    console.print(Text(title, style="bold underline"))
    for name, fact in rows:
        console.print(Text.assemble((f"{name:<10}", "bold"), fact))


def main() -> None:
    """Entry point of the console script."""
    guarded(app)


if __name__ == "__main__":
    main()

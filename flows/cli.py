"""The command `cogvx`: what needs no server, and one command for each flow."""

from typing import Annotated

import typer

from cogvx.__main__ import RecipePath, app, guarded
from flows import aa_cli, cache_cli, generate_cli, models_cli
from flows.terminal import begin, show
from tasks.retraining import summary

app.add_typer(cache_cli.app, name="cache")
app.add_typer(models_cli.app, name="models")
app.command()(generate_cli.generate)
app.command()(aa_cli.aa)

# Prefect is imported inside the commands: it reads its settings on import, and `cogvx check`
# should not wait for it.


@app.command()
def retrain(recipe: RecipePath) -> None:
    """Run the whole chain; stops at once when nothing changed since the last verdict."""
    loaded = begin(recipe, purpose="judge")
    from flows.retrain import retrain as flow  # noqa: PLC0415

    show(f"retrain {loaded.name}", summary.summary_rows(flow(loaded)))


@app.command()
def train(
    recipe: RecipePath,
    *,
    join: Annotated[
        bool,
        typer.Option("--join", help="Help the machine that trains this; see COGVX_MACHINES."),
    ] = False,
) -> None:
    """Train the adapter on what was cached; goes on where an interrupted run stopped."""
    loaded = begin(recipe)
    if join:
        from tasks.training.join import join_run  # noqa: PLC0415
        from tasks.workbench import open_workbench  # noqa: PLC0415

        show(f"train {loaded.name}", [("run", join_run(open_workbench(loaded))[:16])])
        return
    from flows.train import train as flow  # noqa: PLC0415

    show(f"train {loaded.name}", summary.train_rows(flow(loaded)))


@app.command()
def register(recipe: RecipePath) -> None:
    """Register the trained adapter in MLflow as the challenger."""
    loaded = begin(recipe)
    from flows.register import register as flow  # noqa: PLC0415

    show(f"register {loaded.name}", summary.register_rows(flow(loaded)))


@app.command()
def evaluate(recipe: RecipePath) -> None:
    """Judge the challenger against the champion, or against the base if there is none."""
    loaded = begin(recipe, purpose="judge")
    from flows.evaluate import evaluate as flow  # noqa: PLC0415

    show(f"evaluate {loaded.name}", summary.evaluate_rows(flow(loaded)))


@app.command()
def promote(
    recipe: RecipePath,
    approve: Annotated[
        str | None,
        typer.Option(help="Your reason to promote where the recipe leaves it to a person."),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Who approves; without it, the user of this process.")
    ] = "",
) -> None:
    """Make the challenger the champion, if it was judged better and the recipe allows it."""
    loaded = begin(recipe, purpose="judge")
    from flows.promote import promote as flow  # noqa: PLC0415

    show(f"promote {loaded.name}", summary.promote_rows(flow(loaded, approve, by)))


def main() -> None:
    """Entry point of the console script."""
    guarded(app)


if __name__ == "__main__":
    main()

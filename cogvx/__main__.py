"""The command line of what needs no server: `python -m cogvx`, and the first half of `cogvx`."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cogvx import adapter_cli, score_cli, suite_cli
from cogvx.check import check_file, recipe_rows
from cogvx.errors import CogvxError, ConfigError
from cogvx.files import is_aside
from cogvx.preflight.estimate import estimate
from cogvx.preflight.wording import (
    PRESETS,
    Line,
    circumstances,
    epochs_text,
    estimate_rows,
    step_text,
    survey,
)
from cogvx.section import shown_text
from cogvx.terminal import printable, writing_to

app = typer.Typer(
    help="Retrain, evaluate and promote CogVideoX LoRA adapters.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(adapter_cli.app, name="adapter")
app.command()(score_cli.score)
app.add_typer(suite_cli.app, name="suite")

_REFUSED = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EROFS, errno.ENOSPC)

RecipePath = Annotated[Path, typer.Argument(help="A recipe in TOML.", show_default=False)]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Decides what is drawn.")]


@app.command()
def check(
    recipe: RecipePath,
    *,
    no_files: Annotated[
        bool,
        typer.Option(
            "--no-files",
            help="The base's folder, the dataset's and the suite may be absent, "
            "as on a fresh clone; what is there is checked all the same.",
        ),
    ] = False,
    gpu: Annotated[
        str | None, typer.Option(help="A GPU that it must fit on, such as H100 or A100-80.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Of one such GPU for an hour; needs --gpu.")
    ] = None,
    clips: Annotated[int | None, typer.Option(help="How many are trained on.")] = None,
) -> None:
    """List every problem of a recipe, or say what it will train, and what that takes."""
    given = circumstances(gpu, price=price, clips=clips)
    checked = check_file(recipe, absent_is_fine=no_files, purpose="judge", device=given.device)
    for warning in checked.warnings:
        typer.secho(f"WARNING: {warning}", fg="yellow", err=True)
    typer.echo(f"{recipe}: no problems")
    for name, fact in recipe_rows(checked):
        typer.echo(f"  {name:<9}{fact}")
    if given.clips is not None and given.device is None:
        typer.echo(f"  {'epochs':<9}{epochs_text(checked.recipe, given.clips)}")
    if checked.facts is None:
        return
    if given.device is not None:
        typer.echo(f"on {given.device.name}, {given.device.gib:g} GiB")
        found = estimate(checked.recipe, checked.facts, given=given)
        for name, fact in estimate_rows(found):
            typer.echo(f"  {name:<9}{fact}")
    else:
        _show_survey(survey(checked.recipe, checked.facts, given))


def _show_survey(lines: list[Line]) -> None:
    """Memory and time of a step on each GPU with each preset, one GPU a line."""
    typer.echo("on a GPU, with a preset that decides alone (GiB needed, time of a step)")
    names = "".join(f"   {preset:<17}" for preset in PRESETS).rstrip()
    typer.echo(f"  {'':<10}{'GiB':>6}{names}")
    for line in lines:
        cells = [line.presets[preset] for preset in PRESETS]
        texts = [
            "does not fit" if found is None else f"{found.needs.total:5.1f}  {step_text(found)}"
            for found in cells
        ]
        row = "".join(f"   {text:<17}" for text in texts).rstrip()
        typer.echo(f"  {line.device.name:<10}{line.device.gib:>6g}{row}")


@app.command()
def nano(
    folder: Annotated[Path, typer.Argument(help="Where the model is written.")],
    seed: Seed = 0,
) -> None:
    """Build the toy CogVideoX that the demo runs on, as an ordinary diffusers folder."""
    with writing_to(folder):
        if folder.exists():
            raise ConfigError(f"{folder} exists already and was left alone; name another folder")
        from cogvx.model.nano.build import build_nano  # noqa: PLC0415 - loads torch

        build_nano(folder, seed=seed)
    mebibytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    typer.echo(f"toy CogVideoX written to {folder}: {mebibytes:.1f} MiB")


@app.command()
def world(
    folder: Annotated[Path, typer.Argument(help="Where the clips are written.")],
    clips: Annotated[int, typer.Option(min=1, help="How many.")] = 24,
    seed: Seed = 0,
    teach: Annotated[
        str, typer.Option(help="What the carried model does not know: neon, star or circling.")
    ] = "",
) -> None:
    """Draw small captioned clips: flat shapes that move over flat backgrounds."""
    with writing_to(folder):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is no folder and was left alone; name a folder")
        from cogvx.model.nano import teach as lessons  # noqa: PLC0415 - loads the codecs
        from cogvx.model.nano.world import render_world  # noqa: PLC0415

        if not teach:
            render_world(folder, clips=clips, seed=seed)
        elif teach in lessons.TOPICS:
            lessons.render_lessons(folder, teach, clips=clips, seed=lessons.LESSON_SEED + seed)
        else:
            known = ", ".join(lessons.TOPICS)
            raise ConfigError(f'--teach = "{teach}" is not a topic; use one of {known}')
    found = sum(1 for file in folder.glob("*.mp4") if not is_aside(file))
    typer.echo(f"{found} captioned clips written to {folder}")


def guarded(command: Callable[[], None]) -> None:
    """Run a command line; an error that we raised on purpose becomes its sentence and exit code.

    So does what the system refuses of a path that a person may name: too long, not theirs to read.
    """
    try:
        command()
    except CogvxError as error:
        typer.secho(printable(f"error: {error}"), fg="red", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _REFUSED or not isinstance(error.filename, str | bytes):
            raise
        name = shown_text(os.fsdecode(error.filename))
        typer.secho(printable(f"error: {name}: {error.strerror}"), fg="red", err=True)
        sys.exit(ConfigError.exit_code)


if __name__ == "__main__":
    guarded(app)

"""The command `cogvx score`: metrics of any video files, without a suite and without a server."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogvx.errors import DataError
from cogvx.terminal import printable, progress_bar

if TYPE_CHECKING:
    from cogvx.metrics.score import Scored


def score(
    videos: Annotated[
        list[Path],
        typer.Argument(metavar="VIDEO...", help="Files to measure.", show_default=False),
    ],
    *,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Only this one; may be given again.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure videos: calm, motion, brightness, contrast, saturation, and what your team added."""
    from cogvx.metrics.score import require_video_metrics, score_file  # noqa: PLC0415 - codecs

    require_video_metrics(metric or ())
    scored, unread = [], []
    with progress_bar("scored") as advance:
        for number, path in enumerate(videos):
            try:
                scored.append(score_file(path, metric))
            except DataError as error:
                unread.append(str(error))  # the others are worth their numbers all the same
            advance(number + 1, len(videos))
    if as_json:
        document = {"schema_version": 1, "videos": [one.model_dump(mode="json") for one in scored]}
        typer.echo(json.dumps(document, indent=2))
    else:
        _show(scored)
    if unread:
        raise DataError("\n".join(unread))


def _show(scored: list["Scored"]) -> None:
    """One block a video: every number with its unit, and under all what to beware of."""
    from cogvx.metrics.registry import metrics  # noqa: PLC0415 - loads the codecs

    shown = sorted({name for one in scored for name in one.values}, key=list(metrics()).index)
    for one in scored:
        size = f"{one.frames} frames of {one.width}x{one.height}, {one.fps:g} a second"
        typer.echo(printable(f"{one.path}: {size}"))
        for name in shown:
            typer.echo(f"  {name:<26}{one.values[name]:>10.4g}  {metrics()[name].unit}")
        for fault in one.faults:
            typer.secho(f"  FAULT: {fault}", fg="yellow")
    if shown:
        typer.echo("beware")
    for name in shown:
        typer.echo(printable(f"  {name}: {metrics()[name].lies}"))

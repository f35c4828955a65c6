"""The command `cogvx score`: metrics of any video files, without a suite and without a server."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogvx.errors import ConfigError, DataError
from cogvx.store import LocalStore
from cogvx.terminal import printable, progress_bar

if TYPE_CHECKING:
    from cogvx.metrics.encoder_set import EncoderSet
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
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=FOLDER",
            help="A network (dino, dinov2, clip, siglip2, aesthetic) that adds its metrics; may be "
            "given again.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="What the videos should show, for the networks clip and siglip2.",
            show_default=False,
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="Keeps what networks saw, for the next time.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure videos: calm, motion, brightness, contrast, saturation, and what your team added."""
    from cogvx.metrics.score import require_video_metrics, score_file  # noqa: PLC0415 - codecs

    require_video_metrics(metric or ())
    encoders = _open_encoders(encoder or (), text)
    store = None if features is None else LocalStore(features)
    scored, unread = [], []
    with progress_bar("scored") as advance:
        for number, path in enumerate(videos):
            try:
                scored.append(score_file(path, metric, encoders=encoders, text=text, store=store))
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


def _open_encoders(named: Sequence[str], text: str | None) -> "EncoderSet | None":
    """Load the networks, and make sure that one reads the text if there is one."""
    found: dict[str, str] = {}
    for name in named:
        kind, equals, folder = name.partition("=")
        if not equals or not folder or kind in found:
            wrong = "stands there twice" if kind in found else "names no folder"
            raise ConfigError(f"--encoder {name} {wrong}; use KIND=FOLDER, each kind once")
        found[kind] = folder
    if text is not None and not {"clip", "siglip2"} & set(found):
        raise ConfigError("--text needs a network that reads; add --encoder clip=FOLDER or siglip2")
    if not found:
        return None
    from cogvx.metrics.encoder_set import open_encoder_set  # noqa: PLC0415 - loads torch

    encoders = open_encoder_set(found, where="--encoder ", texts=text is not None)
    for reader in encoders.texts.values():
        if problem := reader.tokens.problem(text or "", where="--text"):
            raise ConfigError(str(problem))
    return encoders


def _show(scored: list["Scored"]) -> None:
    """One block a video: every number with its unit, and under all what to beware of."""
    from cogvx.metrics.registry import metrics  # noqa: PLC0415 - loads the codecs

    known = metrics()
    shown = sorted({name for one in scored for name in one.values}, key=list(known).index)
    for one in scored:
        size = f"{one.frames} frames of {one.width}x{one.height}, {one.fps:g} a second"
        typer.echo(printable(f"{one.path}: {size}"))
        for name in shown:
            typer.echo(f"  {name:<26}{one.values[name]:>10.4g}  {known[name].unit}")
        for fault in one.faults:
            typer.secho(f"  FAULT: {fault}", fg="yellow")
    if shown:
        typer.echo("beware")
    for name in shown:
        typer.echo(printable(f"  {name}: {known[name].lies}"))

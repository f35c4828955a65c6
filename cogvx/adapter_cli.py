"""The commands below `cogvx adapter`: look at adapter files, convert them, put them together.

They need no server, only files; torch is loaded inside the commands.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from cogvx.errors import ConfigError, Problem
from cogvx.inference.job import parse_adapter
from cogvx.inference.model_ref import is_model
from cogvx.terminal import printable, progress_bar, writing_to
from cogvx.variants import ImageScale

if TYPE_CHECKING:
    from cogvx.adapters.base import Base
    from cogvx.adapters.shares import Share

app = typer.Typer(
    help="Look at adapter files, convert them, merge them, bake them into a base.",
    no_args_is_help=True,
)

_ChoiceT = TypeVar("_ChoiceT", bound=str)

_SIZE = re.compile(
    r"(?P<number>\d{1,6}(?:\.\d{1,6})?) ?(?P<unit>[KMGT]?)(?P<binary>i?)B", re.IGNORECASE
)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_LEAST_SHARD = 1_000_000

_FORMS: tuple[Literal["diffusers", "kohya"], ...] = ("diffusers", "kohya")
_SCALES: tuple[ImageScale, ...] = ("multiplied", "divided", "raw")

AdapterPath = Annotated[
    Path,
    typer.Argument(help="An adapter file of any form, or its folder.", show_default=False),
]
Adapters = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE[:WEIGHT]...",
        help="Adapter files in our form, or their folders; 1 is the trained strength.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("-o", "--out", help="A folder.", show_default=False)]
BaseName = Annotated[str, typer.Option(help="A diffusers folder, or a hub id.", show_default=False)]
Revision = Annotated[str | None, typer.Option(help="Of a hub id.")]


@app.command()
def inspect(
    file: AdapterPath,
    *,
    base: Annotated[
        str | None, typer.Option(help="A folder or hub id that it should fit.", show_default=False)
    ] = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what an adapter file is, how strong it will act when it is loaded, and what is wrong."""
    from cogvx.adapters.inspect import describe  # noqa: PLC0415 - loads torch
    from cogvx.adapters.wording import chart_rows, description_rows  # noqa: PLC0415

    found = describe(file, None if base is None else _find_base(base, revision))
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    _show([*description_rows(found), *chart_rows(found)])
    for note in found.notes:
        typer.echo(printable(f"NOTE: {note}"))
    for problem in found.problems:
        typer.secho(printable(f"PROBLEM: {problem}"), fg="yellow")


@app.command()
def convert(
    file: AdapterPath,
    *,
    out: Out,
    base: BaseName,
    revision: Revision = None,
    alpha: Annotated[
        float | None, typer.Option(help="What it was trained with, if the file does not say.")
    ] = None,
    to: Annotated[
        str, typer.Option(metavar="FORM", help="diffusers, or kohya, which ComfyUI reads.")
    ] = "diffusers",
    image_scale: Annotated[
        str | None,
        typer.Option(help="How a 1.5-I2V adapter saw first frames: multiplied, divided or raw."),
    ] = None,
) -> None:
    """Write an adapter of any form anew, so that every loader gives it its trained strength."""
    form = _one_of("--to", to, _FORMS)
    scale = None if image_scale is None else _one_of("--image-scale", image_scale, _SCALES)
    from cogvx.adapters.convert import convert as convert_file  # noqa: PLC0415 - loads torch

    its_base = _find_base(base, revision)
    found = convert_file(file, out, base=its_base, alpha=alpha, to=form, image_scale=scale)
    by = f"by {found.recorded}" if found.recorded else "as said" if alpha else "SAT's own"
    _show(
        [
            ("read", f"{found.source}: {found.form}, alpha {found.alpha:g} ({by})"),
            ("written", f"{found.file}: {found.to}"),
            ("holds", f"{found.tensors} tensors in {found.layers} layers, rank {found.rank}"),
            ("strength", f"{found.strength:.6f} of what was read, at weight 1"),
        ]
    )
    for note in found.notes:
        typer.echo(printable(f"NOTE: {note}"))


@app.command()
def merge(
    adapters: Adapters,
    *,
    out: Out,
    rank: Annotated[
        int | None,
        typer.Option(help="Reduce the sum to this rank; without it the sum is exact."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="For the card; else the folder's.")] = None,
) -> None:
    """Write the weighted sum of adapters as one adapter that acts at weight 1."""
    given = parse_shares(adapters)
    from cogvx.adapters.compose import merge as merge_files  # noqa: PLC0415 - loads torch

    shares = _shares(given)
    with writing_to(out), progress_bar("merging") as progress:
        found = merge_files(shares, out, rank=rank, name=name, progress=progress)
    lost = "nothing is lost"
    if found.worst is not None:
        layer, most = found.worst
        lost = f"lost {found.loss.share:.2%} of what it adds; most in {layer}, {most.share:.2%}"
    parents = [
        ("part", f"{part.weight:g} x {part.file} ({part.sha256[:16]})")
        for part in found.card.parents
    ]
    _show(
        [
            *parents,
            ("rank", f"{found.card.rank} of {found.exact_rank}: {lost}"),
            ("written", f"{found.path}: {found.modules} linear layers"),
        ]
    )


@app.command()
def bake(
    base: Annotated[
        str,
        typer.Argument(help="The base's diffusers folder, or its hub id.", show_default=False),
    ],
    adapters: Adapters,
    *,
    out: Out,
    revision: Revision = None,
    max_shard_size: Annotated[
        str, typer.Option(help="Most that one file of weights holds, such as 2GB.")
    ] = "5GB",
    transformer_only: Annotated[
        bool, typer.Option("--transformer-only", help="Leave out the rest of the pipeline.")
    ] = False,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy", help="Copy the other parts' weights; else they are hard links to the base's."
        ),
    ] = False,
) -> None:
    """Write a base with adapters in its weights: a checkpoint that needs no adapter any more."""
    given, shard_bytes = parse_shares(adapters), parse_size(max_shard_size)
    from cogvx.adapters.bake import Form  # noqa: PLC0415 - loads torch
    from cogvx.adapters.bake import bake as bake_base  # noqa: PLC0415
    from cogvx.model.identity import resolve_base  # noqa: PLC0415

    form = Form(shard_bytes=shard_bytes, whole=not transformer_only, linked=not copy)
    shares, folder = _shares(given), resolve_base(base, revision)
    typer.echo(f"reading {folder}, to see that it is the adapters' base", err=True)
    with writing_to(out), progress_bar("baking") as progress:
        found = bake_base(folder, shares, out, form=form, progress=progress)
    made = found.provenance
    parts = [
        ("added", f"{part.weight:g} x {part.file} ({part.sha256[:16]})") for part in made.adapters
    ]
    rows = [
        ("base", f"{made.base_path} ({made.base_fingerprint[:16]})"),
        *parts,
        ("written", f"{found.folder}: {found.layers} weights changed"),
        ("holds", f"{found.num_bytes / 1e9:.2f} GB of weights in {found.files} file(s)"),
    ]
    if made.image_latent_scale is not None:
        scale = f"first frame's latent {made.image_latent_scale}, which whoever generates must keep"
        rows.append(("image", scale))
    _show(rows)


def parse_shares(texts: Iterable[str]) -> list[tuple[Path, float]]:
    r"""Files and weights out of `FILE` or `FILE:WEIGHT`.

    What follows the last colon is a weight only if it is a number, so that C:\style.safetensors is
    a path; and a file that is there under the whole text is that file.

    Raises:
        ConfigError: References to the registry, which these commands do not ask, all at once.
    """
    problems, found = [], []
    for text in texts:
        if not text:
            problems.append(Problem("adapter", text, "names nothing", "name a file"))
            continue
        asked = parse_adapter(text)
        if is_model(asked.ref):
            wrong = "is in the registry, which this command does not ask"
            use = "pull it first, then name its file: cogvx models pull"
            problems.append(Problem(f"adapter {text}", None, wrong, use))
        whole = Path(text)
        if whole.exists():
            found.append((whole, 1.0))
        else:
            found.append((Path(asked.ref), asked.weight))
    if problems:
        raise ConfigError("the adapters cannot be put together", problems)
    return found


def parse_size(text: str) -> int:
    """Bytes out of 5GB, 500MB or 2GiB.

    Raises:
        ConfigError: It is no size, or too small to hold anything.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is not None:
        step = 1024 if match["binary"] else 1000
        found = int(float(match["number"]) * float(step ** _POWERS[match["unit"].upper()]))
        if found >= _LEAST_SHARD:
            return found
    problem = Problem("--max-shard-size", text, "is no size of a file", "use 1MB or more, as 5GB")
    raise ConfigError(str(problem))


def _one_of(option: str, text: str, known: Sequence[_ChoiceT]) -> _ChoiceT:
    """The choice that a text names; typer has choices of its own only since 0.19."""
    for choice in known:
        if choice == text:
            return choice
    problem = Problem(option, text, "is not known", f"use one of {', '.join(known)}")
    raise ConfigError(str(problem))


def _shares(given: Iterable[tuple[Path, float]]) -> "list[Share]":
    """What the library takes; a folder stands for the adapter file in it."""
    from cogvx.adapters.shares import Share  # noqa: PLC0415 - loads torch
    from cogvx.adapters.tensors import adapter_file  # noqa: PLC0415

    return [Share(adapter_file(path) if path.is_dir() else path, weight) for path, weight in given]


def _find_base(path: str, revision: str | None) -> "Base":
    """Look at a base, saying so: naming the bytes of a folder may take a minute."""
    from cogvx.adapters.base import find_base  # noqa: PLC0415 - loads the hub's client

    typer.echo(f"looking at {path}", err=True)
    return find_base(path, revision)


def _show(rows: Iterable[tuple[str, str]]) -> None:
    for name, fact in rows:
        typer.echo(printable(f"{name:<10}{fact}"))

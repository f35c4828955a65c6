"""The commands below `cogvx models`: what is registered, who is champion, and changing that."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.terminal import log_to_terminal, show
from tasks.settings import prepare_process

if TYPE_CHECKING:
    from tasks.clients.journal import AliasMove
    from tasks.registry.model_documents import Difference, ModelsDiff, VersionLine

# MLflow is imported inside the commands: `cogvx check` should not wait for it.

app = typer.Typer(help="Look at registered adapters, and move their aliases.", no_args_is_help=True)

_WIDE = 10_000  # what is piped is read by programs, which do not want lines broken

Which = Annotated[
    str,
    typer.Argument(
        metavar="NAME[@ALIAS|/N]",
        help="A version; without alias and number the champion, or else the newest.",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Argument(help="A registered model.", show_default=False)]
Why = Annotated[str, typer.Option(prompt="Why", help="Your reason; it is kept with the decision.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="One model; without it all.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List models and their versions, newest first."""
    _begin()
    from tasks.registry.models import list_models  # noqa: PLC0415

    lines = list_models(name)
    if as_json:
        typer.echo(json.dumps([line.model_dump(mode="json") for line in lines], indent=2))
        return
    _print(_versions_table(lines) if lines else Text("no model is registered yet"))


@app.command("show")
def show_(which: Which, *, as_json: AsJson = False) -> None:
    """Say everything about a version: lineage, metrics, verdict, decisions, where it lies."""
    _begin()
    from tasks.registry.models import show_version  # noqa: PLC0415

    page = show_version(which)
    if as_json:
        _print_json(page)
        return
    line = page.line
    rows = [
        ("aliases", ", ".join(line.aliases) or "none"),
        ("verdict", line.verdict or "not judged"),
        ("made", _when(line)),
        *page.links.items(),
    ]
    if not page.is_settled:
        rows.append(("note", "aliases in MLflow are not those of the journal; a move mends that"))
    show(page.uri, rows)
    _print(_pairs_table("made of", page.made_of))
    if page.became:
        _print(_pairs_table("what became of it", page.became))
    if page.metrics:
        _print(_pairs_table("metrics", {k: f"{v:.6g}" for k, v in page.metrics.items()}))
    if page.decisions:
        _print(_decisions_table(page.decisions))


@app.command()
def promote(
    name: Name,
    version: Annotated[int, typer.Argument(min=1, show_default=False)],
    why: Why,
    *,
    override: Annotated[
        bool,
        typer.Option(
            "--override-verdict", help="Even if it was rejected or never judged; written down."
        ),
    ] = False,
) -> None:
    """Make a version the champion on your word; the champion becomes the previous one."""
    _begin()
    from tasks.registry.models import promote_version  # noqa: PLC0415

    move = promote_version(name, version, why=why, override=override)
    if move is None:
        show(f"promote {name}", [("champion", f"version {version} is the champion already")])
    else:
        show(f"promote {name}", _move_rows(move))


@app.command()
def rollback(name: Name, why: Why) -> None:
    """Go back to the previous champion."""
    _begin()
    from tasks.registry.models import roll_back  # noqa: PLC0415

    show(f"rollback {name}", _move_rows(roll_back(name, why=why)))


@app.command()
def pull(
    which: Which,
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder.", show_default=False)],
) -> None:
    """Fetch a version's adapter, card and recipe into a folder, and verify them."""
    _begin()
    from tasks.registry.models import pull as fetch  # noqa: PLC0415

    found = fetch(which, out)
    how = "" if found.fetched else " (was there already)"
    show(
        f"pull {found.name} version {found.version}",
        [("adapter", found.adapter + how), ("sha256", found.sha256), ("files", str(out))],
    )


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", show_default=False)],
    *,
    as_json: AsJson = False,
) -> None:
    """Say what differs between two versions."""
    _begin()
    from tasks.registry.model_diff import diff_versions  # noqa: PLC0415

    found = diff_versions(a, b)
    if as_json:
        _print_json(found)
        return
    rows = [("clips", found.clips or "not known"), ("weights", _weights(found))]
    show(f"{found.a} and {found.b}", rows)
    parts = (("made of", found.made_of), ("settings", found.settings), ("results", found.results))
    for title, part in parts:
        if part:
            _print(_differences_table(title, part))


@app.command()
def history(
    name: Name,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where the page goes; else ./NAME.html.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Write a page of all versions: every metric over time, verdicts, and who was champion when."""
    _begin()
    from tasks.registry.history import history_of, write_history  # noqa: PLC0415

    found = history_of(name)
    if out is not None or not as_json:
        page = write_history(found, out or Path(f"{name.replace('/', '-')}.html"))
    if as_json:
        _print_json(found)
        return
    champion = "none" if found.champion is None else f"version {found.champion}"
    rows = [("versions", str(len(found.versions))), ("champion", champion), ("page", str(page))]
    show(f"history {name}", rows)


def _begin() -> None:
    prepare_process()
    log_to_terminal()


def _print_json(document: BaseModel) -> None:
    typer.echo(json.dumps(document.model_dump(mode="json"), indent=2))


def _print(table: Table | Text) -> None:
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=_WIDE)
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    """Columns that fold rather than cut, so that a narrow terminal shows digests whole."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _versions_table(lines: "list[VersionLine]") -> Table:
    table = _table("models", "model", "version", "aliases", "verdict", "held-out", "made")
    for line in lines:
        heldout = "" if line.heldout is None else f"{line.heldout:.4f}"
        aliases = ", ".join(line.aliases)
        cells = (line.name, str(line.version), aliases, line.verdict or "", heldout, _when(line))
        table.add_row(*map(Text, cells))
    return table


def _pairs_table(title: str, pairs: dict[str, str]) -> Table:
    table = _table(title, "", "")
    for name, value in pairs.items():
        table.add_row(Text(name), Text(value))
    return table


def _decisions_table(moves: "tuple[AliasMove, ...]") -> Table:
    table = _table("decisions", "", "when", "what", "champion", "who", "why")
    for move in moves:
        champion = f"{move.before.get('champion', '-')} -> {move.after.get('champion', '-')}"
        what = move.act + (" against the verdict" if move.overruled else "")
        when = f"{move.when:%Y-%m-%d %H:%M}"
        table.add_row(*map(Text, (str(move.seq), when, what, champion, move.who, move.why)))
    return table


def _differences_table(title: str, found: "tuple[Difference, ...]") -> Table:
    table = _table(title, "", "a", "b")
    for item in found:
        table.add_row(*map(Text, (item.name, item.a or "-", item.b or "-")))
    return table


def _weights(found: "ModelsDiff") -> str:
    if found.weights is None:
        return f"not compared: {found.weights_missing}"
    of = found.weights
    apart = f"{of.distance:.4g}"
    if of.relative_distance is not None:
        apart += f", which is {of.relative_distance:.4f} of a's norm"
    return f"norm {of.norm_a:.4g} in a and {of.norm_b:.4g} in b; the two are apart by {apart}"


def _move_rows(move: "AliasMove") -> list[tuple[str, str]]:
    was, now = move.before.get("champion"), move.after.get("champion")
    return [
        ("champion", f"version {now}" + (f", instead of version {was}" if was else ", the first")),
        ("decision", f"{move.seq}, by {move.who}: {move.why}"),
    ]


def _when(line: "VersionLine") -> str:
    return "" if line.when is None else f"{line.when:%Y-%m-%d %H:%M}"

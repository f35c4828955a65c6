"""The command `cogvx aa`: how often the gate promotes luck, and how large luck is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cogvx.__main__ import RecipePath
from cogvx.evaluation.aa import AaReport, Scatter, Share
from cogvx.evaluation.documents import Outcome
from flows.terminal import begin, show


def aa(
    recipe: RecipePath,
    *,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Folder for the runs; run again to go on."),
    ],
    runs: Annotated[int, typer.Option(min=1, help="Evaluations of the base by itself.")] = 40,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what aa.json holds instead of a table.")
    ] = False,
) -> None:
    """Judge the base against itself with other seeds: what is promoted is promoted by luck.

    Renders up to eight videos for each prompt and run. The recipe's clips must be cached.
    """
    loaded = begin(recipe, purpose="judge")
    from cogvx.evaluation.suite import load_suite  # noqa: PLC0415
    from tasks.evaluation.aa import REPORT_FILE, hold_aa  # noqa: PLC0415 - loads the GPU stack
    from tasks.workbench import open_workbench  # noqa: PLC0415

    bench = open_workbench(loaded, purpose="judge")
    suite = load_suite(Path(loaded.evaluation.suite))
    report = hold_aa(bench, suite, bench.latest_manifest(), runs=runs, folder=out)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    show(f"base against base, {report.runs} runs of suite {suite.name}", report_rows(report))
    typer.echo(f"\n{'metric':<28}{'seed SD':>12}{'known to':>10}  margins of guards")
    for scatter in report.scatters:
        typer.echo(_line(scatter))
    typer.echo(f"\n{out / REPORT_FILE}")


def report_rows(report: AaReport) -> list[tuple[str, str]]:
    """Counts as pairs of a short name and a fact."""
    found = "" if report.detectable is None else f"{report.detectable:.3g}"
    return [
        ("outcomes", _counts(report.outcomes)),
        ("at first", f"{_counts(report.at_first_look)}; {report.second_looks} looked at again"),
        ("promoted", f"{_share(report.false_promotions)}, all of them by luck"),
        ("screen", f"not applied; would have stopped {_share(report.stopped_by_screen)}"),
        *([("finds", f"{found} SDs in four runs of five")] if found else []),
    ]


def _counts(outcomes: Mapping[Outcome, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))


def _share(share: Share) -> str:
    return (
        f"{share.count} of {share.runs} ({share.count / share.runs:.1%}, "
        f"truly {share.low:.1%} to {share.high:.1%})"
    )


def _line(scatter: Scatter) -> str:
    margins = ", ".join(
        f"{label} {margin:.4g}{_in_sds(margin, scatter.seed_sd)}"
        for label, margin in scatter.margins.items()
    )
    return f"{scatter.metric:<28}{scatter.seed_sd:>12.4g}{scatter.error:>10.0%}  {margins}".rstrip()


def _in_sds(margin: float, seed_sd: float) -> str:
    return f" = {margin / seed_sd:.2g} SD" if seed_sd else ""

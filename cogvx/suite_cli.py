"""The commands below `cogvx suite`: check a suite, show it, make one of another project's prompts.

They need no server and load no torch.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cogvx.errors import ConfigError, Problem
from cogvx.evaluation.encoder_needs import network_warnings
from cogvx.evaluation.looks import MORE_SEEDS, confidence_at
from cogvx.evaluation.power import (
    USUAL_BETWEEN,
    USUAL_POWER,
    minimum_detectable_effect,
    unit_spread,
)
from cogvx.evaluation.suite import Suite, load_suite
from cogvx.evaluation.suite_file import read_lines, read_suite_file, write_suite_file
from cogvx.evaluation.suite_import import Wishes, import_suite, longer_texts
from cogvx.evaluation.suite_rule import (
    GROUPS,
    PRIMARY_GROUPS,
    CeilingConfig,
    Group,
    GuardConfig,
)
from cogvx.evaluation.suite_texts import (
    about_tokens,
    overlap_problems,
    scored_text,
    suite_warnings,
)
from cogvx.metrics.registry import metrics
from cogvx.terminal import printable, writing_to

app = typer.Typer(
    help="Check suites, show them, make them of other projects' prompts.", no_args_is_help=True
)

_ChoiceT = TypeVar("_ChoiceT", bound=str)
# What an imported list is judged by if no suite is named: the shipped suite's rule.
_USUAL: dict[str, Any] = {
    "split": "gate",
    "seeds": [42, 43],
    "sampling": {"steps": 50, "guidance": 6.0, "sampler": "dpm", "dynamic_guidance": True},
    "gate": {
        "primaries": ["heldout_loss"],
        "guards": [{"metric": name} for name in ("temporal_flickering", "motion_magnitude")],
    },
}

SuitePath = Annotated[
    Path, typer.Argument(help="A suite in TOML, YAML or JSON.", show_default=False)
]


@app.command()
def check(
    suite: SuitePath,
    *,
    captions: Annotated[
        Path | None,
        typer.Option(help="A file of training captions, one a line: no prompt may be one."),
    ] = None,
) -> None:
    """List every problem of a suite, or say how many videos it asks for."""
    found = load_suite(suite)
    if captions is not None:
        problems = overlap_problems(found, read_lines(captions))
        if problems:
            raise ConfigError(str(suite), problems)
    _warn(found)
    typer.echo(f"{suite}: no problems")
    _show(_counts(found))


@app.command()
def show(suite: SuitePath) -> None:
    """Print what is rendered, what encoders compare it with, and the rule that decides."""
    found = load_suite(suite)
    _show([*_counts(found), *_rule(found)])
    for prompt in found.prompts:
        text = scored_text(prompt)
        seeds = " ".join(str(seed) for seed in found.seeds_of(prompt))
        typer.echo(f"\n{prompt.id}  ({prompt.group}, seeds {seeds})")
        rows = [
            ("prompt", prompt.prompt),
            ("scored", f"{text}  (about {about_tokens(text)} tokens)"),
        ]
        if prompt.image is not None:
            rows.append(("image", f"{prompt.image} ({(prompt.image_sha256 or '')[:16]})"))
        _show(rows)


@app.command("import")
def import_(  # noqa: PLR0913 - these are the command's options
    file: Annotated[
        Path,
        typer.Argument(
            help="VBench's or finetrainers' json, or a text of one prompt or prompt@@image a line.",
            show_default=False,
        ),
    ],
    *,
    to: Annotated[Path, typer.Option(help="The suite: .toml, .yaml or .json.", show_default=False)],
    like: Annotated[
        Path | None,
        typer.Option(help="A suite whose split, seeds, sampling and rule are taken."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Of all prompts; else off_domain for VBench's, domain for others."),
    ] = None,
    dimension: Annotated[
        list[str] | None, typer.Option(help="Of VBench; only its prompts. May be repeated.")
    ] = None,
    longer: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="SHORT LONG",
            help="Two texts, line by line: FILE's prompts are SHORT's, and LONG's are generated.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="The folder of the pictures; else FILE's own.")
    ] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="Take so many prompts, drawn by their hash.")
    ] = None,
) -> None:
    """Make a suite of another project's prompts."""
    wishes = Wishes(
        group=None if group is None else _one_of("--group", group, GROUPS),
        dimensions=tuple(dimension or ()),
        longer=None if longer is None else longer_texts(*longer),
        images=images,
        most=most,
    )
    if to.exists():
        raise ConfigError(f"{to} exists already and was left alone; name another file")
    document = import_suite(file, to, like=_like(like), wishes=wishes)
    with writing_to(to):
        write_suite_file(to, document)
    made = load_suite(to)
    _warn(made)
    typer.echo(printable(f"{to}: {len(made.prompts)} prompts of {file}"))
    _show(_counts(made))


def _like(path: Path | None) -> dict[str, Any]:
    """What an imported suite takes from another one, which must be right itself."""
    if path is None:
        return _USUAL
    load_suite(path)
    return read_suite_file(path)


def _counts(suite: Suite) -> list[tuple[str, str]]:
    """How much there is to do, and the name of it all."""
    groups = Counter(prompt.group for prompt in suite.prompts)
    passes = suite.videos * suite.sampling.steps * (2 if suite.sampling.guidance > 1 else 1)
    sampling = suite.sampling
    with_images = sum(prompt.image is not None for prompt in suite.prompts)
    rows = [
        ("suite", f"{suite.name}, to {'decide' if suite.split == 'gate' else 'choose'} on"),
        ("digest", suite.digest),
        ("prompts", ", ".join(f"{groups[name]} {name}" for name in GROUPS if name in groups)),
        ("seeds", " ".join(str(seed) for seed in suite.all_seeds)),
        ("sampling", f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance:g}"),
        ("videos", f"{suite.videos} an arm: {passes} passes of the transformer"),
        (
            "costs",
            f"{2 * suite.videos} videos with the base, then {suite.videos} for each new adapter",
        ),
    ]
    if with_images:
        rows.append(("images", f"{with_images} first frames"))
    return [*rows, *_finds(suite)]


def _finds(suite: Suite) -> list[tuple[str, str]]:
    """What true effect so many prompts and seeds find, where videos decide."""
    deciding = [prompt for prompt in suite.prompts if prompt.group in PRIMARY_GROUPS]
    known = metrics()
    if not any(known[name].kind == "video" for name in suite.gate.primaries):
        return []
    seeds = min(len(suite.seeds_of(prompt)) for prompt in deciding)
    effect = minimum_detectable_effect(
        unit_spread(USUAL_BETWEEN, 1.0, seeds),
        units=len(deciding),
        confidence=suite.gate.confidence,
    )
    often = f"in {USUAL_POWER:.0%} of evaluations, where prompts differ by {USUAL_BETWEEN}"
    return [("finds", f"an effect of {effect:.2g} seed SDs {often}")]


def _rule(suite: Suite) -> list[tuple[str, str]]:
    gate = suite.gate
    guards = [_guard(guard) for guard in gate.guards]
    ceilings = [_ceiling(ceiling) for ceiling in gate.ceilings]
    screen = "stops before any video where the held-out loss is not below the base's"
    more = f"after a HOLD {MORE_SEEDS} more seeds, judged at {confidence_at(gate, 2):g}"
    return [
        ("better in", f"{', '.join(gate.primaries)} at {gate.confidence:g}"),
        ("no worse", f"{', '.join(guards) or 'nothing is guarded'} at {gate.guard_confidence:g}"),
        *([("at most", ", ".join(ceilings))] if ceilings else []),
        ("screen", screen if gate.screen else "none"),
        ("again", more if gate.second_look else "never"),
    ]


def _guard(guard: GuardConfig) -> str:
    margin = f"{guard.margin_sd:g} SD" if guard.margin is None else f"{guard.margin:g}"
    return f"{guard.metric} (margin {margin}{_over(guard.groups)})"


def _ceiling(ceiling: CeilingConfig) -> str:
    limit = "what held-out clips reach" if ceiling.limit is None else f"{ceiling.limit:g}"
    return f"{ceiling.metric} <= {limit}{_over(ceiling.groups)}"


def _over(groups: Sequence[Group] | None) -> str:
    return "" if groups is None else f" on {' and '.join(groups)}"


def _one_of(option: str, text: str, known: Sequence[_ChoiceT]) -> _ChoiceT:
    for choice in known:
        if choice == text:
            return choice
    raise ConfigError(str(Problem(option, text, "is not known", f"use one of {', '.join(known)}")))


def _warn(suite: Suite) -> None:
    for warning in [*suite_warnings(suite), *network_warnings(suite)]:
        typer.secho(printable(f"WARNING: {warning}"), fg="yellow", err=True)


def _show(rows: Iterable[tuple[str, str]]) -> None:
    for name, fact in rows:
        typer.echo(printable(f"{name:<10}{fact}"))

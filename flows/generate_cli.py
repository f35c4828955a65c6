"""The command `cogvx generate`: prompts in, videos out, on this machine and without a server."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cogvx.errors import ConfigError, Problem
from cogvx.inference.job import GenerateJob, parse_adapter
from cogvx.inference.prompt_file import parse_prompts
from cogvx.section import parse_section
from flows.terminal import log_to_terminal, show
from tasks.retraining import summary
from tasks.settings import prepare_process, settings

_SUBJECT = "this cannot be generated"
Text = str | None


def generate(  # noqa: PLR0913 - these are the command's options
    *,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REF[:WEIGHT]",
            help="A file, models:/name@alias or models:/name/version; may be repeated.",
        ),
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file: one prompt a line, or .jsonl with one object a line."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated; else 0.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="One mp4, or a folder for several.")
    ] = None,
    into_store: Annotated[
        Text,
        typer.Option(
            metavar="NAME",
            help="Instead of -o: run the flow, on the pool of COGVX_GENERATE_DEPLOYMENT if that is "
            "set, into generated/NAME of the store, with a page.",
        ),
    ] = None,
    scale: Annotated[
        Text, typer.Option(help="Such as 0,0.5,1: every video at each, and a labelled grid.")
    ] = None,
    image: Annotated[Text, typer.Option(help="The first frame, for image-to-video bases.")] = None,
    base: Annotated[
        Text, typer.Option(help="Folder or hub id; else what the first adapter was trained on.")
    ] = None,
    revision: Annotated[Text, typer.Option(help="Of a hub id.")] = None,
    size: Annotated[Text, typer.Option(help="Frames x height x width: 49x480x720.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames a second.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of denoising; divide 1000.")] = None,
    guidance: Annotated[float | None, typer.Option(help="1 is none.")] = None,
    dynamic_guidance: Annotated[
        bool, typer.Option("--dynamic-guidance", help="Change the guidance over the steps.")
    ] = False,
    sampler: Annotated[Text, typer.Option(help="dpm or ddim.")] = None,
    negative_prompt: Annotated[Text, typer.Option(help="What is not to be seen.")] = None,
    fuse: Annotated[
        bool,
        typer.Option("--fuse", help="Add adapters to the base: faster; other last bits."),
    ] = False,
    offload: Annotated[
        Text, typer.Option(help="To main memory: model, group or sequential.")
    ] = None,
    tiling: Annotated[
        bool, typer.Option("--tiling", help="Decode in tiles: less memory, slightly other.")
    ] = False,
    weights: Annotated[Text, typer.Option(help="Of the base in 8 bits: int8 or float8.")] = None,
    dtype: Annotated[Text, typer.Option(help="bfloat16, float16 or float32.")] = None,
    image_scale: Annotated[
        Text, typer.Option(help="Of the first frame's latent; 1.5 without a card needs it.")
    ] = None,
    without_prompt: Annotated[
        bool, typer.Option("--without-prompt", help="Leave prompts out of the files.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what stands at the output.")
    ] = False,
    shown: Annotated[
        Path | None, typer.Option("--show", help="Say what made this video, and do no more.")
    ] = None,
) -> None:
    """Generate videos with any mix of adapters; what exists already is not made again."""
    if shown is not None:
        _show(shown)
        return
    problems: list[Problem] = []
    lines = [{"prompt": text} for text in prompt or ()]
    document = {
        "name": "videos" if into_store is None else into_store,
        "base": base,
        "revision": revision,
        "adapters": tuple(parse_adapter(text) for text in adapter or ()),
        "scales": _scales(scale, problems),
        "prompts": [*lines, *_lines(prompts, problems)],
        "seeds": seed or None,
        "negative_prompt": negative_prompt,
        "image": image,
        "size": size,
        "fps": fps,
        "steps": steps,
        "guidance": guidance,
        "dynamic_guidance": dynamic_guidance,
        "sampler": sampler,
        "dtype": dtype,
        "base_weights": weights,
        "image_scale": image_scale,
        "fuse": fuse,
        "tiling": tiling,
        "offload": offload,
        "with_prompt": not without_prompt,
    }
    prepare_process()
    log_to_terminal()
    job = _parse(document, problems)
    if into_store is None:
        _generate(job, out, problems, force=force)
        return
    if out is not None:
        problems.append(Problem("-o", str(out), "goes with no --into-store", "use one of them"))
    if problems:
        raise ConfigError(_SUBJECT, problems)
    from flows.generate import generate as flow  # noqa: PLC0415 - Prefect is slow to import

    show(f"generate {into_store}", summary.generate_rows(flow(job)))


def _parse(document: dict[str, Any], problems: list[Problem]) -> GenerateJob:
    """The job; if it has faults, as much of it as can be checked further.

    Raises:
        ConfigError: Nothing else can be checked.
    """
    given = {name: value for name, value in document.items() if value is not None}
    job, found = parse_section(given, GenerateJob, "")
    problems += found
    if job is None:
        # as if the faulty options had been left out, to find what else is wrong
        faulty = {re.split(r"[.\[]", problem.where)[0] for problem in found}
        rest = {name: value for name, value in given.items() if name not in faulty}
        job, _ = parse_section(rest, GenerateJob, "")
    if not given["prompts"] and not problems:
        problems.append(Problem("prompt", None, "is missing", "give --prompt or --prompts FILE"))
    if not isinstance(job, GenerateJob):
        raise ConfigError(_SUBJECT, problems)
    return job


def _generate(job: GenerateJob, out: Path | None, problems: list[Problem], *, force: bool) -> None:
    from tasks.generation.generation import prepare  # noqa: PLC0415 - reads every kind of document
    from tasks.generation.local_generation import generate_here  # noqa: PLC0415
    from tasks.generation.outputs import early_problems  # noqa: PLC0415

    if out is None:
        problems.append(Problem("-o", None, "is missing", "name an mp4, or a folder for several"))
    else:
        problems += early_problems(out, force=force)
    ready = prepare(job, settings(), problems=problems)
    assert out is not None  # otherwise there was a problem
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True
    ) as bars:
        videos, steps = bars.add_task("videos", total=None), bars.add_task("steps", total=None)
        done = generate_here(
            ready,
            out,
            settings(),
            force=force,
            on_videos=lambda n, of: bars.update(videos, completed=n, total=of),
            on_steps=lambda n, of: bars.update(steps, completed=n, total=of),
        )
    rows = [("made" if one.made else "there", str(one.path)) for one in done]
    show("generate", rows)


def _show(path: Path) -> None:
    from cogvx.inference.provenance import read_provenance, read_tags  # noqa: PLC0415 - loads codecs

    found = read_provenance(path)
    rows = found.rows() if found else [(f"{name} ", text) for name, text in read_tags(path)]
    if not rows:
        raise ConfigError(f"{path} does not say what made it; cogvx did not write it")
    show(str(path), rows)


def _scales(text: str | None, problems: list[Problem]) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        wrong, use = "is no list of numbers", "write it like 0,0.5,1"
        problems.append(Problem("scale", text, wrong, use))
        return None


def _lines(path: Path | None, problems: list[Problem]) -> list[dict[str, Any]]:
    """Lines of a prompt file, their pictures looked for beside it."""
    if path is None:
        return []
    try:
        lines = parse_prompts(path.read_bytes(), str(path))
    except OSError as error:
        problems.append(Problem("prompts", str(path), f"cannot be read: {error.strerror}"))
        return []
    except ConfigError as error:
        placed = [Problem(f"{path}, {each.where}", *_rest(each)) for each in error.problems]
        problems += placed or [Problem("prompts", None, f"cannot be used: {error}")]
        return []
    plain = [line.model_dump(exclude_none=True) for line in lines]
    return [
        {**line, "image": str(path.parent / line["image"])} if "image" in line else line
        for line in plain
    ]


def _rest(problem: Problem) -> tuple[object, str, str]:
    return problem.value, problem.wrong, problem.use

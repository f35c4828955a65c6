"""The card of a registered version: one page that says what an adapter is, and how to use it.

It is a file beside the model in full, and the version's description in MLflow in short: Markdown
that MLflow's pages show, without HTML. No caption and no prompt is in it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from cogvx.adapters.card import AdapterCard
from cogvx.recipe import Recipe
from cogvx.variants import Variant
from tasks.clients.package import ADAPTER_PATH

# Longest description that MLflow's tables hold.
MOST_CHARACTERS = 5000
FRAMES = "card/frames.png"
"""Where a few frames of base, reference and this version lie with its MLflow run."""
_MOST_REASONS = 12

_PUBLISHED_AT = "https://huggingface.co"
_SAMPLERS = {"dpm": "CogVideoXDPMScheduler", "ddim": "CogVideoXDDIMScheduler"}


@dataclass(frozen=True)
class Taught:
    """What it learned from and how far: clips, and losses as mean squared error of v.

    Numbers are None where nobody wrote them down.
    """

    dataset: str
    trained_on: int
    held_out: int
    train_loss: float | None = None
    heldout_before: float | None = None
    heldout_after: float | None = None
    best_step: int | None = None


@dataclass(frozen=True)
class Judged:
    """A verdict, in the words of its report; `picture` is an address for a page to show."""

    outcome: str
    headline: str
    reasons: tuple[str, ...]
    reference: str
    picture: str


@dataclass(frozen=True)
class ModelPage:
    """All that is known of a version; `judged` is None before it was."""

    name: str
    card: AdapterCard
    recipe: Recipe
    variant: Variant
    taught: Taught
    judged: Judged | None = None


def model_card(page: ModelPage) -> str:
    """The page in full."""
    return "\n\n".join([*_heading(page), *_details(page), *_uses(page), _recipe(page)]) + "\n"


def description(page: ModelPage) -> str:
    """The page in at most MOST_CHARACTERS: what is least needed is left to the file.

    The verdict comes first, as lists of versions show the first line; the name is above already.
    """
    if page.judged is not None:
        reasons = page.judged.reasons[:_MOST_REASONS]
        page = replace(page, judged=replace(page.judged, reasons=reasons))
    _, what, verdict, *rest_of_head = _heading(page)
    head, details, uses = [verdict, what, *rest_of_head], list(_details(page)), list(_uses(page))
    rest = "The whole page is README.md beside the model, its recipe recipe.toml."
    for parts in (
        [*head, *details, *uses, _recipe(page)],
        [*head, *details, *uses, rest],
        [*head, *details, rest],
        [*head, rest],
    ):
        text = "\n\n".join(parts) + "\n"
        if len(text) <= MOST_CHARACTERS:
            return text
    return text[: MOST_CHARACTERS - 1] + "…"


def artifact_link(run_id: str, path: str) -> str:
    """Where MLflow's own pages find an artifact of a run, whatever the server's address."""
    return "get-artifact?" + urlencode({"path": path, "run_uuid": run_id})


def recipe_toml(recipe: Recipe, *, defaults: bool = True) -> str:
    """A recipe as the document that a person would write; it is read back to the same recipe."""
    document = recipe.model_dump(mode="json", exclude_none=True, exclude_defaults=not defaults)
    plain = {key: value for key, value in document.items() if not isinstance(value, Mapping)}
    sections = {key: value for key, value in document.items() if isinstance(value, Mapping)}
    lines = list(_toml_lines(plain))
    for name, section in sections.items():
        lines += ["", f"[{name}]", *_toml_lines(section)]
    return "\n".join(lines) + "\n"


def _heading(page: ModelPage) -> Iterator[str]:
    card, size = page.card, page.recipe.video.size
    yield f"# {page.name}"
    starts = "a first frame and a prompt" if page.variant.image_to_video else "a prompt"
    yield (
        f"A LoRA adapter of rank {card.rank} for {page.variant.name}: from {starts} to videos of"
        f" {size.frames} frames, {size.height} x {size.width} pixels (height x width), at"
        f" {page.recipe.video.fps} a second. At weight 1 it acts as it was trained."
    )
    judged = page.judged
    if judged is None:
        yield "**Not judged yet.**"
        return
    yield f"**{judged.outcome}** against {judged.reference}: {judged.headline}"
    if judged.picture:
        yield f"![Frames of the base and of this adapter]({judged.picture})"
    yield "\n".join(f"- {reason}" for reason in judged.reasons)


def _details(page: ModelPage) -> Iterator[str]:
    card, taught = page.card, page.taught
    yield "## What it is"
    yield _table(
        {
            "base": _base(card),
            "fingerprint": _code(card.base_fingerprint),
            "rank, alpha": f"{card.rank}, {card.alpha} (strength {card.scale:g} baked in)",
            "layers": ", ".join(_code(target) for target in card.targets),
            "first frames": card.image_latent_scale and f"latent {card.image_latent_scale}",
            "steps": card.steps,
            "run": _code(card.run),
            "written by": card.code and f"cogvx {card.code}",
            "remarks": "; ".join(card.warnings),
        }
    )
    yield "## What it learned from"
    yield _table(
        {
            "clips": f"{taught.trained_on} trained on, {taught.held_out} held out",
            "from": _code(taught.dataset),
            "manifest": _code(card.manifest),
            "training loss": _loss(taught.train_loss),
            "held-out loss": _change(taught),
            "weights of step": taught.best_step,
        }
    )
    yield (
        f"The licence is that of the base model ({_publisher(card)}), which is not repeated here:"
        " look it up before you publish the adapter or its videos. So are the rights to the clips."
    )


def _uses(page: ModelPage) -> Iterator[str]:
    name, frames = page.name, page.variant.image_to_video
    image = '"image": "first.png", ' if frames else ""
    yield "## How to use it"
    yield "With MLflow and the model's own requirements:"
    yield _block(
        "python",
        f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
        f'model.predict([{{{image}"prompt": "...", "seed": 1}}], params={{"output_dir": "out"}})',
    )
    yield "With this project:"
    image = " --image first.png" if frames else ""
    yield _block(
        "sh",
        f'cogvx generate --adapter models:/{name}@champion{image} --prompt "..." --seed 1 -o o.mp4',
    )
    yield "With diffusers:"
    yield _diffusers(page)


def _diffusers(page: ModelPage) -> str:
    card, variant = page.card, page.variant
    theirs = "divided" if variant.slices_rotary else "multiplied"
    if card.image_latent_scale not in (None, theirs):
        return (
            f"Not as it is: diffusers' pipeline takes the first frame's latent {theirs}, and this"
            f" adapter was trained with it {card.image_latent_scale}."
        )
    kind = "CogVideoXImageToVideoPipeline" if variant.image_to_video else "CogVideoXPipeline"
    sampler = _SAMPLERS[variant.sampler]
    revision = f', revision="{card.base_revision}"' if card.base_revision else ""
    return _block(
        "python",
        f'pipe = {kind}.from_pretrained("{card.base_path}"{revision},',
        f"    torch_dtype=torch.{card.base_dtype})",
        f"pipe.scheduler = {sampler}.from_config(pipe.scheduler.config,",
        '    timestep_spacing="trailing")',
        "pipe.load_lora_weights(mlflow.artifacts.download_artifacts(",
        f'    "models:/{page.name}@champion/{ADAPTER_PATH}"))',
    )


def _recipe(page: ModelPage) -> str:
    text = recipe_toml(page.recipe, defaults=False).rstrip()
    return "## Recipe\n\nSettings that it leaves out are in recipe.toml.\n\n" + _block("toml", text)


def _base(card: AdapterCard) -> str:
    if card.base_path.count("/") != 1 or card.base_path.startswith(("/", ".", "~")):
        return _code(card.base_path)
    shown = f"[{card.base_path}]({_PUBLISHED_AT}/{card.base_path})"
    return f"{shown} at {_code(card.base_revision)}" if card.base_revision else shown


def _publisher(card: AdapterCard) -> str:
    return _base(card).partition(" at ")[0]


def _change(taught: Taught) -> str | None:
    before, after = _loss(taught.heldout_before), _loss(taught.heldout_after)
    return f"{before} before, {after} after" if before and after else after


def _loss(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _code(text: str | None) -> str:
    """In Markdown's own marks, which neither a backtick nor a bar may end."""
    return "`" + text.replace("`", "'").replace("|", "/") + "`" if text else ""


def _table(rows: Mapping[str, object]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _block(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _toml_lines(section: Mapping[str, Any]) -> Iterator[str]:
    for name, value in section.items():
        yield f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        # JSON writes a text as TOML does, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)

"""The suite: which prompts and seeds an adapter is judged on, and the rule that decides.

It is TOML, YAML or JSON, closed and frozen, and its digest names it. Size and frame rate are not
here: they are the recipe's. Margins and the rule belong to the suite, so that they are declared
before any result is seen.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cogvx.data.captions import normalise_caption
from cogvx.digest import digest, sha256_file
from cogvx.errors import ConfigError, Problem
from cogvx.evaluation.suite_file import read_suite_file
from cogvx.evaluation.suite_rule import GateConfig, Group, gate_problems
from cogvx.section import SchemaVersion, Section, parse_section, shown_text
from cogvx.variants import TRAIN_TIMESTEPS, Sampler

_FILE_SAFE = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_STEPS = tuple(n for n in range(1, TRAIN_TIMESTEPS + 1) if TRAIN_TIMESTEPS % n == 0)


class SamplingConfig(Section):
    """How every video of the suite is sampled, in every arm."""

    steps: int = Field(ge=1)
    """Denoising steps; must divide 1000."""
    guidance: float = Field(ge=1.0)
    """Classifier-free guidance; 1 is none and costs half."""
    sampler: Sampler
    """dpm, or ddim for 2b."""
    dynamic_guidance: bool = False
    """Raise the guidance over the steps, as the model's authors do with dpm."""
    negative_prompt: str = ""


class PromptConfig(Section):
    """One prompt. Results are joined on `id`, which also names files."""

    id: str = Field(pattern=_FILE_SAFE)
    prompt: str = Field(min_length=1)
    eval_text: str | None = Field(default=None, min_length=1)
    """What a text encoder with few tokens compares the video with, if not the first sentence."""
    group: Group = "domain"
    """domain | trigger_free | off_domain | train_caption (only for measuring memorisation)."""
    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Of this prompt alone; else the suite's."""
    image: str | None = Field(default=None, min_length=1)
    """The first frame, for image-to-video bases: a picture, beside the suite's file."""
    image_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the picture's bytes; it is looked up when the suite is read, or must be right."""


class Suite(Section):
    """Prompts, seeds, sampling and the rule that a verdict follows."""

    schema_version: SchemaVersion = 1
    name: str = Field(pattern=_FILE_SAFE)
    split: Literal["dev", "gate"]
    """dev: to choose checkpoints and strengths on. gate: to decide on; never choose on it."""
    sampling: SamplingConfig
    seeds: tuple[int, ...] = Field(min_length=1)
    prompts: tuple[PromptConfig, ...] = Field(min_length=1)
    gate: GateConfig

    @cached_property
    def digest(self) -> str:
        """The suite's identity; both arms of a comparison must carry the same one.

        It holds what decides and not how it is written: a picture's bytes and not its path, seeds
        of a prompt only where they are not the suite's.
        """
        document = self.model_dump(mode="json")
        for entry, prompt in zip(document["prompts"], self.prompts, strict=True):
            if prompt.seeds is None or prompt.seeds == self.seeds:
                del entry["seeds"]
            if prompt.image is None or prompt.image_sha256 is not None:
                del entry["image"]
            if prompt.image_sha256 is None:
                del entry["image_sha256"]
        return digest(document)

    def ids_of(self, groups: Collection[Group]) -> tuple[str, ...]:
        """The prompts of some groups, by id."""
        return tuple(prompt.id for prompt in self.prompts if prompt.group in groups)

    def seeds_of(self, prompt: PromptConfig) -> tuple[int, ...]:
        """The seeds that a prompt is rendered with."""
        return self.seeds if prompt.seeds is None else prompt.seeds

    @property
    def shots(self) -> tuple[tuple[PromptConfig, int], ...]:
        """Every video of an arm: prompt after prompt, seed after seed."""
        return tuple((prompt, seed) for prompt in self.prompts for seed in self.seeds_of(prompt))

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Every seed that some prompt has; the suite's own first, where they are used."""
        used = {seed for _, seed in self.shots}
        own = [seed for seed in self.seeds if seed in used]
        return tuple(dict.fromkeys([*own, *(seed for _, seed in self.shots)]))

    @property
    def videos(self) -> int:
        """Videos per arm."""
        return len(self.shots)


def load_suite(path: Path) -> Suite:
    """Read a suite; pictures are looked up beside it, and named by their bytes from then on.

    Raises:
        ConfigError: With every problem of the document, not only the first.
    """
    return parse_suite(read_suite_file(path), str(path), folder=path.parent)


def parse_suite(document: Mapping[str, Any], subject: str, *, folder: Path) -> Suite:
    """As `load_suite`, for a document that was read already.

    Args:
        document: The suite.
        subject: What messages call it.
        folder: Where relative paths of pictures begin.

    Raises:
        ConfigError: With every problem of the document.
    """
    problems = suite_problems(document)
    if problems:
        raise ConfigError(subject, problems)
    suite = Suite.model_validate(document)
    prompts, problems = _with_images(suite.prompts, folder)
    if problems:
        raise ConfigError(subject, problems)
    return suite.model_copy(update={"prompts": prompts})


def suite_problems(document: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong with a suite, part by part, so that no slip hides another."""
    problems: list[Problem] = []
    sampling, found = _parse(document, "sampling", SamplingConfig)
    problems += found + (_step_problems(sampling.steps) if sampling else [])
    prompts: list[PromptConfig] = []
    for index, entry in enumerate(_tables(document, "prompts")):
        prompt, found = parse_section(entry, PromptConfig, f"prompts[{index}]")
        problems += found
        if isinstance(prompt, PromptConfig):
            prompts.append(prompt)
    problems += _repeated("prompts", "id", [prompt.id for prompt in prompts])
    problems += _repeated("prompts", "prompt", [_same(prompt.prompt) for prompt in prompts])
    problems += [
        Problem(f'prompts["{prompt.id}"].prompt', prompt.prompt, "is empty", "describe a video")
        for prompt in prompts
        if not prompt.prompt.strip()
    ]
    for prompt in prompts:
        problems += _seed_problems(prompt.seeds, f'prompts["{prompt.id}"].seeds')
        problems += _image_problems(prompt)
    problems += _mixed_problems(prompts)
    counts = Counter(prompt.group for prompt in prompts)
    is_whole = len(prompts) == len(_tables(document, "prompts"))
    problems += gate_problems(document, counts if is_whole else None)
    # What was looked at above is replaced by something right, so that it is not reported twice.
    _, found = parse_section({**document, **_EXAMPLE}, Suite, "")
    problems += found
    problems += [Problem(name, None, "is missing") for name in _EXAMPLE if name not in document]
    return problems + _seed_problems(document.get("seeds"), "seeds")


def image_problems(suite: Suite) -> list[Problem]:
    """Prompts with a first frame, which text-to-video bases do not take."""
    wrong = "is given, and the base starts from text alone"
    return [
        Problem(f'prompts["{prompt.id}"].image', None, wrong, "remove it")
        for prompt in suite.prompts
        if prompt.image is not None
    ]


def picture_problems(suite: Suite) -> list[Problem]:
    """Prompts without the first frame that image-to-video bases start from."""
    wrong = "is missing, and the base starts from a first frame"
    return [
        Problem(f'prompts["{prompt.id}"].image', None, wrong, "name a picture beside the suite")
        for prompt in suite.prompts
        if prompt.image is None
    ]


_EXAMPLE: dict[str, Any] = {
    "sampling": {"steps": 50, "guidance": 6.0, "sampler": "dpm"},
    "prompts": ({"id": "a", "prompt": "a"},),
    "gate": {"primaries": ("heldout_loss",)},
}


def _parse(
    document: Mapping[str, Any], name: str, kind: type[SamplingConfig]
) -> tuple[SamplingConfig | None, list[Problem]]:
    if name not in document:
        return None, []
    section, problems = parse_section(document[name], kind, name)
    return (section if isinstance(section, SamplingConfig) else None), problems


def _tables(document: Mapping[str, Any], name: str) -> list[Any]:
    found = document.get(name, [])
    return list(found) if isinstance(found, list | tuple) else [found]


def _step_problems(steps: int) -> list[Problem]:
    if steps in _STEPS:
        return []
    lower = [n for n in _STEPS if n < steps][-2:]
    higher = [n for n in _STEPS if n > steps][:2]
    *first, last = [str(n) for n in lower + higher]
    use = f"use {', '.join(first)} or {last}" if first else f"use {last}"
    wrong = f"does not divide {TRAIN_TIMESTEPS}, so the sampler's steps would not meet"
    return [Problem("sampling.steps", steps, wrong, use)]


def _image_problems(prompt: PromptConfig) -> list[Problem]:
    if prompt.image is not None or prompt.image_sha256 is None:
        return []
    wrong = "is of no picture"
    return [Problem(f'prompts["{prompt.id}"].image_sha256', None, wrong, "give image as well")]


def _mixed_problems(prompts: Sequence[PromptConfig]) -> list[Problem]:
    without = [prompt.id for prompt in prompts if prompt.image is None]
    if len(without) in (0, len(prompts)):
        return []
    wrong = "is missing, and other prompts have one"
    use = "a suite is for image-to-video bases or for others; give all prompts one, or none"
    return [Problem(f'prompts["{without[0]}"].image', None, wrong, use)]


def _with_images(
    prompts: Sequence[PromptConfig], folder: Path
) -> tuple[tuple[PromptConfig, ...], list[Problem]]:
    """The prompts with their pictures' whole paths and names, or what is wrong with them."""
    found, problems = [], []
    for prompt in prompts:
        if prompt.image is None:
            found.append(prompt)
            continue
        where = f'prompts["{prompt.id}"].image'
        try:
            path = Path(os.path.normpath((folder / prompt.image).absolute()))
            sha256 = sha256_file(path)
        except (OSError, ValueError) as error:
            told = error.strerror if isinstance(error, OSError) else error
            problems.append(Problem(where, shown_text(prompt.image), f"cannot be read: {told}"))
            continue
        if prompt.image_sha256 not in (None, sha256):
            wrong = f"is another picture: its sha256 is {sha256}"
            problems.append(Problem(where, shown_text(prompt.image), wrong, "correct image_sha256"))
        found.append(prompt.model_copy(update={"image": str(path), "image_sha256": sha256}))
    return tuple(found), problems


def _seed_problems(seeds: object, where: str) -> list[Problem]:
    if not isinstance(seeds, list | tuple):
        return []
    negative = [seed for seed in seeds if isinstance(seed, int) and not 0 <= seed < 2**31]
    return _repeated(where, "", [str(seed) for seed in seeds]) + [
        Problem(where, seed, "is not a seed", "use 0 to 2147483647") for seed in negative
    ]


def _repeated(where: str, key: str, values: Iterable[str]) -> list[Problem]:
    counts = Counter(values)
    place = f"{where}.{key}" if key else where
    return [
        Problem(place, value, f"stands there {count} times", "use it once")
        for value, count in counts.items()
        if count > 1
    ]


def _same(text: str) -> str:
    return normalise_caption(text).casefold()

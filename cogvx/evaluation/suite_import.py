"""Prompt lists of other projects as suites.

| file | shape |
|---|---|
| VBench, VBench-I2V json | list of `prompt_en`, `dimension`, maybe `image_name` |
| CogVideo, VBench txt | a prompt a line, SAT's with `prompt@@image` |
| finetrainers json | `data`: list of `caption`, maybe `image_path`, `num_inference_steps` |

They have prompts and pictures but no rule, so that comes from a suite that one has already.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogvx.data.captions import caption_fault, normalise_caption
from cogvx.errors import ConfigError, Problem
from cogvx.evaluation.suite import parse_suite
from cogvx.evaluation.suite_file import read_json, read_lines
from cogvx.evaluation.suite_rule import Group
from cogvx.evaluation.suite_texts import words_of

_SLUG, _HASH, _NAME = 48, 8, 63
_BETWEEN = "@@"  # SAT writes prompt@@image


@dataclass(frozen=True)
class Entry:
    """A prompt of a list: what is generated, what is scored if that differs, and its picture."""

    prompt: str
    eval_text: str | None = None
    image: str | None = None
    dimensions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """What a file holds: its prompts, how it is usually taken, and what it says of sampling."""

    entries: tuple[Entry, ...]
    group: Group
    steps: int | None = None


@dataclass(frozen=True)
class Wishes:
    """What of a list is taken and how.

    `longer` maps the short text that is scored to the long one that is generated; `most` prompts
    are drawn by their hash, so that the same ones are drawn from a list that grew by others.
    """

    group: Group | None = None
    dimensions: tuple[str, ...] = ()
    longer: Mapping[str, str] | None = None
    images: Path | None = None
    most: int | None = None


def read_listing(path: Path) -> Listing:
    """Read a prompt list of another project, recognised by what it holds.

    Raises:
        ConfigError: It is none of those that are known, or entries lack what they need.
    """
    if path.suffix.lower() != ".json":
        return _of_lines(path)
    document = read_json(path)
    if isinstance(document, list):
        return _of_vbench(path, document)
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        return _of_finetrainers(path, document["data"])
    raise ConfigError(
        f"{path} is neither a list of prompts as VBench's nor finetrainers' with a list called data"
    )


def longer_texts(short: Path, long: Path) -> dict[str, str]:
    """The long text of each short one, from two files of which line n belongs to line n.

    Raises:
        ConfigError: They have different numbers of lines.
    """
    shorts, longs = read_lines(short), read_lines(long)
    if len(shorts) != len(longs):
        raise ConfigError(
            f"{short} has {len(shorts)} lines and {long} has {len(longs)}; line n of one must be"
            " line n of the other"
        )
    return {normalise_caption(one): two for one, two in zip(shorts, longs, strict=True)}


def import_suite(
    source: Path, to: Path, *, like: Mapping[str, Any], wishes: Wishes
) -> dict[str, Any]:
    """The document of a suite with the prompts of a list.

    Args:
        source: The list.
        to: Where the suite will lie: its name, and where pictures' paths begin.
        like: The document of a suite: its split, seeds, sampling and rule are taken.
        wishes: What of the list is taken.

    Returns:
        A right document, to be written with `write_suite_file`.

    Raises:
        ConfigError: The list is none, nothing of it is left, or the suite would not be right.
    """
    listing = read_listing(source)
    entries = _chosen(source, listing.entries, wishes)
    folder = wishes.images or source.parent
    group = wishes.group or listing.group
    sampling = dict(like["sampling"])
    if listing.steps is not None:
        sampling["steps"] = listing.steps
    document: dict[str, Any] = {
        "schema_version": 1,
        "name": _slug(to.stem, _NAME) or "suite",
        "split": like["split"],
        "seeds": list(like["seeds"]),
        "sampling": sampling,
        "prompts": [_prompt(entry, group, folder, to.parent) for entry in entries],
        "gate": like["gate"],
    }
    suite = parse_suite(document, f"what {source} makes", folder=to.parent)
    for entry, prompt in zip(document["prompts"], suite.prompts, strict=True):
        if prompt.image_sha256 is not None:
            entry["image_sha256"] = prompt.image_sha256
    return document


def _of_lines(path: Path) -> Listing:
    """A prompt a line; empty lines are none."""
    entries = []
    for line in read_lines(path):
        prompt, _, image = line.partition(_BETWEEN)
        if prompt.strip():
            entries.append(Entry(prompt.strip(), image=image.strip() or None))
    return Listing(tuple(entries), "domain")


def _of_vbench(path: Path, items: Sequence[Any]) -> Listing:
    """Source: VBench `VBench_full_info.json`, `vbench2_i2v_full_info.json`."""
    entries = []
    for index, item in enumerate(items):
        where = f"[{index}]"
        prompt = _text(path, item, where, "prompt_en")
        image = item.get("image_name")
        dimensions = item.get("dimension", [])
        names = [dimensions] if isinstance(dimensions, str) else dimensions
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{path}: {where}.dimension is no list of names")
        picture = image if isinstance(image, str) and image else None
        entries.append(Entry(prompt, image=picture, dimensions=tuple(names)))
    return Listing(tuple(entries), "off_domain")


def _of_finetrainers(path: Path, items: Sequence[Any]) -> Listing:
    """Source: finetrainers `ValidationDataset`; sizes and rates are the recipe's here."""
    entries, steps = [], set()
    for index, item in enumerate(items):
        where = f"data[{index}]"
        prompt = _text(path, item, where, "caption")
        image = item.get("image_path")
        entries.append(Entry(prompt, image=image if isinstance(image, str) and image else None))
        steps.add(item.get("num_inference_steps"))
    only = steps.pop() if len(steps) == 1 else None
    return Listing(tuple(entries), "domain", only if isinstance(only, int) else None)


def _text(path: Path, item: Any, where: str, key: str) -> str:
    if not isinstance(item, dict) or not isinstance(item.get(key), str):
        raise ConfigError(f"{path}: {where} has no text called {key}")
    return str(item[key])


def _chosen(source: Path, entries: Sequence[Entry], wishes: Wishes) -> list[Entry]:
    """The entries that are wanted, each text once, with long texts in the place of short ones."""
    known = sorted({name for entry in entries for name in entry.dimensions})
    unknown = [name for name in wishes.dimensions if name not in known]
    if unknown:
        raise ConfigError(
            f"{source} has no dimension {unknown[0]}; it has: {', '.join(known) or 'none'}"
        )
    wanted = set(wishes.dimensions)
    kept = [each for each in entries if not wanted or wanted & set(each.dimensions)]
    once = list({words_of(entry.prompt): entry for entry in reversed(kept)}.values())[::-1]
    if not once:
        raise ConfigError(f"{source} holds no prompt")
    if wishes.most is not None:
        drawn = sorted(once, key=lambda entry: _hash(entry.prompt))[: wishes.most]
        once = [entry for entry in once if entry in drawn]
    if wishes.longer is not None:
        once = [_lengthened(source, entry, wishes.longer) for entry in once]
    problems = [
        Problem(f'"{entry.prompt[:40]}"', None, f"cannot be a prompt: {fault.detail}")
        for entry in once
        if (fault := caption_fault(entry.prompt)) is not None
    ]
    if problems:
        raise ConfigError(str(source), problems)
    return once


def _lengthened(source: Path, entry: Entry, longer: Mapping[str, str]) -> Entry:
    found = longer.get(normalise_caption(entry.prompt))
    if not found:
        raise ConfigError(f'{source}: there is no longer text for "{entry.prompt}"')
    return replace(entry, prompt=found, eval_text=entry.prompt)


def _prompt(entry: Entry, group: Group, folder: Path, beside: Path) -> dict[str, Any]:
    short = entry.eval_text or entry.prompt
    prompt: dict[str, Any] = {
        "id": f"{_slug(short, _SLUG)}-{_hash(short)}".strip("-"),
        "prompt": normalise_caption(entry.prompt),
    }
    if entry.eval_text is not None:
        prompt["eval_text"] = normalise_caption(entry.eval_text)
    if group != "domain":
        prompt["group"] = group
    if entry.image is not None:
        path = os.path.relpath(folder / entry.image, beside)
        prompt["image"] = Path(path).as_posix()
    return prompt


def _hash(text: str) -> str:
    return hashlib.sha256(normalise_caption(text).encode()).hexdigest()[:_HASH]


def _slug(text: str, most: int) -> str:
    """Letters, digits and dashes out of a text, whole words where they fit."""
    words, found = re.findall(r"[a-z0-9]+", text.lower()), ""
    for word in words:
        longer = f"{found}-{word}" if found else word
        if len(longer) > most:
            break
        found = longer
    return found or "".join(words)[:most]

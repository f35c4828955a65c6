"""Write docs/recipes.md from the recipe's own fields: `python -m deployments.recipe_page`."""

from pathlib import Path
from typing import get_args

from pydantic.fields import FieldInfo

from cogvx.errors import as_toml
from cogvx.files import write_bytes
from cogvx.recipe import Recipe, section_kinds
from cogvx.section import Section

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"

_HEAD = """# The recipe

Made by `python -m deployments.recipe_page` from `cogvx/recipe.py`; edit that instead.

One TOML file says which adapter is wanted. It is closed: an unknown key is an error. Relative paths
mean the folder that the command runs in. `cogvx check RECIPE` lists every problem at once.

## The clips

`dataset.uri` is a folder or `s3://bucket/prefix` in one of three forms:

| form | captions |
|---|---|
| folder | `a.mp4` beside `a.txt`, in any depth of folders |
| videofolder | `metadata.jsonl` or `metadata.csv` with `file_name` and `text` |
| CogVideo | `prompts.txt` and `videos.txt`, line by line |

Videos end in mp4, mov, m4v, mkv, webm or avi. A caption is a sentence or two: the model reads 226
tokens of it, and more than 8000 characters are refused. A clip that cannot be used is quarantined
with its reason (unreadable, missing, outside, caption, too_slow, too_short, too_small, aspect,
static, black, duplicate, same_frames, undecodable, changed) and counted; above
`dataset.max_rejected_share` the run stops.

A clip is used at one size: of `video.frames` x `height` x `width` and the further `video.buckets`,
the one that keeps most of its picture, in steps of 5 %; then the longest, then the largest. From a
long clip come up to `video.windows` windows that do not overlap. All windows of a clip are trained
on, or all are held out. An update of the weights sees windows of one size, and over the run every
window is seen equally often.
"""


def recipe_page() -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    for name, kind in section_kinds().items():
        parts.append(_section(name, kind))
        parts += [_section(f"{name}.{inner}", part) for inner, part in _sections_in(kind)]
    top = {n: f for n, f in Recipe.model_fields.items() if n not in section_kinds()}
    parts.append(f"\n## Above the sections\n\n{table(top)}")
    return "".join(parts)


def _section(name: str, kind: type[Section]) -> str:
    return f"\n## [{name}]\n\n{kind.__doc__ or ''}\n\n{table(kind.model_fields)}"


def _sections_in(kind: type[Section]) -> list[tuple[str, type[Section]]]:
    """Sections that may stand in a section, which is without them otherwise."""
    return [
        (name, part)
        for name, field in kind.model_fields.items()
        for part in get_args(field.annotation)
        if isinstance(part, type) and issubclass(part, Section)
    ]


def table(fields: dict[str, FieldInfo]) -> str:
    """The fields of a section as a table in Markdown."""
    rows = "".join(
        f"| `{name}` | {_default(field)} | {' '.join((field.description or '').split())} |\n"
        for name, field in fields.items()
    )
    return f"| key | default | meaning |\n|---|---|---|\n{rows}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, Section):
        return "as below"
    return "none" if field.default is None else f"`{as_toml(field.default)}`"


if __name__ == "__main__":
    write_bytes(PAGE, recipe_page().encode())

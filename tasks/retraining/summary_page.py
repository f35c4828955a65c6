"""The page over one retraining, for whoever owns the style: verdict first, read in a minute."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cogvx.pages.remarks import duration
from tasks.documents import (
    CacheReport,
    EvaluateReport,
    PromoteReport,
    RegisterReport,
    RetrainReport,
    Unchanged,
)
from tasks.retraining.costs import cost_rows
from tasks.retraining.summary import cache_rows, train_rows

_MOST_REASONS = 6
_SECONDS_WORTH_SAYING = 5.0


@dataclass(frozen=True)
class StageTime:
    """How long a stage ran, in seconds, and waited for a worker before.

    `page` and `tags` are those that its last flow run has in Prefect.
    """

    name: str
    state: str
    seconds: float
    waited: float = 0.0
    page: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Around:
    """What stands around a report: when its stages ran, and where more is to be seen.

    `links` are addresses by what they show, `places` folders and URLs that no browser opens;
    `picture` is the address of a picture of base, reference and challenger.
    """

    stages: Sequence[StageTime] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    headline: str = ""
    picture: str = ""


def summary_page(report: RetrainReport, around: Around) -> str:
    """Markdown without HTML, as Prefect's and MLflow's pages show it."""
    if report.unchanged is not None:
        parts = [*_unchanged(report.unchanged), links_line(around.links)]
    else:
        parts = [
            *_verdict(report.evaluate, report.promote, around.headline),
            links_line(around.links),
            f"![Frames of base, reference and challenger]({around.picture})"
            if around.picture
            else "",
            _reasons(report.evaluate),
            _stages(report, around.stages),
            table("Cost", ("", ""), [] if report.cost is None else cost_rows(report.cost)),
            table("Where it is", ("", ""), [(n, f"`{p}`") for n, p in around.places.items()]),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(
    judged: EvaluateReport | None, moved: PromoteReport | None, headline: str
) -> list[str]:
    if judged is None:
        return ["# Not judged"]
    became = "is the champion" if moved and "champion" in moved.aliases else "stays challenger"
    told = f"**{_plain(headline)}** " if headline else ""
    return [
        f"# {judged.verdict}: {judged.name} v{judged.version} {became}",
        f"{told}Judged against {judged.reference}.",
        f"{moved.reason[:1].upper()}{moved.reason[1:]}." if moved else "",
    ]


def _reasons(judged: EvaluateReport | None) -> str:
    if judged is None or not judged.reasons:
        return ""
    reasons = [f"- {_plain(reason)}" for reason in judged.reasons[:_MOST_REASONS]]
    left = len(judged.reasons) - len(reasons)
    return "\n".join(
        ["## Why", "", *reasons, *([f"- and {left} more, see the report"] if left else [])]
    )


def _unchanged(found: Unchanged) -> list[str]:
    aliases = ", ".join(found.aliases) or "no alias"
    return [
        f"# Unchanged: {found.name} version {found.version}",
        "Neither clips, recipe nor base model changed since: nothing was encoded or trained.",
        f"Its verdict is {found.verdict}; it has {aliases}.",
        f"A person: {_plain(found.review)}." if found.review else "",
    ]


def _stages(report: RetrainReport, stages: Sequence[StageTime]) -> str:
    told = {
        "cache": _clips(report.cache) if report.cache else "",
        "train": train_rows(report.train)[0][1] if report.train else "",
        "register": _version(report.register_) if report.register_ else "",
        "evaluate": _videos(report.evaluate) if report.evaluate else "",
        "promote": _aliases(report.promote) if report.promote else "",
    }
    times = {stage.name: stage for stage in stages}
    rows = []
    for name, text in told.items():
        time = times.get(name)
        rows.append((_shown(name, time), _plain(text), "" if time is None else _time(time)))
    total = sum(stage.seconds + stage.waited for stage in stages)
    rows.append(("**all**", "", f"**{duration(total)}**" if stages else ""))
    return table("Stages", ("stage", "result", "time"), rows)


def _shown(name: str, stage: StageTime | None) -> str:
    return f"[{name}]({stage.page})" if stage and stage.page else name


def _clips(report: CacheReport) -> str:
    told = [f"{name}: {fact}" for name, fact in cache_rows(report) if name != "dataset"]
    return "; ".join(told)


def _version(report: RegisterReport) -> str:
    return f"version {report.version}" + ("" if report.created else ", registered before")


def _videos(report: EvaluateReport) -> str:
    return f"{report.videos_rendered} videos rendered, {report.videos_reused} reused"


def _aliases(report: PromoteReport) -> str:
    return f"aliases: {', '.join(report.aliases) or 'none'}"


def _time(stage: StageTime) -> str:
    waited = ""
    if stage.waited >= _SECONDS_WORTH_SAYING:
        waited = f", after waiting {duration(stage.waited)}"
    ended = "" if stage.state == "Completed" else f" ({stage.state})"
    return f"{duration(stage.seconds)}{waited}{ended}"


def stage_rows(stages: Sequence[StageTime]) -> list[tuple[str, str]]:
    """Each stage with a link, and how long it ran."""
    return [(_shown(stage.name, stage), _time(stage)) for stage in stages]


def links_line(links: Mapping[str, str]) -> str:
    """Addresses by what they show, on one line."""
    return " · ".join(f"[{name}]({address})" for name, address in links.items())


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A section with a table; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return " ".join(re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text).split())

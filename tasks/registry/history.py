"""The history of a model, read from what MLflow and the journal of its aliases keep.

Two listings tell it all, however many versions there are: the versions with their tags, and the
runs with their metrics. No artifact is fetched.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import get_args
from urllib.parse import quote

from cogvx import files
from cogvx.errors import ConfigError
from cogvx.evaluation.documents import Result, Role
from cogvx.evaluation.history import (
    ChampionMove,
    Judgement,
    Measure,
    ModelHistory,
    Review,
    Reviewed,
    VersionHistory,
)
from cogvx.evaluation.history_page import history_page
from cogvx.metrics.registry import metrics
from tasks.clients.journal import AliasMove
from tasks.clients.model_card import FRAMES, artifact_link
from tasks.clients.registry import CHAMPION, Registry, Version
from tasks.clients.runs import RunFacts
from tasks.clients.versions import (
    COMPARISONS_TAG,
    HEADLINE_TAG,
    JUDGED_AT_TAG,
    LOOK_TAG,
    NEXT_TAG,
    NO_CHAMPION,
    REFERENCE_TAG,
    REVIEW_BY_TAG,
    REVIEW_TAG,
    REVIEW_UNTIL_TAG,
    REVIEW_WHY_TAG,
    RULE_TAG,
    STAGE_TAG,
    SUITE_TAG,
    VERDICT_TAG,
)
from tasks.registry.models import open_models, pages_of, require_model

HISTORY_FILE = "history.html"
_REPORT = "evaluation/report.html"


def history_of(name: str) -> ModelHistory:
    """The history of a model of this process's MLflow.

    Raises:
        ConfigError: There is no such model.
    """
    registry = open_models()
    require_model(registry, name)
    return model_history(registry, name)


def model_history(registry: Registry, name: str) -> ModelHistory:
    """Everything about all versions of a model, oldest first.

    Raises:
        TransientError: MLflow or the store did not answer this time.
    """
    versions = sorted(registry.versions(name), key=lambda item: item.version)
    runs = registry.facts_of_runs([item.run_id for item in versions if item.run_id])
    moves = registry.history(name)
    return ModelHistory(
        model=name,
        versions=tuple(
            VersionHistory(
                version=item.version,
                made=item.made,
                aliases=item.aliases,
                judgement=judgement_from(item, runs.get(item.run_id)),
                review=review_from(item.tags),
                links=links_of(registry, item, runs.get(item.run_id)),
            )
            for item in versions
        ),
        moves=tuple(_champion_move(move) for move in moves if _is_of_champion(move)),
    )


def write_history(history: ModelHistory, path: Path) -> Path:
    """Write the page over a history to a file, whose folder is made if need be.

    Raises:
        ConfigError: It cannot be written there.
    """
    try:
        files.write_bytes(path, history_page(history).encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def judgement_from(version: Version, run: RunFacts | None) -> Judgement | None:
    """What a version's tags and its run's metrics say of its newest evaluation; None before one."""
    tags = version.tags
    if VERDICT_TAG not in tags:
        return None
    against = tags.get(REFERENCE_TAG, NO_CHAMPION)
    return Judgement(
        verdict=tags[VERDICT_TAG],
        against=int(against) if against.isdecimal() else None,
        headline=tags.get(HEADLINE_TAG, ""),
        next_step=tags.get(NEXT_TAG, ""),
        suite=tags.get(SUITE_TAG, ""),
        rule=tags.get(RULE_TAG, ""),
        stage=tags.get(STAGE_TAG, ""),
        look=tags.get(LOOK_TAG, ""),
        when=_time(tags.get(JUDGED_AT_TAG)),
        measures=_measures(tags.get(COMPARISONS_TAG, ""), {} if run is None else run.metrics),
    )


def review_from(tags: Mapping[str, str]) -> Review | None:
    """What a person said of a version; None where nobody was asked."""
    outcome = tags.get(REVIEW_TAG)
    if outcome not in get_args(Reviewed):
        return None
    return Review(
        outcome=outcome,
        by=tags.get(REVIEW_BY_TAG, ""),
        why=tags.get(REVIEW_WHY_TAG, ""),
        until=_time(tags.get(REVIEW_UNTIL_TAG)),
    )


def links_of(registry: Registry, version: Version, run: RunFacts | None = None) -> dict[str, str]:
    """Pages of an MLflow that is a server, by what they show; none of one that is a file."""
    if not (server := pages_of(registry)):
        return {}
    links: dict[str, str] = {}
    if run is not None:
        artifacts = f"{server}/#/experiments/{run.experiment_id}/runs/{version.run_id}/artifacts"
        links["report"] = f"{artifacts}/{_REPORT}"
    links["version"] = f"{server}/#/models/{quote(version.name)}/versions/{version.version}"
    if version.run_id:
        links["run"] = f"{server}/#/runs/{version.run_id}"
    return links


def picture_of(registry: Registry, version: Version) -> str:
    """The address of a judged version's frames; empty without a server that has pages."""
    server = pages_of(registry)
    if not version.run_id or not server:
        return ""
    return f"{server}/{artifact_link(version.run_id, FRAMES)}"


def metric_key(label: str) -> str:
    """A row's label as MLflow takes it in the name of a metric."""
    return " ".join(re.sub(r"[^\w\-. ]", " ", label, flags=re.ASCII).split())


def _measures(text: str, found: Mapping[str, float]) -> tuple[Measure, ...]:
    """Measures in the order of the report; what an earlier cogvx kept is told without roles."""
    return tuple(
        Measure(
            metric=name,
            unit=unit,
            role=role,
            result=result,
            reference=found.get(f"eval/{metric_key(name)}/reference"),
            candidate=found.get(f"eval/{metric_key(name)}/candidate"),
            effect=found.get(f"eval/{metric_key(name)}/effect"),
            low=found.get(f"eval/{metric_key(name)}/effect_low"),
            high=found.get(f"eval/{metric_key(name)}/effect_high"),
            limit=found.get(f"eval/{metric_key(name)}/limit"),
        )
        for name, role, result, unit in _roles(text, found)
    )


def _roles(text: str, found: Mapping[str, float]) -> list[tuple[str, Role, Result, str]]:
    try:
        told = json.loads(text) if text else None
    except ValueError:  # somebody edited the tag
        told = None
    rows: list[tuple[str, Role, Result, str]] = []
    for name, what in told.items() if isinstance(told, dict) else ():
        match what:
            case [role, result, str(unit)] if role in get_args(Role) and result in get_args(Result):
                rows.append((name, role, result, unit))
    if rows or told == {}:  # an evaluation that compared nothing; the numbers are of one before
        return rows
    names = [name.split("/")[1] for name in found if _is_candidate(name)]
    known = metrics()
    return [(name, "info", "info", known[name].unit if name in known else "") for name in names]


def _is_candidate(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 3 and parts[0] == "eval" and parts[2] == "candidate"


def _is_of_champion(move: AliasMove) -> bool:
    return move.before.get(CHAMPION) != move.after.get(CHAMPION)


def _champion_move(move: AliasMove) -> ChampionMove:
    return ChampionMove(
        seq=move.seq,
        when=move.when,
        act=move.act,
        version=move.version,
        before=move.before.get(CHAMPION),
        after=move.after.get(CHAMPION),
        who=move.who,
        why=move.why,
        verdict=move.verdict,
        overruled=move.overruled,
    )


def _time(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:  # somebody edited the tag
        return None
    return found if found is None or found.tzinfo else None

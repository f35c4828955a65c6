"""What an evaluation leaves in MLflow, and the history that is read from it again."""

import json
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from cogvx.errors import ConfigError
from cogvx.evaluation.documents import EvaluationReport
from cogvx.evaluation.judge import judge
from tasks.clients.registry import CHAMPION, Reason, Registry, Version
from tasks.clients.versions import COMPARISONS_TAG, JUDGED_TAG, REFERENCE_TAG, VERDICT_TAG
from tasks.evaluation.judged import TABLE, keep_judgement, points_of, prompt_table
from tasks.registry.history import links_of, metric_key, model_history, write_history
from tests.evaluation.builders import arm_of, suite_of

LOSSES = ((0.9, 1.1, 1.3, 1.0), (1.01, 1.19, 1.41, 1.09))


@dataclass(frozen=True)
class Kept:
    """A registry with two judged versions and one that nobody judged."""

    registry: Registry
    client: MlflowClient
    reports: list[EvaluationReport]
    versions: list[Version]


def report_on(losses: tuple[float, ...], reference: str) -> EvaluationReport:
    suite = suite_of()
    return judge(
        suite,
        model="ink",
        candidate=arm_of(suite, "challenger", losses=losses, shift=0.25),
        reference=arm_of(suite, reference),
        provenance={},
    )


def make_version(registry: Registry, client: MlflowClient) -> Version:
    run_id = registry.start_run("ink", "training", tags={})
    made = client.create_model_version("ink", source="s3://nowhere/ink", run_id=run_id)
    return registry.version("ink", int(made.version))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    root = tmp_path_factory.mktemp("history")
    registry = Registry(f"sqlite:///{root / 'mlflow.db'}", root / "artifacts")
    client = MlflowClient(registry.tracking_uri)
    client.create_registered_model("ink")
    versions, reports = [], []
    for losses, reference in zip(LOSSES, ("base", "1"), strict=True):
        version, report = make_version(registry, client), report_on(losses, reference)
        keep_judgement(registry, version, report, reference=reference, judged="rule")
        if reference == "base":
            registry.promote("ink", version.version, expected_champion=None)
        versions.append(version)
        reports.append(report)
    versions.append(make_version(registry, client))
    return Kept(registry, client, reports, versions)


def test_the_history_is_what_the_evaluations_said(kept: Kept) -> None:
    told = model_history(kept.registry, "ink")
    assert [item.version for item in told.versions] == [1, 2, 3]
    assert told.champion == 1
    assert told.versions[2].judgement is None
    for item, report in zip(told.versions, kept.reports, strict=False):
        found, verdict = item.judgement, report.verdict
        assert found is not None
        assert (found.verdict, found.headline) == (verdict.outcome, verdict.headline)
        assert (found.next_step, found.suite) == (verdict.next_step, verdict.suite)
        assert (found.rule, found.look) == (str(verdict.rule), str(verdict.look))
        assert found.stage == verdict.stage
        assert found.when is not None
        rows = [
            (row.label, row.role, row.result, row.unit, row.reference, row.candidate, row.limit)
            for row in verdict.comparisons
        ]
        assert rows == [
            (m.metric, m.role, m.result, m.unit, m.reference, m.candidate, m.limit)
            for m in found.measures
        ]
        effects = [
            (row.effect.mean, row.effect.low, row.effect.high) for row in verdict.comparisons
        ]
        assert effects == [(m.effect, m.low, m.high) for m in found.measures]
    assert [item.judgement and item.judgement.against for item in told.versions] == [None, 1, None]


def test_one_listing_of_runs_tells_all_versions(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("get_run", "search_runs", "download_artifacts", "get_model_version"):
        real = getattr(kept.registry._client, name)

        def counted(*given: object, _name: str = name, _real: object = real, **more: object):
            asked.append(_name)
            return _real(*given, **more)

        monkeypatch.setattr(kept.registry._client, name, counted)
    model_history(kept.registry, "ink")
    assert asked == ["get_run", "search_runs"]


def test_runs_of_other_experiments_and_runs_that_are_gone_are_no_trouble(kept: Kept) -> None:
    elsewhere = kept.registry.start_run("another", "training", tags={})
    asked = [kept.versions[0].run_id, elsewhere, "f" * 32, kept.versions[1].run_id]
    found = kept.registry.facts_of_runs(asked)
    assert set(found) == {asked[0], asked[1], asked[3]}
    assert found[elsewhere].metrics == {}
    assert found[asked[0]].experiment_id != found[elsewhere].experiment_id


def test_the_table_has_a_row_for_each_prompt_in_the_form_of_mlflows_own(kept: Kept) -> None:
    run_id, report = kept.versions[0].run_id, kept.reports[0]
    columns, rows = prompt_table(report)
    assert [row[0] for row in rows] == list(report.prompts)
    run = kept.client.get_run(run_id)
    told = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{TABLE}"))
    assert told == {"columns": columns, "data": rows}
    other = kept.client.create_run(run.info.experiment_id)
    by_column = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
    kept.client.log_table(other.info.run_id, by_column, TABLE)
    theirs = json.loads(mlflow.artifacts.load_text(f"{other.info.artifact_uri}/{TABLE}"))
    assert theirs["columns"] == columns
    assert [row[:2] for row in theirs["data"]] == [row[:2] for row in rows]
    assert theirs.keys() == told.keys()
    tags = kept.client.get_run(other.info.run_id).data.tags
    assert tags["mlflow.loggedArtifacts"] == run.data.tags["mlflow.loggedArtifacts"]
    old, new, change = (
        [row[columns.index(f"motion_magnitude {of}")] for row in rows]
        for of in ("base", "challenger", "change")
    )
    assert change == pytest.approx([after - before for before, after in zip(old, new, strict=True)])
    mean = kept.client.get_run(run_id).data.metrics["eval/motion_magnitude/candidate"]
    assert sum(new) / len(new) == pytest.approx(mean)


def test_a_metric_that_two_lines_judge_has_its_columns_once(kept: Kept) -> None:
    report = kept.reports[0]
    lines = report.verdict.comparisons
    (again,) = [row for row in lines if row.metric == "motion_magnitude"]
    twice = report.model_copy(
        update={"verdict": report.verdict.model_copy(update={"comparisons": (*lines, again)})}
    )
    assert prompt_table(twice) == prompt_table(report)


def test_what_is_kept_again_takes_the_place_of_what_was(kept: Kept) -> None:
    version, report = kept.versions[1], kept.reports[1]
    before = kept.registry.version("ink", 2).tags
    keep_judgement(kept.registry, version, report, reference="1", judged="rule")
    after = kept.registry.version("ink", 2).tags
    assert {**before, "cogvx.judged_at": ""} == {**after, "cogvx.judged_at": ""}
    run = kept.client.get_run(version.run_id)
    (tables,) = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert tables == {"path": TABLE, "type": "table"}
    assert run.data.tags[VERDICT_TAG] == report.verdict.outcome
    names = {item.path for item in kept.client.list_artifacts(version.run_id, "evaluation")}
    assert names == {TABLE, "evaluation/history.html"}
    page = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/evaluation/history.html")
    assert 'id="v2"' in page


def test_an_evaluation_that_compared_nothing_shows_no_numbers_of_the_one_before(
    kept: Kept,
) -> None:
    version = make_version(kept.registry, kept.client)
    keep_judgement(kept.registry, version, kept.reports[0], reference="base", judged="rule")
    found = kept.reports[0]
    nothing = found.verdict.model_copy(update={"outcome": "INVALID", "comparisons": ()})
    invalid = found.model_copy(update={"verdict": nothing})
    keep_judgement(kept.registry, version, invalid, reference="base", judged="rule")
    last = model_history(kept.registry, "ink").versions[-1].judgement
    assert last is not None
    assert (last.verdict, last.measures) == ("INVALID", ())
    kept.client.delete_model_version("ink", str(version.version))


@pytest.mark.parametrize("cut", [REFERENCE_TAG, VERDICT_TAG, JUDGED_TAG])
def test_tags_of_a_judgement_that_was_killed_count_as_none(
    kept: Kept, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_version(kept.registry, kept.client)
    keep_judgement(kept.registry, version, kept.reports[0], reference="base", judged="rule")
    write = MlflowClient.set_model_version_tag

    def killed(client: MlflowClient, name: str, number: str, key: str, value: str) -> None:
        if key == cut and value:
            raise KeyboardInterrupt
        write(client, name, number, key, value)

    monkeypatch.setattr(MlflowClient, "set_model_version_tag", killed)
    with pytest.raises(KeyboardInterrupt):
        keep_judgement(kept.registry, version, kept.reports[1], reference="1", judged="rule")
    monkeypatch.undo()
    assert kept.registry.version("ink", version.version).tags[JUDGED_TAG] == ""
    keep_judgement(kept.registry, version, kept.reports[1], reference="1", judged="rule")
    tags = kept.registry.version("ink", version.version).tags
    assert (tags[REFERENCE_TAG], tags[JUDGED_TAG]) == ("1", "rule")
    assert tags[VERDICT_TAG] == kept.reports[1].verdict.outcome
    kept.client.delete_model_version("ink", str(version.version))


def test_every_metric_has_a_name_that_mlflow_takes(kept: Kept) -> None:
    assert metric_key("drift on domain, off_domain against base") == (
        "drift on domain off_domain against base"
    )
    for report in kept.reports:
        names = [point.name for point in points_of(report.verdict)]
        assert len(set(names)) == len(names)
        assert "eval/composite" in names
        assert "eval/heldout_loss/reference" in names


def test_tags_that_a_person_edited_cost_only_what_they_said(kept: Kept) -> None:
    version = make_version(kept.registry, kept.client)
    tags = {VERDICT_TAG: "PROMOTE", COMPARISONS_TAG: '{"a": ["king", "better", "m"], "b": 3'}
    tags |= {"cogvx.judged_at": "yesterday", "cogvx.reference": "nobody"}
    kept.registry.tag_version("ink", version.version, tags)
    last = model_history(kept.registry, "ink").versions[-1].judgement
    assert last is not None
    assert (last.verdict, last.against, last.when, last.measures) == ("PROMOTE", None, None, ())
    kept.client.delete_model_version("ink", str(version.version))


def test_who_was_champion_when_comes_from_the_journal(kept: Kept) -> None:
    kept.registry.crown("ink", 2, expected_champion=1, reason=Reason("calmer", "Ann"))
    kept.registry.roll_back("ink", expected_champion=2, reason=Reason("it flickers", "Ben"))
    told = model_history(kept.registry, "ink")
    moves = [(move.act, move.before, move.after, move.who) for move in told.moves]
    assert moves[1:] == [("promoted", 1, 2, "Ann"), ("rolled back", 2, 1, "Ben")]
    assert moves[0][:3] == ("promoted", None, 1)
    assert told.once_champions == {1, 2}
    assert kept.registry.aliases("ink")[CHAMPION] == told.champion == 1


def test_only_a_server_has_pages(kept: Kept) -> None:
    version = kept.versions[0]
    assert links_of(kept.registry, version) == {}
    served = Registry.__new__(Registry)
    served.tracking_uri = "http://mlflow:5000/"
    run = kept.registry.facts_of_runs([version.run_id])[version.run_id]
    links = links_of(served, version, run)
    assert links["version"] == "http://mlflow:5000/#/models/ink/versions/1"
    assert links["report"].endswith(f"{version.run_id}/artifacts/evaluation/report.html")
    served.tracking_uri = "http://me:secret@mlflow:5000"
    assert links_of(served, version, run) == {}


def test_a_place_that_cannot_be_written_is_a_sentence(kept: Kept, tmp_path: Path) -> None:
    history = model_history(kept.registry, "ink")
    page = write_history(history, tmp_path / "new" / "page.html")
    assert page.read_text().startswith("<!doctype html>")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_history(history, page / "below.html")

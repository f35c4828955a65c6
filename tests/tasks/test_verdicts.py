"""What a verdict does: who is promoted, who stays challenger, and when there is nothing to do."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx.errors import ConfigError, IntegrityError, UserError
from cogvx.evaluation.suite import load_suite
from cogvx.model.identity import TEXT_PARTS, VAE_PARTS, fingerprint
from cogvx.recipe import Recipe
from cogvx.recipe_sections import EvaluationConfig, SweepConfig
from tasks.caching.ingest import survey_clips
from tasks.clients.registry import CHAMPION, PREVIOUS_CHAMPION, Reason, Registry, Version
from tasks.code import commit
from tasks.documents import Unchanged
from tasks.evaluation.evaluate_plan import _to_beat
from tasks.evaluation.promote import promote_adapter
from tasks.lineage import APPROVAL_TAG
from tasks.settings import settings
from tasks.training.describe import page_of
from tasks.training.finished import finished_run
from tasks.training.register import find_unchanged, open_registry
from tasks.workbench import Workbench, code_version
from tests.adapters.toys import toy_adapter
from tests.fixtures.judged import judge, registered, version_of


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for the module; every test has a model name of its own."""
    root = tmp_path_factory.mktemp("verdicts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(root / "home"))
        settings.cache_clear()
        yield root
    settings.cache_clear()


@pytest.fixture
def bench(
    root: Path, nano_base: Path, world_clips: Path, request: pytest.FixtureRequest
) -> Workbench:
    """A recipe whose adapter is trained, as far as the store knows, and registered."""
    name = request.node.originalname.replace("_", "-")[5:60].strip("-")
    return registered(root, name, base=nano_base, clips=world_clips)


def champion_of(bench: Workbench) -> int | None:
    champion = open_registry(bench).get_alias(bench.recipe.name, CHAMPION)
    return None if champion is None else champion.version


def with_recipe(bench: Workbench, **changes: object) -> Workbench:
    """The same bench for an edited recipe."""
    recipe = Recipe.model_validate({**bench.recipe.model_dump(), **changes})
    return dataclasses.replace(bench, recipe=recipe)


def by_hand(bench: Workbench) -> Workbench:
    suite = bench.recipe.evaluation.suite
    return with_recipe(bench, evaluation=EvaluationConfig(suite=suite, auto_promote=False))


def unchanged(bench: Workbench) -> Unchanged | None:
    return find_unchanged.fn(bench, bench.latest_manifest())


def other_version(bench: Workbench, registry: Registry, folder: Path) -> Version:
    """A second version of the same model, from another run."""
    file = toy_adapter(bench.base, folder, run=f"other of {bench.recipe.name}", seed=5)
    run_id = registry.start_run(bench.recipe.name, "other", tags={})
    from tasks.training.register import _serving

    serving = _serving(bench, page_of(bench, file))
    return registry.register(bench.recipe.name, file, run_id=run_id, serving=serving)


def test_a_better_adapter_becomes_champion(bench: Workbench) -> None:
    judge(bench, "PROMOTE")
    report = promote_adapter.fn(bench)
    assert report.promoted
    assert champion_of(bench) == report.version
    assert CHAMPION in report.aliases


@pytest.mark.parametrize("verdict", ["HOLD", "REJECT", "INVALID"])
def test_anything_but_promote_stays_challenger(bench: Workbench, verdict: str) -> None:
    judge(bench, verdict)
    report = promote_adapter.fn(bench)
    assert not report.promoted
    assert champion_of(bench) is None
    assert verdict in report.reason


def test_a_person_is_asked_unless_the_recipe_says_otherwise(bench: Workbench) -> None:
    judge(bench, "PROMOTE")
    report = promote_adapter.fn(by_hand(bench))
    assert not report.promoted
    assert champion_of(bench) is None
    assert "--approve" in report.reason
    assert promote_adapter.fn(by_hand(bench), "I looked at the videos").promoted
    assert champion_of(bench) == report.version
    assert version_of(bench).tags[APPROVAL_TAG] == "I looked at the videos"


@pytest.mark.parametrize("verdict", ["REJECT", "INVALID"])
def test_nobody_approves_what_was_rejected(bench: Workbench, verdict: str) -> None:
    judge(bench, verdict)
    assert not promote_adapter.fn(bench, "please").promoted
    assert champion_of(bench) is None


def test_a_person_may_approve_a_hold(bench: Workbench) -> None:
    judge(bench, "HOLD")
    assert promote_adapter.fn(bench, "close enough").promoted
    assert champion_of(bench) is not None


def test_nothing_is_promoted_without_a_verdict(bench: Workbench) -> None:
    with pytest.raises(ConfigError, match="run `cogvx evaluate` first"):
        promote_adapter.fn(bench)
    assert champion_of(bench) is None


def test_a_champion_that_moved_since_the_verdict_stays(bench: Workbench, tmp_path: Path) -> None:
    registry = open_registry(bench)
    judge(bench, "PROMOTE")
    other = other_version(bench, registry, tmp_path)
    registry.promote(bench.recipe.name, other.version, expected_champion=None)
    with pytest.raises(UserError, match="the champion is now"):
        promote_adapter.fn(bench)
    assert champion_of(bench) == other.version


def test_the_old_champion_keeps_an_alias_to_go_back_to(bench: Workbench, tmp_path: Path) -> None:
    registry = open_registry(bench)
    other = other_version(bench, registry, tmp_path)
    registry.promote(bench.recipe.name, other.version, expected_champion=None)
    judge(bench, "PROMOTE", reference=str(other.version))
    assert promote_adapter.fn(bench).promoted
    previous = registry.get_alias(bench.recipe.name, PREVIOUS_CHAMPION)
    assert previous is not None
    assert previous.version == other.version


def test_what_people_rolled_back_is_not_promoted_again_unasked(
    bench: Workbench, tmp_path: Path
) -> None:
    registry, name = open_registry(bench), bench.recipe.name
    other = other_version(bench, registry, tmp_path)
    registry.promote(name, other.version, expected_champion=None)
    judge(bench, "PROMOTE", reference=str(other.version))
    mine = promote_adapter.fn(bench).version
    registry.roll_back(name, expected_champion=mine, reason=Reason("it flickers"))
    report = promote_adapter.fn(bench)
    assert not report.promoted
    assert "rolled back: it flickers; or use cogvx promote RECIPE --approve" in report.reason
    assert champion_of(bench) == other.version
    assert promote_adapter.fn(bench, "only on one clip").promoted
    assert champion_of(bench) == mine
    registry.crown(name, other.version, expected_champion=mine, reason=Reason("to compare"))
    assert promote_adapter.fn(bench).promoted  # nobody went back from it since it was promoted


def test_a_version_is_tagged_with_what_made_it(bench: Workbench) -> None:
    tags, made_by = version_of(bench).tags, commit()
    assert tags["cogvx.dataset"] == bench.dataset.url
    assert tags["cogvx.vae_fingerprint"] == fingerprint(bench.base, VAE_PARTS)
    assert tags["cogvx.text_fingerprint"] == fingerprint(bench.base, TEXT_PARTS)
    assert tags["cogvx.run"] == bench.run_identity(bench.latest_manifest())
    assert tags.get("cogvx.commit") == (None if made_by is None else str(made_by))
    assert tags["cogvx.code"] == code_version()
    assert (tags["cogvx.size"], tags["cogvx.fps"]) == (str(bench.recipe.video.size), "8")
    assert tags["cogvx.heldout"] == "1.000000"
    assert "cogvx.heldout_before" not in tags  # that run has none


def test_nothing_is_to_do_after_a_verdict_was_acted_on(bench: Workbench) -> None:
    assert unchanged(bench) is None
    judge(bench, "PROMOTE")
    assert unchanged(bench) is None  # killed between verdict and promotion
    promote_adapter.fn(bench)
    found = unchanged(bench)
    assert found is not None
    assert (found.verdict, CHAMPION in found.aliases) == ("PROMOTE", True)


def test_a_hold_is_not_tried_again_on_the_same_clips(bench: Workbench) -> None:
    judge(bench, "HOLD")
    promote_adapter.fn(bench)
    assert unchanged(bench) is not None


def test_an_edited_suite_or_rule_is_judged_again(bench: Workbench) -> None:
    judge(bench, "HOLD")
    promote_adapter.fn(bench)
    assert unchanged(by_hand(bench)) is None
    suite = Path(bench.recipe.evaluation.suite)
    before = suite.read_text()
    try:
        suite.write_text(before.replace("seeds = [1]", "seeds = [1, 2]"))
        assert unchanged(bench) is None
    finally:
        suite.write_text(before)
    assert unchanged(bench) is not None


def test_a_verdict_of_another_suite_promotes_nobody(bench: Workbench, tmp_path: Path) -> None:
    judge(bench, "PROMOTE")
    suite = Path(bench.recipe.evaluation.suite)
    edited = tmp_path / "suite.toml"
    edited.write_text(suite.read_text().replace("seeds = [1]", "seeds = [1, 2]"))
    other = with_recipe(bench, evaluation=EvaluationConfig(suite=str(edited), auto_promote=True))
    for approval in (None, "I looked at the videos"):
        with pytest.raises(ConfigError, match=r"another suite.*; run `cogvx evaluate` again"):
            promote_adapter.fn(other, approval)
    assert champion_of(bench) is None
    assert promote_adapter.fn(bench).promoted
    assert "is the champion already" in promote_adapter.fn(other).reason


def test_prompts_that_are_trained_on_are_refused_before_anything_is_trained(
    bench: Workbench, tmp_path: Path
) -> None:
    manifest, paths = bench.latest_manifest(), {}
    before = Path(bench.recipe.evaluation.suite)
    for split in ("gate", "dev"):
        prompts = [{"id": "seen", "prompt": manifest.train[0].caption}]
        suite = load_suite(before).model_dump(mode="json", exclude_none=True)
        paths[split] = tmp_path / f"{split}.json"
        paths[split].write_text(json.dumps({**suite, "split": split, "prompts": prompts}))
    swept = EvaluationConfig(suite=str(before), sweep=SweepConfig(suite=str(paths["dev"])))
    both = swept.model_copy(update={"suite": str(paths["gate"])})
    for asked, wrong in ((swept, ["dev"]), (both, ["gate", "dev"])):
        with pytest.raises(ConfigError, match="is a training caption") as caught:
            find_unchanged.fn(with_recipe(bench, evaluation=asked), manifest)
        assert len(caught.value.problems) == len(wrong)
        assert all(str(paths[split]) in str(caught.value) for split in wrong)


def test_another_champion_is_a_reason_to_judge_again(bench: Workbench, tmp_path: Path) -> None:
    judge(bench, "HOLD")
    promote_adapter.fn(bench)
    assert unchanged(bench) is not None
    registry = open_registry(bench)
    other = other_version(bench, registry, tmp_path)
    registry.promote(bench.recipe.name, other.version, expected_champion=None)
    assert unchanged(bench) is None


def test_what_was_not_judged_for_a_fault_is_judged_again(bench: Workbench) -> None:
    judge(bench, "INVALID")
    promote_adapter.fn(bench)
    assert unchanged(bench) is None


def test_another_adapter_is_never_called_unchanged(bench: Workbench) -> None:
    judge(bench, "HOLD")
    promote_adapter.fn(bench)
    lora = bench.recipe.lora.model_copy(update={"alpha": 64})
    assert unchanged(with_recipe(bench, lora=lora)) is None


def test_the_champion_is_judged_against_whom_it_beat(bench: Workbench, tmp_path: Path) -> None:
    registry = open_registry(bench)
    other = other_version(bench, registry, tmp_path)
    registry.promote(bench.recipe.name, other.version, expected_champion=None)
    judge(bench, "PROMOTE", reference=str(other.version))
    promote_adapter.fn(bench)
    to_beat = _to_beat(registry, version_of(bench), registry.get_alias(bench.recipe.name, CHAMPION))
    assert to_beat is not None
    assert to_beat.version == other.version


def test_a_finished_run_is_told_to_an_mlflow_that_does_not_know_it(bench: Workbench) -> None:
    client = open_registry(bench)._client
    run = client.get_run(version_of(bench).run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["heldout/loss_all"] == 1.0
    assert run.data.tags["cogvx.dataset"] == bench.dataset.url
    assert run.data.params["lora.rank"] == "64"


def test_a_damaged_outcome_is_named_and_not_used(bench: Workbench) -> None:
    key = f"runs/{bench.run_identity(bench.latest_manifest())}/outcome.json"
    whole = bench.store.read(key)
    bench.store.write(key, whole[:-20])
    try:
        with pytest.raises(IntegrityError, match=key):
            finished_run(bench, key.split("/")[1])
    finally:
        bench.store.write(key, whole)


def test_a_damaged_manifest_is_named_and_written_anew(bench: Workbench) -> None:
    manifest = bench.latest_manifest()
    (info,) = [
        info
        for info in bench.store.entries("manifests/")
        if info.key.endswith(f"{manifest.content_digest()}.json")
    ]
    bench.store.write(info.key, b"{")
    with pytest.raises(IntegrityError, match=info.key):
        bench.latest_manifest()
    survey_clips.fn(bench)
    assert bench.latest_manifest() == manifest


def test_a_setting_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGVX_DEVICE", "gpu")
    with pytest.raises(ConfigError, match="COGVX_DEVICE"):
        settings.__wrapped__()

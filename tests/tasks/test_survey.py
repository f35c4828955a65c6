import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from cogvx.cache.plan import Identities
from cogvx.data.manifest import Refused
from cogvx.errors import DataError
from cogvx.model.nano.carried import carried_nano
from cogvx.recipe import Recipe
from cogvx.store import LocalStore, MemoryStore
from cogvx.variants import read_facts
from tasks.caching.encode import settle_shards
from tasks.caching.ingest import survey_clips
from tasks.documents import CacheReport, ShardReport
from tasks.pools.children import Child, Ended
from tasks.retraining.summary import cache_rows
from tasks.settings import Settings
from tasks.workbench import Workbench
from tests.data.clips import write_clip
from tests.fixtures.away import prefect_that_answers


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """Three clips, one of them beyond the nano model's 16 tokens, and one that is no video."""
    clips = tmp_path / "clips"
    for number in range(3):
        write_clip(clips / f"{number}.mp4", seed=number).with_suffix(".txt").write_text("a circle")
    (clips / "2.txt").write_text("circle " * 20)
    (clips / "text.mp4").write_text("no video")
    (clips / "text.txt").write_text("a circle")
    base = carried_nano()
    recipe = Recipe.model_validate(
        {
            "name": "survey",
            "base": {"path": str(base), "dtype": "float32"},
            "dataset": {"uri": str(clips), "min_heldout": 1},
            "video": {"frames": 9, "height": 48, "width": 48, "fps": 8},
            "train": {"steps": 1000},
            "evaluation": {"suite": "suite.toml"},
        }
    )
    return Workbench(
        recipe=recipe,
        settings=Settings(home=tmp_path / "home"),
        store=MemoryStore(),
        dataset=LocalStore(clips),
        base=base,
        base_fingerprint="0" * 64,
        facts=read_facts(base),
        ids=Identities(vae="0" * 64, text="1" * 64),
        warnings=(),
    )


def survey(bench: Workbench, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        survey_clips.fn(bench)
    return "\n".join(record.getMessage() for record in caplog.records)


def test_a_survey_names_what_is_rejected_what_is_too_long_and_what_changed(
    bench: Workbench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = survey(bench, caplog)
    assert "rejected text.mp4: unreadable (the file cannot be read as a video" in said
    assert "1 caption(s) have more than 16 tokens" in said
    assert "2.mp4 (21); say what matters first" in said
    assert "the first manifest of this dataset" in said
    assert bench.shelf.last_change() is None
    assert "nothing changed since manifest" in survey(bench, caplog)
    (tmp_path / "clips" / "1.txt").write_text("a square")
    assert 'recaptioned 1 (1.mp4: "a circle" became "a square")' in survey(bench, caplog)
    assert "nothing changed" in survey(bench, caplog)
    change = bench.shelf.last_change()
    assert change is not None
    assert change.after == bench.latest_manifest().content_digest()


def test_the_summary_tells_what_changed(
    bench: Workbench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    survey(bench, caplog)
    (tmp_path / "clips" / "text.mp4").unlink()
    (tmp_path / "clips" / "1.mp4").unlink()
    survey(bench, caplog)
    report = CacheReport(
        dataset=bench.dataset.url,
        manifest="0" * 64,
        index="1" * 64,
        accepted=2,
        heldout=1,
        rejected={},
        records_encoded=0,
        records_reused=4,
        diff=bench.shelf.last_change(),
    )
    assert ("changed", "removed 1 (1.mp4)") in cache_rows(report)


def test_clips_are_named_also_when_too_many_are_rejected(
    bench: Workbench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in (".mp4", ".txt"):  # a name that no other test has warned of
        (tmp_path / "clips" / f"text{suffix}").rename(tmp_path / "clips" / f"bad{suffix}")
    strict = bench.recipe.dataset.model_copy(update={"max_rejected_share": 0.1})
    bench = replace(bench, recipe=bench.recipe.model_copy(update={"dataset": strict}))
    kept = bench.work / "rejected-survey.json"
    with pytest.raises(DataError, match="1 of 4 clips are rejected, more than dataset"):
        survey(bench, caplog)
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("rejected bad.mp4: unreadable") for line in said)
    assert f"the whole list is in {kept}" in said
    (listed,) = json.loads(kept.read_bytes())
    assert (listed["key"], listed["reason"]) == ("bad.mp4", "unreadable")
    assert bench.shelf.latest_name() is None


def test_without_prefects_pages_a_survey_ends_well(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    with prefect_that_answers({}):
        assert "quarantine: not shown in Prefect's pages" in survey(bench, caplog)
    assert len(bench.latest_manifest().clips) == 3


def test_without_prefects_pages_clips_that_cannot_be_encoded_are_remembered(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    survey(bench, caplog)
    clip = bench.latest_manifest().clips[0]
    fault = {"key": clip.key, "reason": "unreadable", "detail": "it ends early"}
    refused = Refused.model_validate({**fault, "sha256": clip.sha256})
    report = ShardReport(records_wanted=1, records_encoded=0, refused=(refused,))
    child = Child(name="shard 1 of 1", key="0", parameters={})
    with prefect_that_answers({}):
        assert settle_shards.fn(bench, [Ended(child, 1.0, report)])
    assert f"rejected {clip.key}: unreadable (it ends early)" in survey(bench, caplog)

"""What a plan names is in the store once the plan is, also where a sweep comes in between."""

from pathlib import Path

import pytest

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.digest import sha256_file
from cogvx.errors import TransientError
from cogvx.evaluation.render import Arm
from cogvx.inference.batch import AdapterAtWeight
from cogvx.inference.job import GenerateJob
from cogvx.store import MemoryStore
from tasks.evaluation.evaluate_shards import cut_missing
from tasks.evaluation.measure_documents import MeasurePlan
from tasks.evaluation.measure_shards import publish_plans
from tasks.generation.generate_inputs import published_picture
from tasks.generation.generate_plan import PLANS
from tasks.registry.adapter_refs import adapter_key, bring_adapter
from tasks.settings import Settings
from tasks.workbench import Workbench, published
from tests.adapters.toys import toy_adapter
from tests.fixtures.family import IMAGE_MEMBERS, MEMBERS, BaseOf
from tests.tasks.test_evaluate_shards import bench_on, suite_in


class SweptStore(MemoryStore):
    """Just before each plan is written, a sweep removes what no plan has named yet."""

    def write(self, key: str, data: bytes) -> None:
        if key.startswith("plans/") and key.endswith(".json"):
            for found in [key for key in self.objects if key.startswith(("adapters/", "plans/im"))]:
                self.delete(found)
        super().write(key, data)


def swept(bench: Workbench, arm: Arm) -> Workbench:
    """The bench with such a store, which has the arm's adapter since earlier work."""
    store = SweptStore()
    for adapter in arm.adapters:
        store.upload(adapter.path, adapter_key(adapter.sha256))
    return Workbench(**{**vars(bench), "store": store})


def challenger(base: Path, folder: Path) -> Arm:
    file = toy_adapter(base, folder)
    return Arm("challenger v2", (AdapterAtWeight(sha256_file(file), file, 1.0),))


def test_shards_of_videos_find_their_adapter(base_of: BaseOf, tmp_path: Path) -> None:
    base, member = base_of(MEMBERS[1]), MEMBERS[1]
    arm = challenger(base, tmp_path / "adapter")
    bench = swept(bench_on(base, member, tmp_path / "home"), arm)
    cut_missing(bench, [arm], suite_in(tmp_path, member))
    assert bench.store.info(f"adapters/{arm.adapters[0].sha256}/{ADAPTER_FILE}") is not None


def test_shards_of_videos_find_their_first_frames(base_of: BaseOf, tmp_path: Path) -> None:
    member = IMAGE_MEMBERS[0]
    bench = swept(bench_on(base_of(member), member, tmp_path / "home"), Arm("base"))
    found = bench_on(base_of(member), member, tmp_path / "home")
    cuts = cut_missing(bench, [Arm("base")], suite_in(tmp_path, member))
    read = published_picture(bench.store)
    for cut in cuts:
        job = published(bench.store, PLANS, str(cut.child.parameters["shard"]), kind=GenerateJob)
        assert all(read(line.image or "", found.recipe.video.size).any() for line in job.prompts)


def test_runs_that_measure_find_their_adapter(base_of: BaseOf, tmp_path: Path) -> None:
    base, member = base_of(MEMBERS[1]), MEMBERS[1]
    arm = challenger(base, tmp_path / "adapter")
    bench = swept(bench_on(base, member, tmp_path / "home"), arm)
    (child,) = publish_plans(bench, [(arm, ((),), ())], "losses")
    plan = bench.published(PLANS, str(child.parameters["shard"]), MeasurePlan)
    ((sha256, _),) = plan.adapters
    assert bring_adapter(sha256, bench.store, bench.settings).is_file()


def test_where_nothing_is_to_be_measured_nothing_is_put(base_of: BaseOf, tmp_path: Path) -> None:
    base, member = base_of(MEMBERS[1]), MEMBERS[1]
    arm = challenger(base, tmp_path / "adapter")
    bench = bench_on(base, member, tmp_path / "home")
    assert publish_plans(bench, [(arm, (), ())], "losses") == ()
    assert not list(bench.store.entries())


def test_an_adapter_that_went_in_the_meantime_is_no_fault_of_its_arm(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="run again, and it is put there anew"):
        bring_adapter("a" * 64, MemoryStore(), Settings(home=tmp_path))

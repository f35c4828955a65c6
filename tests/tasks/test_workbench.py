import pytest

from cogvx.errors import IntegrityError, TransientError
from tasks.documents import ShardReport
from tasks.workbench import Workbench
from tests.tasks.test_survey import bench

__all__ = ["bench"]

REPORT = ShardReport(records_wanted=2, records_encoded=1)


def test_a_published_document_is_read_back(bench: Workbench) -> None:
    assert bench.published("reports", bench.publish("reports", REPORT), ShardReport) == REPORT


def test_one_that_the_store_does_not_show_yet_is_worth_another_run(bench: Workbench) -> None:
    with pytest.raises(TransientError, match="is not in memory://, or not yet; run again"):
        bench.published("reports", "0" * 64, ShardReport)


def test_one_that_was_altered_is_refused(bench: Workbench) -> None:
    name = bench.publish("reports", REPORT)
    path = f"reports/{name}.json"
    bench.store.write(path, bench.store.read(path).replace(b"2", b"3"))
    with pytest.raises(IntegrityError, match=f"{path} in memory:// is damaged"):
        bench.published("reports", name, ShardReport)

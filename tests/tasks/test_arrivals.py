"""The name of a dataset in an event: one dataset has one, and none is a pattern."""

import pytest

from tasks.caching.arrivals import dataset_resource


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket/clips", "s3://bucket/clips/", "s3://bucket/clips//"],
)
def test_a_prefix_has_one_name_however_it_is_spelled(uri: str) -> None:
    assert dataset_resource(uri) == "cogvx.dataset.s3://bucket/clips"


@pytest.mark.parametrize("uri", ["/data/a b", "/data/a b/", "file:///data/a%20b", "/data/./a b"])
def test_a_folder_has_one_name_however_it_is_spelled(uri: str) -> None:
    assert dataset_resource(uri) == "cogvx.dataset./data/a%20b"


def test_no_name_is_a_pattern_that_means_other_datasets() -> None:
    name = dataset_resource("s3://bucket/[a]*?!")
    assert not set("*?[]!") & set(name)
    assert name != dataset_resource("s3://bucket/b")


def test_datasets_beside_and_below_each_other_have_names_of_their_own() -> None:
    uris = ["s3://bucket", "s3://bucket/a", "s3://bucket/a/b", "s3://a/bucket", "bucket/a", "a"]
    assert len({dataset_resource(uri) for uri in uris}) == len(uris)

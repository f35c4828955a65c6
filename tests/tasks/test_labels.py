"""What runs are called after: a dataset's own name, however its place is spelled."""

import pytest

from tasks.pages.labels import champion_tag, dataset_name, tag_run


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://bucket/clips/ink/", "ink"),
        ("s3://bucket", "bucket"),
        ("clips/neon", "neon"),
        ("file:///data/a%20b", "a b"),
        ("s3://bucket/" + "x" * 300, "x" * 60),
    ],
)
def test_a_dataset_is_called_by_the_last_part_of_its_place(uri: str, name: str) -> None:
    assert dataset_name(uri) == name


def test_without_a_flow_run_nothing_is_tagged() -> None:
    tag_run("verdict:HOLD", champion_tag(None))
    assert champion_tag(3) == "champion:v3"

"""A digest depends on content alone."""

import hashlib
from pathlib import Path

import pytest

from cogvx.digest import canonical_json, digest, sha256_file


def test_key_order_and_spacing_do_not_matter() -> None:
    assert digest({"b": 1, "a": [1.5, "ü"]}) == digest({"a": [1.5, "ü"], "b": 1})
    assert canonical_json({"b": 1, "a": "ü"}) == '{"a":"ü","b":1}'.encode()


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest({"loss": float("nan")})


def test_a_file_is_hashed_like_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()

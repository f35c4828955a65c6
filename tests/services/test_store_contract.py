"""A folder and a dictionary keep every promise of a store; S3's servers are tested elsewhere."""

from pathlib import Path

import pytest

from cogvx.store import LocalStore, MemoryStore
from tests.services.store_contract import StoreContract


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "not made yet" / "store")


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

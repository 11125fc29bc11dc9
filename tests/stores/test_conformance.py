"""The stores that come with agentbg keep the contract."""

import pytest

from agentbg.stores import MemoryStore, SQLiteStore, Store
from agentbg.testing.stores import StoreConformance


class TestMemoryStore(StoreConformance):
    reopens = False

    @pytest.fixture
    def new_store(self):
        store = MemoryStore()
        return lambda: store


class TestSQLiteStore(StoreConformance):
    @pytest.fixture
    def new_store(self, tmp_path):
        return lambda: SQLiteStore(tmp_path / "runs.db")


class TestSQLiteStoreNotDurable(StoreConformance):
    @pytest.fixture
    def new_store(self, tmp_path):
        return lambda: SQLiteStore(tmp_path / "runs.db", durable=False)


@pytest.mark.parametrize("kind", [MemoryStore, SQLiteStore])
def test_it_has_all_of_the_protocols_methods(kind):
    assert issubclass(kind, Store)

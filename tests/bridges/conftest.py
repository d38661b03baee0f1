import pytest

from lissome.bridges import named
from tests.bridges.seven import Spy


@pytest.fixture
def spy(monkeypatch):
    found = Spy(named.attend)
    monkeypatch.setattr(named, "attend", found)
    return found

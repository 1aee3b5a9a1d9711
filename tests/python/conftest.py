import pytest


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch):
    """Tests say themselves which PAPILIO_* variables count."""
    import os

    for name in list(os.environ):
        if name.startswith("PAPILIO_"):
            monkeypatch.delenv(name)


@pytest.fixture(params=["shm", "ucx"])
def lane(request, monkeypatch):
    """Ranks of this test reach each other over this lane only."""
    monkeypatch.setenv("PAPILIO_TRANSPORT", request.param)
    return request.param

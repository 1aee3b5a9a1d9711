import pytest


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch):
    """Tests say themselves which PAPILIO_* variables count."""
    import os

    for name in list(os.environ):
        if name.startswith("PAPILIO_"):
            monkeypatch.delenv(name)

from pathlib import Path

import pytest

_ENGINES = str(Path(__file__).parents[2] / "engines")


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    """The scripts of engines/ import one another by their file names."""
    monkeypatch.syspath_prepend(_ENGINES)

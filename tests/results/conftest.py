import json

import pytest

from resrope.posgen.record import open_run


@pytest.fixture
def kept(tmp_path):
    """kept(name, settings, *records) -> a folder as keep.py leaves it, as far as pages read it."""

    def make(name, settings, *records):
        open_run(tmp_path / name, "small", settings)
        (tmp_path / name / "records.json").write_text(json.dumps(records))
        return tmp_path / name

    return make

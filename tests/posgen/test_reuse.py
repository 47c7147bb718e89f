"""What a switch leaves as it was is not trained again, and what it changes is."""

import pytest

from resrope.posgen.cell import run_cell
from resrope.posgen.record import Cell, cell_folder, open_run, read_record
from resrope.posgen.reuse import take_over
from resrope.posgen.settings import TABLES, Settings

METHODS = ("rope", "resonance-rope", "yarn", "alibi", "dynamic-ntk")
CELLS = [Cell(task="cot", method=method, seed=0) for method in METHODS]


@pytest.fixture
def short(tiny):
    return tiny.override({"epochs": 1, "looks": 1})


@pytest.fixture
def trained(short, tmp_path):
    """A finished run of all cells."""
    open_run(tmp_path / "one", "quick", short)
    for cell in CELLS:
        run_cell(tmp_path / "one", cell, short)
    return tmp_path / "one"


def taken(out, settings, others):
    open_run(out, "quick", settings)
    return [cell.method for cell in take_over(out, CELLS, settings, others)]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"factor": 8.0}, ["rope", "resonance-rope", "alibi", "dynamic-ntk"]),
        ({"original_length": 20, "beta_fast": 3.0}, ["rope", "resonance-rope", "alibi"]),
        # Up to the training length dynamic NTK does nothing.
        ({"scale_in_training": False}, ["rope", "resonance-rope", "alibi", "dynamic-ntk"]),
        ({"original_length": 12}, [*METHODS]),  # the training length, as without
        ({"best_by": "accuracy"}, []),
        ({"learning_rate": 2e-2}, []),
        ({"rope_theta": 500.0}, []),
    ],
)
def test_what_is_taken_is_what_would_be_trained(short, trained, tmp_path, change, same):
    settings, out = short.override(change), tmp_path / "two"
    assert taken(out, settings, [trained]) == same
    for cell in CELLS:
        if cell.method not in same:
            assert read_record(out, cell) is None
            continue
        record, alone = read_record(out, cell), run_cell(tmp_path / "alone", cell, settings)
        made = record.pop("made")
        assert record == {key: value for key, value in alone.items() if key != "made"}
        assert (made["seconds"], made["taken_from"]) == (0.0, "one")
        for name in ("last.safetensors", "best.safetensors"):
            files = [cell_folder(place, cell) / name for place in (out, tmp_path / "alone")]
            assert files[0].read_bytes() == files[1].read_bytes()


def test_every_field_that_is_left_out_decides_tables_alone(short, trained, tmp_path):
    """ALiBi, which has no table, is the same cell whatever they are."""
    other = {"factor": 9.0, "beta_fast": 5.0, "beta_slow": 2.0, "ramp": "turns", "truncate": False}
    other |= {"blend": "wavelength", "original_length": 13, "scale_in_training": False, "wavelengths": (6,)}
    assert other.keys() == set(TABLES)
    assert all(getattr(Settings(), name) != value for name, value in other.items())
    assert "alibi" in taken(tmp_path / "two", short.override(other), [trained])


def test_what_is_there_or_begun_stays(short, trained, tmp_path):
    settings, out = short.override({"factor": 8.0}), tmp_path / "two"
    open_run(out, "quick", settings)
    own = run_cell(out, CELLS[0], settings)
    begun = cell_folder(out, CELLS[1]) / "checkpoint.safetensors"
    begun.parent.mkdir()
    begun.write_bytes(b"begun")
    assert taken(out, settings, [trained]) == ["alibi", "dynamic-ntk"]
    assert read_record(out, CELLS[0]) == own
    assert begun.read_bytes() == b"begun"
    assert taken(tmp_path / "three", settings, []) == []
    without_yarn = ["rope", "resonance-rope", "alibi", "dynamic-ntk"]
    assert taken(tmp_path / "three", settings, [out, trained]) == without_yarn
    assert read_record(tmp_path / "three", CELLS[1])["made"]["taken_from"] == "one"

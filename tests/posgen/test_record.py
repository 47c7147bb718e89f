import json

import pytest
import torch

from resrope.posgen.record import (
    Cell,
    cell_folder,
    open_run,
    read_record,
    read_records,
    read_run,
    read_tensors,
    write_tensors,
)


def test_a_run_folder_remembers_its_settings(tiny, tmp_path):
    out = tmp_path / "runs" / "a"
    open_run(out, "quick", tiny)
    assert read_run(out) == ("quick", tiny)
    before = (out / "run.json").read_bytes()
    open_run(out, "quick", tiny)
    assert (out / "run.json").read_bytes() == before


def test_a_folder_from_before_a_field_was_there_goes_on(tiny, tmp_path):
    open_run(tmp_path, "quick", tiny)
    run = json.loads((tmp_path / "run.json").read_text())
    del run["settings"]["h_seed"], run["settings"]["patience"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    open_run(tmp_path, "quick", tiny)
    assert read_run(tmp_path) == ("quick", tiny)
    with pytest.raises(ValueError, match=r"other settings: h_seed 0 \(asked for 3\); choose"):
        open_run(tmp_path, "quick", tiny.override({"h_seed": 3}))


def test_other_settings_are_refused_by_name(tiny, tmp_path):
    open_run(tmp_path, "quick", tiny)
    with pytest.raises(ValueError, match=r"other settings: epochs 3 \(asked for 9\); choose another folder"):
        open_run(tmp_path, "quick", tiny.override({"epochs": 9}))


def test_other_folders_are_refused(tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be a new folder or that of a run"):
        open_run(tmp_path, "quick", tiny)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match=r"has no run\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "text", ["not json", "[]", '{"schema": "other"}', '{"schema": "resrope-posgen-1", "settings": {}}']
)
def test_damaged_run_files(tiny, tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json"):
        read_run(tmp_path)


def test_a_record_of_another_version_is_refused(tiny, tmp_path):
    from resrope.posgen.cell import run_cell

    cell = Cell(task="cot", method="rope", seed=0)
    whole = run_cell(tmp_path, cell, tiny.override({"epochs": 1, "looks": 1}))
    file = cell_folder(tmp_path, cell) / "record.json"
    assert read_records(tmp_path) == [read_record(tmp_path, cell)]
    short = {**whole["last"], "correct_by_position": whole["last"]["correct_by_position"][1:]}
    many = {**whole["last"], "rows": 1}
    cases = {
        r"record\.json must be of schema resrope-posgen-1, got 'resrope-posgen-99'": {
            "schema": "resrope-posgen-99"
        },
        r"record\.json is damaged \(last\); delete it to run that cell again": {"last": None},
        r"damaged \(last\)": {"last": short},
        r"damaged \(made\)": {"made": {}},
        r"damaged \(best\)": {"best": many},
        r"damaged \(cell\)": {"cell": {"task": "cot", "method": "rope", "seed": 0, "fold": 3}},
        r"damaged \(cell\);": {"cell": {**whole["cell"], "seed": 1}},
        r"damaged \(cell, history\)": {"cell": [], "history": {}},
    }
    for words, change in cases.items():
        file.write_text(json.dumps({**whole, **change}))
        for read in (lambda: read_records(tmp_path), lambda: read_record(tmp_path, cell)):
            with pytest.raises(ValueError, match=words):
                read()
    file.write_text("{}")
    with pytest.raises(ValueError, match="must be of schema resrope-posgen-1, got None"):
        read_records(tmp_path)


def test_a_record_of_other_settings_than_its_run_is_refused(tiny, tmp_path):
    from resrope.posgen.cell import run_cell

    cell, settings = Cell(task="cot", method="rope", seed=0), tiny.override({"epochs": 1, "looks": 1})
    open_run(tmp_path, "quick", settings)
    record = run_cell(tmp_path, cell, settings)
    file = cell_folder(tmp_path, cell) / "record.json"
    del record["settings"]["h_seed"]  # from before the field was there
    file.write_text(json.dumps(record))
    assert len(read_records(tmp_path)) == 1
    file.write_text(json.dumps(record | {"settings": {**record["settings"], "epochs": 50, "h": "bit"}}))
    words = (
        r"record\.json is of other settings than its run: h 'bit' \(asked for 'sum'\), epochs 50 \(asked for"
    )
    for read in (lambda: read_records(tmp_path), lambda: read_record(tmp_path, cell)):
        with pytest.raises(ValueError, match=words):
            read()


def test_tensors_and_notes_round_trip(tmp_path):
    path = tmp_path / "deep" / "a.safetensors"
    tensors = {"x": torch.randn(3, 4), "y": torch.arange(5)}
    write_tensors(path, tensors, {"step": 7, "history": [{"loss": 0.1 + 0.2}]})
    back, notes = read_tensors(path)
    assert notes == {"step": 7, "history": [{"loss": 0.1 + 0.2}]}
    assert all(torch.equal(back[k], v) for k, v in tensors.items())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"damaged .* delete its folder to start again"):
        read_tensors(path)


def test_cells_are_named_by_what_they_are():
    assert Cell(task="cot", method="resonance-yarn", seed=3).name == "cot-resonance-yarn-seed3"

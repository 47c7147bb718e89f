import importlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resrope.longtext import extras, hub, rows
from resrope.longtext.texts import Text, read_texts, sample


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def pairs(*sources, **options):
    return [(one.name, one.text) for one in read_texts([str(s) for s in sources], **options)]


def compressed(path, *parts):
    import zstandard

    path.write_bytes(b"".join(zstandard.ZstdCompressor().compress(part) for part in parts))
    return str(path)


def table(path, **columns):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def refused(*sources, **options):
    with pytest.raises(ValueError, match=r".") as caught:
        read_texts([str(s) for s in sources], **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_text_file_is_one_document(tmp_path):
    (tmp_path / "emma.txt").write_bytes("\ufeffEmma\r\nWoodhouse\né".encode())
    (tmp_path / "NOTES.MD").write_text("# Notes")
    assert pairs(tmp_path / "emma.txt") == [("emma.txt", "Emma\nWoodhouse\né")]
    assert pairs(tmp_path / "NOTES.MD") == [("NOTES.MD", "# Notes")]


def test_every_kind_of_rows(tmp_path):
    lines = b'{"text": "a"}\n\n{"text": "b\\r\\nc", "id": 3}'
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines)
    compressed(tmp_path / "b.jsonl.zst", lines)
    compressed(tmp_path / "c.json.zst", lines[:4], lines[4:20], lines[20:])
    table(tmp_path / "d.parquet", text=["a", "  ", "b\r\nc"], other=[1, 2, 3])
    for name in ("a.jsonl", "b.jsonl.zst", "c.json.zst", "d.parquet"):
        assert pairs(tmp_path / name) == [(f"{name}:1", "a"), (f"{name}:3", "b\nc")]


def test_a_folder_in_the_order_of_its_names(tmp_path):
    (tmp_path / "b.txt").write_text("2")
    (tmp_path / "a.txt").write_text("1")
    (tmp_path / "c.csv").write_text("no text")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.txt").write_text("3")
    assert pairs(tmp_path) == [("a.txt", "1"), ("b.txt", "2")]
    names = [name for name, _ in pairs(tmp_path / "inner", tmp_path)]
    assert names == ["inner/a.txt", f"{tmp_path.name}/a.txt", "b.txt"]


def test_the_column(tmp_path):
    path = write(tmp_path / "a.jsonl", {"input": "i", "document": "d", "other": "o"})
    assert pairs(path) == [("a.jsonl:1", "i")]
    assert pairs(path, column="other") == [("a.jsonl:1", "o")]
    assert "row 1: the text must be under x, but there is only input, document, other" in refused(
        path, column="x"
    )
    assert "under text or input or report or content or document, but there is only words" in refused(
        table(tmp_path / "b.parquet", words=["w"])
    )
    (tmp_path / "c.txt").write_text("c")
    assert "a column is of .jsonl and .parquet files" in refused(tmp_path / "c.txt", column="text")
    assert [name for name, _ in pairs(path, tmp_path / "c.txt", column="other")] == ["a.jsonl:1", "c.txt"]


@pytest.mark.parametrize("text", [1, None, ["a"]])
def test_a_text_that_is_none(tmp_path, text):
    path = write(tmp_path / "a.jsonl", {"text": "a"}, {"text": text})
    assert f"{path}: row 2: text must be text, got {type(text).__name__}" == refused(path)


def test_what_is_not_there(tmp_path):
    assert refused("nowhere.txt") == (
        "'nowhere.txt': no such file or folder, and no data set: govreport, proof-pile, pg19, pg19-train, "
        "hub:owner/name"
    )
    assert "no such file" in refused("")
    assert "the folder holds no .txt, .md, .jsonl" in refused(tmp_path)
    (tmp_path / "a.csv").write_text("a")
    assert "texts are .txt, .md, .jsonl" in refused(tmp_path / "a.csv")


@pytest.mark.parametrize("data", [b"", b" \n\t", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_nothing_in_it(tmp_path, name, data):
    (tmp_path / "b.txt").write_text("full")
    (tmp_path / name).write_bytes(data)
    assert refused(tmp_path) == f"{tmp_path / name}: holds no text"


def test_the_same_file_twice(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    assert refused(tmp_path / "a.txt", tmp_path / ".." / tmp_path.name / "a.txt").endswith("is given twice")
    assert refused(tmp_path).endswith("a.txt is given twice")
    assert refused("pg19", "pg19") == "pg19 is given twice"
    spelled_out = hub.NAMED["govreport"]
    assert refused("govreport", spelled_out) == f"{spelled_out} is given twice"


def test_not_utf_8(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfabc\xe9")
    assert refused(path) == f"{path}: must be UTF-8, but byte 6 is not"
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}')
    assert refused(path) == f"{path}: must be UTF-8, but byte 24 is not"


@pytest.mark.parametrize("line", ['{"text": "a"', "[1]", "{'text': 'a'}", "[" * 100_000])
def test_a_broken_line(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + line)
    assert refused(tmp_path / "a.jsonl").startswith(f"{tmp_path / 'a.jsonl'}: line 2 ")


def test_damaged_files(tmp_path):
    zst = compressed(tmp_path / "a.jsonl.zst", b'{"text": "a"}\n' * 1000, b'{"text": "b"}\n')
    whole = (tmp_path / "a.jsonl.zst").read_bytes()
    for end in (3, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.jsonl.zst").write_bytes(whole[:end])
        assert refused(zst) == f"{zst}: ends in the middle; it was not copied or downloaded whole"
    (tmp_path / "a.jsonl.zst").write_bytes(b"not compressed at all")
    assert refused(zst).startswith(f"{zst}: cannot be read as zstd: ")
    parquet = table(tmp_path / "a.parquet", text=["a" * 1000] * 1000)
    data = (tmp_path / "a.parquet").read_bytes()
    for damaged in (data[:-5], b"", data[:40] + bytes(200) + data[240:]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        assert refused(parquet).startswith(f"{parquet}: cannot be read as Parquet: ")


@pytest.mark.parametrize(
    ("name", "package"), [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow"), ("pg19", "datasets")]
)
def test_an_extra_that_is_missing(tmp_path, monkeypatch, name, package):
    if "." in name:
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    found = importlib.import_module

    def missing(module):
        if module == package:
            raise ImportError(module)
        return found(module)

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'resrope\[longtext\]'"):
        read_texts([name])


@given(
    st.lists(st.dictionaries(st.sampled_from(["text", "n"]), st.text(min_size=1), min_size=2), min_size=1),
    st.integers(1, 40),
)
def test_lines_do_not_depend_on_the_chunks(found, size):
    data = b"".join(json.dumps(row).encode() + b"\n" for row in found)
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    assert list(rows._split(chunks)) == data.splitlines(keepends=True)
    assert list(rows._split([data.rstrip(b"\n")])) == data.rstrip(b"\n").splitlines(keepends=True)


def test_a_sample_is_seeded_ordered_and_without_replacement():
    texts = [Text(name=str(i), text=str(i)) for i in range(20)]
    drawn = sample(texts, 5, seed=1)
    assert drawn == sample(texts, 5, seed=1) != sample(texts, 5, seed=2)
    numbers = [int(one.name) for one in drawn]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 5
    assert sample(texts, 20, seed=0) == texts
    assert {one.name for seed in range(40) for one in sample(texts, 2, seed)} == {str(i) for i in range(20)}
    for count in (0, -1, 21):
        with pytest.raises(ValueError, match=f"from 1 to the 20 there are, got {count}"):
            sample(texts, count, seed=0)


class Split:
    """An IterableDataset's two methods that are used; `read` counts the rows that were fetched."""

    def __init__(self, found, fail_after=None):
        self.found, self.fail_after, self.read = found, fail_after, 0

    def select_columns(self, names):
        self.found = [{name: row[name] for name in names} for row in self.found]
        return self

    def __iter__(self):
        for row in self.found:
            if self.read == self.fail_after:
                raise ConnectionError("connection\nlost")
            self.read += 1
            yield row


@pytest.fixture
def served(monkeypatch):
    """served(**splits): what the hub has; returns the arguments that it is asked with."""
    import datasets

    def serve(**splits):
        asked = []

        def load_dataset(path, config=None, *, streaming):
            assert streaming
            asked.append((path, config))
            return splits

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return serve


def test_a_hub_data_set_is_read_only_as_far_as_asked(served):
    split = Split([{"text": str(i)} for i in range(50)])
    asked = served(train=Split([]), test=split)
    assert pairs("hub:owner/name?rows=2&config=small") == [
        ("owner/name?rows=2&config=small:1", "0"),
        ("owner/name?rows=2&config=small:2", "1"),
    ]
    assert (asked, split.read) == ([("owner/name", "small")], 2)


def test_the_split_of_a_hub_data_set(served):
    served(train=Split([{"text": "a"}]), validation=Split([{"text": "b"}]))
    assert pairs("hub:x?split=validation") == [("x?split=validation:1", "b")]
    assert refused("hub:x") == "x: split must be among train, validation, got 'test'"
    served(train=Split([{"text": "a"}]))
    assert pairs("hub:x") == [("x:1", "a")]


def test_the_column_of_a_hub_data_set(served):
    row = {"input": "i", "text": "t", "other": "o"}
    for source, column, text in [
        ("govreport", None, "i"),
        ("govreport", "other", "i"),
        ("hub:x", None, "t"),
        ("hub:x", "other", "o"),
        ("hub:x?column=other", "text", "o"),
    ]:
        served(test=Split([row]))
        assert [text for _, text in pairs(source, column=column)] == [text]


def test_a_file_goes_before_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pg19").mkdir()
    (tmp_path / "pg19" / "a.txt").write_text("mine")
    assert pairs("pg19") == [("a.txt", "mine")]


def test_the_short_names_are_spelled_rightly():
    for name in hub.NAMED:
        one = hub.parse(name)
        assert (one.source, one.path.count("/"), one.column is None) == (name, 1, False)


@pytest.mark.parametrize("end", ["", "a/b/c", "a/b?rows=0", "a/b?rows=x", "a/b?row=1", "a/b?split="])
def test_a_hub_data_set_that_is_misspelled(end):
    assert "a hub data set is hub:owner/name?config=" in refused(f"hub:{end}")


def test_what_the_network_does(served, monkeypatch):
    served(test=Split([{"text": "a"}] * 9, fail_after=3))
    assert refused("pg19") == "pg19: not read from the hub: ConnectionError: connection lost"
    import datasets

    def offline(*arguments, **options):
        raise RuntimeError("Dataset scripts are no longer supported, but found a.py " + "x" * 900)

    monkeypatch.setattr(datasets, "load_dataset", offline)
    message = refused("hub:a/b")
    assert message.startswith("a/b: not read from the hub: RuntimeError: Dataset scripts are no longer")
    assert len(message) < 400


def test_lines_are_read_one_by_one(tmp_path, monkeypatch):
    """A file far larger than what is held: its third line is never parsed before the first is used."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 2 + "broken")
    lines = rows.json_rows(path)
    assert next(lines) == (1, {"text": "a"})
    assert next(lines)[0] == 2
    with pytest.raises(ValueError, match="line 3"):
        next(lines)

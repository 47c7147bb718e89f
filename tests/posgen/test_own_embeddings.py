"""Position embeddings of a user's own: found by name, tried before anything trains, refused in one line."""

import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.posgen.conftest import tiny_words

from resrope.posgen import cell as cells
from resrope.posgen.cell import run_cell
from resrope.posgen.embeddings import check_embedding, embedding
from resrope.posgen.model import Decoder
from resrope.posgen.positions import PositionEmbedding, when_tested
from resrope.posgen.record import Cell
from resrope.posgen.work import check_unchanged


class Steps(PositionEmbedding):
    """Of a user: a rotation that is learned."""

    def __init__(self, sizes):
        super().__init__(sizes)
        self.speed = torch.nn.Parameter(torch.rand(sizes.head_dim // 2))

    def rotation(self, positions):
        turns = torch.polar(torch.ones(()), positions[:, None] * self.speed)
        return turns, turns


def dict_of(sizes):
    return {}


class Wide(PositionEmbedding):
    def input(self, positions):
        return torch.zeros(len(positions), 3)


class One(PositionEmbedding):
    count = 1

    def rotation(self, positions):
        turns = torch.ones(len(positions), self.sizes.head_dim // 2, dtype=torch.complex64)
        return (turns,) * self.count if self.count > 1 else turns


class Three(One):
    count = 3


class Double(PositionEmbedding):
    def bias(self, positions):
        return torch.zeros(self.sizes.n_heads, len(positions), len(positions), dtype=torch.float64)


class Counted(PositionEmbedding):
    def input(self, positions):
        return torch.zeros(len(positions), self.sizes.d_model, dtype=torch.int64)


class Nowhere(PositionEmbedding):
    def positions(self, length, random):
        return None


class Flat(PositionEmbedding):
    def positions(self, length, random):
        return torch.arange(length)[None]


class Short(PositionEmbedding):
    """A table of as many rows as training has positions: the most natural of mistakes."""

    def __init__(self, sizes):
        super().__init__(sizes)
        self.rows = torch.nn.Parameter(torch.zeros(sizes.train_length, sizes.d_model))

    def input(self, positions):
        return self.rows[positions]


class Failing(PositionEmbedding):
    def __init__(self, sizes):
        raise RuntimeError("no\ntwo lines")


class Bare(PositionEmbedding):
    def __init__(self, sizes):
        pass


class Longer(PositionEmbedding):
    def positions(self, length, random):
        return torch.arange(length + 1)


class Leaving(PositionEmbedding):
    def bias(self, positions):
        sys.exit("gone")


class Idle(PositionEmbedding):
    def __init__(self, sizes):
        super().__init__(sizes)
        self.speed = torch.nn.Parameter(torch.rand(3))


class Steep(Idle):
    def input(self, positions):
        root = (0 * self.speed.sum()).abs().sqrt()
        return root.expand(len(positions), self.sizes.d_model)


class Hollow(PositionEmbedding):
    def __init__(self, sizes):
        self.speed = torch.nn.Parameter(torch.rand(3))


class Broken(PositionEmbedding):
    def bias(self, positions):
        return torch.full((self.sizes.n_heads, len(positions), len(positions)), math.nan)


class Masked(PositionEmbedding):
    """With a causal mask of its own, which is one too many."""

    def bias(self, positions):
        future = torch.full((len(positions), len(positions)), -math.inf).triu(1)
        future[0, -1] = math.nan
        return future.expand(self.sizes.n_heads, -1, -1)


class Drawn(PositionEmbedding):
    def bias(self, positions):
        return torch.rand(self.sizes.n_heads, len(positions), len(positions))


def test_what_stands_above_the_diagonal_does_not_count(tiny):
    check_embedding(f"{__name__}:Masked", tiny)
    model, ids = Decoder(tiny.model, seed=0), torch.arange(9)[None] % 17
    with torch.no_grad():
        masked, plain = (
            model(ids, when_tested(embedding(name, tiny, 0), 0)(9)) for name in (f"{__name__}:Masked", "none")
        )
    torch.testing.assert_close(masked, plain)


class Built(PositionEmbedding):
    def __init__(self, sizes):
        super().__init__(sizes)
        self.slope = np.random.default_rng().random()

    def bias(self, positions):
        return torch.full((self.sizes.n_heads, len(positions), len(positions)), self.slope)


def test_what_draws_outside_positions_is_refused(tiny):
    with pytest.raises(ValueError, match="Built must give the same for the same positions"):
        check_embedding(f"{__name__}:Built", tiny)
    with pytest.raises(ValueError, match="Drawn must give the same for the same positions"):
        check_embedding(f"{__name__}:Drawn", tiny)
    check_embedding("randomised-rope", tiny)


def test_a_class_that_was_changed_between_cells_or_starts_is_refused(tiny, tmp_path, monkeypatch):
    module = tmp_path / "mine_to_change.py"
    code = (
        "from resrope.posgen.positions import PositionEmbedding\nclass Mine(PositionEmbedding):\n    pass\n"
    )
    module.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    one, two = (Cell(task="cot", method="mine_to_change:Mine", seed=seed) for seed in (0, 1))

    def stop(*args):
        raise KeyboardInterrupt

    run_cell(tmp_path / "run", one, tiny)
    with monkeypatch.context() as patch:
        patch.setattr(cells, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            run_cell(tmp_path / "run", two, tiny)
    check_unchanged(tmp_path / "run", [two], tiny)
    module.write_text(code + "# changed\n")
    check_unchanged(tmp_path / "run", [two], tiny)  # what runs is still the code from before
    del sys.modules["mine_to_change"]
    with pytest.raises(ValueError, match=r"mine_to_change:Mine: its file was changed since .*seed0 was made"):
        check_unchanged(tmp_path / "run", [two], tiny)
    with pytest.raises(ValueError, match=r"its file was changed since .*checkpoint.safetensors was made"):
        run_cell(tmp_path / "run", two, tiny)


def test_a_users_own_even_a_learned_rotation(tiny, tmp_path):
    name = f"{__name__}:Steps"
    sys.modules.setdefault(__name__, sys.modules[Steps.__module__])
    work = cells.prepared(Cell(task="cot", method=name, seed=0), tiny)
    before = work.trainer.position.speed.detach().clone()
    list(work.trainer.losses(6))
    assert not torch.equal(work.trainer.position.speed, before)
    record = run_cell(tmp_path, Cell(task="cot", method=name, seed=0), tiny)
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    assert record["embedding"] == {"class": "Steps", "parameters": 4, "source": digest}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Wide", r":Wide, of 11 tokens: input must be torch.float32 \[11, 16\], got torch.float32 \[11, 3\]"),
        (
            "One",
            r":One, of 11 tokens: rotation must be two tensors, of queries .*, got torch.complex64 \[11, 4\]",
        ),
        (
            "Three",
            r":Three, of 11 tokens: rotation must be two tensors, of queries and of keys, got tuple of 3",
        ),
        (
            "Double",
            r":Double, .*: bias must be torch.float32 \[2, 11, 11\], got torch.float64 \[2, 11, 11\]",
        ),
        (
            "Counted",
            r":Counted, of 11 tokens: input must be torch.float32 \[11, 16\], got torch.int64 \[11, 16\]",
        ),
        ("Nowhere", r":Nowhere, of 11 tokens: positions must be a tensor \[seq\], got NoneType"),
        ("Flat", r":Flat, of 11 tokens: positions must be a tensor \[seq\], got torch.int64 \[1, 11\]"),
        ("Short", r":Short, of 23 tokens: IndexError: "),
        ("Failing", r":Failing, made of Sizes alone: RuntimeError: no two lines$"),
        ("Hollow", r":Hollow, made of Sizes alone: AttributeError: "),
        ("Bare", r":Bare: its __init__ must call super\(\).__init__\(sizes\)$"),
        ("Longer", r":Longer, of 11 tokens: positions must be \[11\], got \[12\]"),
        ("Leaving", r":Leaving, of 11 tokens: SystemExit: gone"),
        ("Idle", r":Idle, of 11 tokens: parameter speed has no gradient: every parameter must be used"),
        ("Steep", r":Steep, of 11 tokens: the gradient of parameter speed holds numbers that are not"),
        ("Broken", ":Broken, of 11 tokens: bias holds numbers that are not finite"),
        ("Nothing", "must name a class that can be imported: AttributeError: "),
        ("math", "must name a class, got <module"),
        ("dict_of", "must make a .*PositionEmbedding, got dict"),
    ],
)
def test_what_is_no_embedding_is_refused(name, words, tiny):
    with pytest.raises(ValueError, match=words) as caught:
        check_embedding(f"{__name__}:{name}", tiny)
    assert "\n" not in str(caught.value)


def test_nor_does_it_train(tiny, tmp_path):
    with pytest.raises(ValueError, match="Wide: input must be"):
        run_cell(tmp_path, Cell(task="cot", method=f"{__name__}:Wide", seed=0), tiny)
    assert not list(tmp_path.rglob("record.json"))


def test_unknown_names_list_what_there_is(tiny):
    with pytest.raises(
        ValueError, match=r"method must be one of rope, .*, none, .*p-rope, or module:Class, got 'rot'"
    ):
        embedding("rot", tiny, 0)
    with pytest.raises(ValueError, match="no_such_module:X, which must name a class that can be imported"):
        embedding("no_such_module:X", tiny, 0)


def test_a_plugin_is_found_by_its_entry_point(tiny, monkeypatch):
    from importlib.metadata import EntryPoint

    from resrope.posgen import embeddings

    def points(*, group, name="plugged"):
        assert group == "resrope.posgen_embeddings"
        return [EntryPoint("plugged", f"{__name__}:Steps", group)] if name == "plugged" else []

    monkeypatch.setattr(embeddings, "entry_points", points)
    assert isinstance(embedding("plugged", tiny, 0), Steps)
    with pytest.raises(ValueError, match="plugged, or module:Class"):
        embedding("pluged", tiny, 0)


class Unused(PositionEmbedding):
    def __init__(self, sizes):
        super().__init__(sizes)
        self.idle = torch.nn.Parameter(torch.ones(3))


def test_a_parameter_without_a_use_is_named(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"position.idle has no gradient: every parameter must be used"):
        run_cell(tmp_path, Cell(task="cot", method=f"{__name__}:Unused", seed=0), tiny)


@pytest.mark.parametrize("line", ["raise RuntimeError('no')", "nothing", "class", "raise OSError"])
def test_a_module_that_cannot_be_imported(line, tiny, tmp_path, monkeypatch):
    module = f"mine_that_fails_{abs(hash(line))}"
    (tmp_path / f"{module}.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"{module}:Mine, which must name a class that can be imported: "):
        embedding(f"{module}:Mine", tiny, 0)


@pytest.mark.parametrize("name", ["os:getcwd", "torch.nn:Linear", ".foo:Bar", "json:loads"])
def test_what_was_never_meant_as_one_is_one_line(name, tiny):
    with pytest.raises(ValueError, match=name):
        embedding(name, tiny, 0)


def test_the_worked_example_runs_as_it_is_written(tmp_path):
    """The class of docs/posgen.md, in a file of the folder one stands in."""
    docs = (Path(__file__).parents[2] / "docs" / "posgen.md").read_text(encoding="utf-8")
    (example,) = re.findall(
        r"```python\n(import torch\nfrom resrope.posgen.positions .*?)```", docs, re.DOTALL
    )
    (tmp_path / "mine.py").write_text(example)
    words = ["-m", "resrope", "posgen", "run", "--task", "cot", "--embedding", "mine:Window", "--out", "run"]
    done = subprocess.run(
        [sys.executable, *words, *tiny_words(epochs=1, looks=1), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["methods"] == ["mine:Window"]

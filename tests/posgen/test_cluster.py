import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tests.posgen.conftest import tiny_words
from typer.testing import CliRunner

from resrope.cli import app
from resrope.posgen.cell import run_cell
from resrope.posgen.cluster import check_cluster
from resrope.posgen.record import Cell

pytest.importorskip("ray")
# Two worker nodes of one processor each; one is taken away while both are at work. Every start leaves a file.
CLUSTER = """
import json, sys, threading, time, uuid
from pathlib import Path
from ray.cluster_utils import Cluster
from resrope.posgen import cluster as posgen
from resrope.posgen.record import Cell
from resrope.posgen.settings import Settings

def main():
    out, settings = Path(sys.argv[1]), Settings().override(json.loads(sys.argv[2]))
    cells = [Cell(task="cot", method=m, seed=s) for s in (0, 1) for m in ("rope", "alibi")]
    starts, work = Path(sys.argv[3]), posgen._work
    def noted(cell, settings):
        (starts / f"{cell.name}.{uuid.uuid4()}").touch()
        return work(cell, settings)
    posgen._work = noted
    there = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [there.add_node(num_cpus=1), there.add_node(num_cpus=1)]
    def lose():
        while len(list(starts.iterdir())) < 2:
            time.sleep(0.05)
        there.remove_node(nodes[1], allow_graceful=False)
    posgen.check_cluster(there.address)
    threading.Thread(target=lose).start()
    records = posgen.run_on_cluster(out, cells, settings, address=there.address)
    print(json.dumps([r["cell"] for r in records]))
    there.shutdown()

main()
"""


def test_a_cluster_that_loses_a_worker_in_the_middle(tiny, tmp_path):
    settings = tiny.override({"epochs": 60, "looks": 2})  # a few seconds a cell
    (tmp_path / "starts").mkdir()
    words = [
        sys.executable,
        "-c",
        CLUSTER,
        str(tmp_path / "run"),
        json.dumps(settings.to_dict()),
        str(tmp_path / "starts"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == 4
    assert len(list((tmp_path / "starts").iterdir())) == 5  # the lost worker's cell began again
    for cell in (Cell(**one) for one in told):
        home = json.loads((tmp_path / "run" / "cells" / cell.name / "record.json").read_text())
        alone = run_cell(tmp_path / "alone", cell, settings)
        assert home["last"] == json.loads(json.dumps(alone["last"]))
        assert (tmp_path / "run" / "cells" / cell.name / "best.safetensors").is_file()


MINE = """
import torch
from resrope.posgen.positions import PositionEmbedding
class Mine(PositionEmbedding):
    def input(self, positions):
        return torch.ones(len(positions), self.sizes.d_model)
"""


def test_the_command_and_a_users_own_module(tmp_path):
    """Workers start in a folder of their own: the module travels along."""
    (tmp_path / "mine.py").write_text(MINE)
    words = ["-m", "resrope", "posgen", "run", "--task", "cot", "--method", "mine:Mine", "--cluster", "local"]
    done = subprocess.run(
        [sys.executable, *words, *tiny_words(epochs=1, looks=1), "--out", "run", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["methods"] == ["mine:Mine"]
    record = json.loads((tmp_path / "run/cells/cot-mine.Mine-seed0/record.json").read_text())
    assert record["embedding"]["class"] == "Mine"


@pytest.mark.parametrize("dead", ["127.0.0.1:9", "ray://127.0.0.1:9", "ray://127.0.0.1", "auto"])
def test_nobody_listens(dead, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ValueError, match=f"no Ray cluster answers at {dead}: .*refused"):
        check_cluster(dead)


def test_something_else_listens(monkeypatch):
    monkeypatch.setattr("resrope.posgen.cluster._SECONDS", 1)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(
            ValueError, match=r"no Ray cluster answers at 127.0.0.1:.*: what listens there is no"
        ):
            check_cluster(f"127.0.0.1:{server.server_port}")
        server.shutdown()


def test_without_ray_or_a_cluster_nothing_is_begun(tmp_path, monkeypatch):
    words = [
        "posgen",
        "run",
        "--task",
        "cot",
        "--method",
        "rope",
        "--out",
        str(tmp_path / "run"),
        "--cluster",
    ]
    refused = CliRunner().invoke(app, [*words, "127.0.0.1:9"])
    monkeypatch.setitem(sys.modules, "ray", None)
    missing = CliRunner().invoke(app, [*words, "local"])
    assert (type(refused.exception), type(missing.exception)) == (ValueError, ImportError)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:9", "ray://no-such-host.invalid:9"])
def test_a_cluster_that_is_not_there_is_one_line(tmp_path, address):
    words = ["-m", "resrope", "posgen", "run", "--task", "cot", "--method", "rope", "--cluster", address]
    done = subprocess.run(
        [sys.executable, *words, "--out", str(tmp_path / "run")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: no Ray cluster answers at {address}: ")
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "run").glob("cells/*"))


def test_a_machine_without_memory_is_given_up_after_some_tries(tmp_path):
    words = ["-m", "resrope", "posgen", "run", "--task", "cot", "--method", "rope", "--cluster", "local"]
    full = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    done = subprocess.run(
        [sys.executable, *words, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | full,
    )
    assert done.returncode == 2, done.stderr[-3000:]
    assert "cot-rope-seed0: its worker died 4 times (OutOfMemoryError)" in done.stderr

"""The scripts of `results/` fail as the command does: one line, exit code 2, nothing written."""

import subprocess
import sys

import pytest
from tests.results.test_leaderboard import RESULTS


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["keep.py"], "error: Missing argument 'source'."),
        (
            ["keep.py", "nothing", "kept"],
            "error: nothing must be the folder of a run or of an audit; it has no run.json",
        ),
        (["keep.py", "--unpack", str(RESULTS / "quick"), "."], "error: . is there already"),
        (["echoes.py", "nothing"], "error: nothing must be a kept run: nothing must be the folder of a run"),
        (["attention.py", "runs/none"], "error: must be a cell's name, as cot-rope-seed0, got none"),
        (
            ["wavelengths.py", "nothing"],
            "error: nothing must be the folder of a run; it has no run.json",
        ),
        (["ladder.py", "nothing"], "error: nothing must hold an audit.json"),
        (["fine_tuned.py", "nothing"], "error: nothing: no seed was read with both"),
        (["gap_loss.py", str(RESULTS / "echoes.json")], "error: "),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, said):
    command = [sys.executable, str(RESULTS / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_is_what_a_file_says_at_its_head():
    command = [sys.executable, str(RESULTS / "apart.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Integers that come back least" in done.stdout
    assert "beam search" in done.stdout

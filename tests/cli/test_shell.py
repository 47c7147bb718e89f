import os
import re
import subprocess
import sys

import pytest

import resrope
from resrope.cli import main

RESROPE = [sys.executable, "-c", "from resrope.cli import main; main()"]


def call(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out, err = capsys.readouterr()
    return caught.value.code, out, err


@pytest.mark.parametrize(
    "command",
    [
        *([], ["inspect"], ["extend"], ["verify"], ["doctor"], ["posgen"]),
        *(["posgen", c] for c in ("generate", "show", "run", "report")),
    ],
)
def test_help_has_an_example(capsys, command):
    code, out, _ = call(capsys, *command, "--help")
    assert code == 0
    assert "Usage:" in out
    if command not in ([], ["posgen"]):
        assert "Example:" in out


def test_version(capsys):
    assert call(capsys, "--version") == (0, f"resrope {resrope.__version__}\n", "")


def test_version_is_the_packages():
    from importlib.metadata import version

    assert version("resrope") == resrope.__version__


def test_help_is_fast_and_needs_no_torch():
    """Best of five, of a processor and with the interpreter's own start: a busy machine must not decide."""
    code = (
        "import sys, time; sys.argv = ['resrope', '--help']\ntry:\n    from resrope.cli import main; main()\n"
    )
    code += "finally:\n    assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)\n"
    code += "    print(time.process_time(), file=sys.stderr)"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True) for _ in range(5)]
    assert min(float(run.stderr) for run in runs) < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nonsense", "No such command 'nonsense'"),
        ("inspect --no-such-option", "No such option: --no-such-option"),
        ("inspect", "inspect needs a model or --head-dim, got neither"),
        ("inspect --head-dim 63 --train-length 64", "head_dim must be even (features are pairs), got 63"),
        ("inspect --head-dim 64", "--train-length must be given"),
        ("inspect --head-dim 64 --train-length 64 --test-length 64", "train_length must be shorter than"),
        ("inspect --head-dim 64 --method yarn --factor 4", "--original-length must be given with yarn"),
        ("inspect --head-dim 64 --train-length 64 --method yran", "unknown method 'yran'; there are rope"),
        ("inspect --head-dim 64 --method yarn --factor 0.5 --original-length 64", "factor must be a finite"),
        (
            "inspect --head-dim 64 --method yarn --factor 2 --original-length 64 --set beta_fast=1",
            "beta_fast must be a finite number > 1 (above beta_slow), got 1",
        ),
        (
            "inspect --head-dim 64 --method yarn --factor 2 --train-length 9 --set beta=1",
            "does not take beta",
        ),
        ("inspect --head-dim 64 --train-length 64 --factor 2", "factor must come with --method"),
        ("inspect --head-dim 64 --train-length 64 --set x", "--set takes name=value, got 'x'"),
        ("inspect no/such/model", "no/such/model: no such file or folder"),
        (
            "inspect no/such/model --head-dim 64",
            "--head-dim and --rope-theta describe a method without a model",
        ),
        ("posgen run", "Missing option '--out'"),
        ("posgen run --out OUT --preset fast", "unknown preset 'fast'; there are quick, small, paper"),
        (
            "posgen run --out OUT --task maths",
            "task must be one of recursive, cot, semi-recursive, got 'maths'",
        ),
        ("posgen run --out OUT --method rotary", "method must be one of rope"),
        ("posgen run --out OUT --seeds one", "--seeds takes integers >= 0"),
        ("posgen run --out OUT --set epoch=1", "unknown setting 'epoch'"),
        ("posgen run --out OUT --set modulus=3", "prefixes exist, fewer than the 12000 sequences asked for"),
        ("posgen run --out OUT --jobs 0", "jobs must be >= 1, got 0"),
        ("posgen run --out OUT --seeds 99999999999", "--seeds takes integers >= 0 and < 2^31"),
        ("posgen run --out OUT --seeds=", "--seeds takes integers"),
        ("posgen run --out OUT --task=", "--task takes names with commas between"),
        ("posgen run --out OUT --set k=10000000", "k must be an integer >= 1 and <= 1000"),
        ("posgen run --out OUT --set d_model=1000000000", "d_model must be an integer >= 1 and <= 65536"),
        ("posgen run --out OUT --method ntk --set rope_theta=1e308 --set factor=1e10", "within float64"),
        (
            "posgen generate --task cot --out OUT --set test_length=1000000000",
            "test_length must be an integer",
        ),
        ("posgen show --position 50000000", "position must be an integer >= 0 and <= 10000"),
        ("inspect --head-dim 2000000000 --train-length 9", "head_dim must be an integer >= 2 and <= 65536"),
        ("inspect --head-dim 64 --train-length 4096 --test-length 1000000000000", "test_length must be an"),
        ("inspect --head-dim 64 --train-length 0", "train_length must be"),
        ("inspect --head-dim 64 --train-length 9 --test-length 0", "train_length must be shorter"),
        ("inspect --head-dim 64 --train-length 9 --feature 3", "--feature goes with --plot"),
        ("inspect --head-dim 64 --train-length 9 --method linear --factor 2 --set factor=4", "given twice"),
        (
            "inspect --head-dim 64 --train-length 9 --method linear --factor 2 "
            "--set original_max_position_embeddings=9",
            "Linear does not take original_max_position_embeddings",
        ),
        ("inspect --head-dim 64 --train-length 9 --plot no/such/folder.png", "No such folder: no/such"),
        ("posgen report OUT", "must be the folder of a run"),
        ("posgen generate --task cot --out OUT --set modulus=5", "5 ** 4 = 625 prefixes exist, fewer than"),
        ("posgen generate --task cot --out OUT --seed -1", "seed must be >= 0, got -1"),
        ("posgen show --position 3", "position must be >= j+k = 4"),
        ("posgen show --prefix 1,2", "prefixes must have shape [n, j+k = 4], got (1, 2)"),
        ("posgen show --prefix a,b", "--prefix takes integers >= 0"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(capsys, tmp_path, arguments, message):
    out = tmp_path / "out"
    code, stdout, stderr = call(capsys, *(str(out) if a == "OUT" else a for a in arguments.split()))
    assert code == 2
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert message in stderr
    assert not out.exists()


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
@pytest.mark.parametrize("command", ["posgen generate --task cot", "posgen run --task cot --method rope"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, command):
    """A file size limit of 1.5 KiB stands in for a disk that fills up in the middle of a write."""
    import resource

    small = "train_rows=200 validation_rows=20 test_rows=20 train_length=12 test_length=24".split()
    small += ["d_model=16", "epochs=1"] if "run" in command else []
    arguments = [*command.split(), "--out", str(tmp_path / "out"), *(p for s in small for p in ("--set", s))]
    done = subprocess.run(
        [*RESROPE, *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1536, 1536)),
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*File too large.*", done.stderr.strip().splitlines()[-1])
    assert "Traceback" not in done.stderr
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.name not in ("run.json", ".lock")]
    assert left == []


@pytest.mark.parametrize("command", [[], ["posgen"]])
def test_no_command_prints_the_help_alone(capsys, command):
    code, out, err = call(capsys, *command)
    assert code == 2
    assert "Usage:" in out
    assert err == ""


def test_too_large_for_memory_is_one_line(capsys, monkeypatch):
    import resrope.posgen.show

    def allocate(*args, **kwargs):
        raise MemoryError("Unable to allocate 93.1 GiB")

    monkeypatch.setattr(resrope.posgen.show, "example", allocate)
    code, _, err = call(capsys, "posgen", "show")
    assert (code, err) == (2, "error: not enough memory for what was asked: Unable to allocate 93.1 GiB\n")


def test_interrupting_says_how_to_go_on(capsys, monkeypatch):
    import resrope.posgen.show

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(resrope.posgen.show, "example", interrupt)
    code, _, err = call(capsys, "posgen", "show")
    assert (code, err) == (130, "interrupted; run the same command again to go on\n")


def test_our_own_defects_keep_their_traceback(monkeypatch):
    import resrope.posgen.show

    def broken(*args, **kwargs):
        raise AssertionError("a defect")

    monkeypatch.setattr(resrope.posgen.show, "example", broken)
    with pytest.raises(AssertionError, match="a defect"):
        main(["posgen", "show"])


@pytest.mark.parametrize("cls", [RuntimeError, type("OutOfMemoryError", (RuntimeError,), {})])
def test_running_out_of_memory_is_one_line(cls, capsys, monkeypatch):
    import resrope.posgen.show

    def too_much(*args, **kwargs):
        raise cls("[enforce fail] DefaultCPUAllocator: can't allocate memory\nand a stack")

    monkeypatch.setattr(resrope.posgen.show, "example", too_much)
    code, _, err = call(capsys, "posgen", "show")
    assert (code, err.count("\n")) == (2, 1)
    assert "not enough memory" in err


def test_another_runtime_error_keeps_its_traceback(monkeypatch):
    import resrope.posgen.show

    def broken(*args, **kwargs):
        raise RuntimeError("a defect")

    monkeypatch.setattr(resrope.posgen.show, "example", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["posgen", "show"])


def test_a_missing_extra_names_its_install(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = call(capsys, "posgen", "run", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "pip install 'resrope[posgen]'" in err
    assert not (tmp_path / "out").exists()

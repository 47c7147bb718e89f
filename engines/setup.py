"""One virtual environment per engine under `.venv-engines/`, pinned; standard library only.

    python engines/setup.py                 # all of them, what is there already is left alone
    python engines/setup.py llamacpp mlx    # these

None of them holds resrope: an engine gets a written folder or GGUF file and nothing else. llama.cpp is
compiled from llama-cpp-python's source package, about ten minutes on one core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv-engines"
_TORCH = "torch==2.13.0"

PINS: dict[str, tuple[str, ...]] = {
    "tf4": (_TORCH, "transformers==4.57.6"),
    "tf5": (_TORCH, "transformers==5.23.0"),
    "onnx": (_TORCH, "transformers==5.23.0", "onnx==1.23.2", "onnxruntime==1.32.0", "onnxscript==0.7.2"),
    "mlx": ("mlx-lm==0.32.2", "mlx[cpu]==0.32.4"),
    "llamacpp": ("llama-cpp-python==0.3.36", "numpy>=2"),
}


def python(name: str) -> Path:
    """The interpreter of one environment; it need not exist yet."""
    return HOME / name / "bin" / "python"


def ready(name: str) -> bool:
    """Whether the environment holds what ``PINS`` says."""
    stamp = HOME / name / "ready"
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == _wanted(name)


def make(name: str) -> None:
    """Make or remake one environment.

    Raises ValueError on an unknown name, CalledProcessError when pip fails.
    """
    if name not in PINS:
        raise ValueError(f"environments are {', '.join(PINS)}, got {name!r}")
    if ready(name):
        return
    print(f"{HOME.name}/{name}: {', '.join(PINS[name])}", flush=True)
    (HOME / name / "ready").unlink(missing_ok=True)
    venv.EnvBuilder(with_pip=True, clear=True).create(HOME / name)
    jobs = str(os.cpu_count() or 1)
    # The project's own variables would reach into the new environment.
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    command = [
        str(python(name)),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *PINS[name],
    ]
    subprocess.run(command, check=True, env={**inherited, "CMAKE_BUILD_PARALLEL_LEVEL": jobs})
    (HOME / name / "ready").write_text(_wanted(name), encoding="utf-8")


def _wanted(name: str) -> str:
    return "\n".join((sys.version, *PINS[name])) + "\n"


def main(names: list[str]) -> int:
    """Make the named environments, all of them where none is named; 2 on a user's mistake."""
    try:
        for name in names or PINS:
            make(name)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"error: pip failed with status {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

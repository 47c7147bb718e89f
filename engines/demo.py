"""`make demo-extend`: SmolLM2 made four times as long with Resonance YaRN, and run without resrope.

Writes runs/demo-extend and checks it; then a fresh process that cannot import resrope generates from it.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

_OUT = Path(__file__).resolve().parent.parent / "runs" / "demo-extend"
_METHOD = "resonance-yarn"
_FACTOR = 4
_PROMPT = "The Moon goes around the Earth, and the Earth goes around the Sun. From this it follows that"
_WITHOUT_RESROPE = """
import sys
sys.modules["resrope"] = None  # any import of it now fails
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
given = tokenizer(prompt, return_tensors="pt")
made = model.generate(**given, max_new_tokens=32, do_sample=False)
print(model.config.max_position_embeddings, "positions:", tokenizer.decode(made[0], skip_special_tokens=True))
"""


def main() -> int:
    """Extend, verify, generate; the exit code of the first step that fails."""
    command = str(Path(sys.executable).with_name("resrope"))
    # The demo may be run again; extend itself never overwrites.
    shutil.rmtree(_OUT, ignore_errors=True)
    _OUT.parent.mkdir(parents=True, exist_ok=True)
    extend = ["extend", "smollm2", str(_OUT), "--method", _METHOD, "--factor", str(_FACTOR)]
    for arguments in (extend, ["verify", str(_OUT)]):
        print(f"$ resrope {shlex.join(arguments)}", flush=True)
        done = subprocess.run([command, *arguments])
        if done.returncode:
            return done.returncode
    print("$ python  # transformers alone, resrope cannot be imported", flush=True)
    return subprocess.run([sys.executable, "-I", "-c", _WITHOUT_RESROPE, str(_OUT), _PROMPT]).returncode


if __name__ == "__main__":
    sys.exit(main())

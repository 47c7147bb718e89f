import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resrope
from resrope.cli import main

SMALL = ["inspect", "--head-dim", "64", "--train-length", "64", "--test-length", "128"]


def output(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert (caught.value.code, err) == (0, "")
    return out


def test_the_papers_figure_1(capsys):
    """θ_6 of the PosGen model, 64 → 128: a gap without Resonance, none with it."""
    data = json.loads(output(capsys, *SMALL, "--json"))
    six = data["features"][6]
    assert six["wavelength"] == pytest.approx(2 * math.pi * 10000 ** (12 / 64))
    assert six["resonant"] == 35
    assert six["gap_before"] > 0.01
    assert six["gap_after"] == 0.0
    assert data["totals"]["pre_critical"] == 9
    assert data["totals"]["pre_critical_max_gap_after"] == 0.0


def test_llama_2(capsys):
    arguments = "inspect --head-dim 128 --train-length 4096 --test-length 8192 --json".split()
    totals = json.loads(output(capsys, *arguments))["totals"]
    assert (totals["features"], totals["pre_critical"]) == (64, 46)
    assert f"{totals['common_period']:.3e}" == "7.058e+51"


def test_the_table_for_people(capsys):
    out = output(capsys, *SMALL, "--method", "yarn", "--factor", "2")
    assert "yarn, head_dim 64, rope_theta 10000, 64 → 128 tokens" in out
    assert sum(line.split()[:1] == [str(j)] for j in range(32) for line in out.splitlines()) == 32
    assert "pre-critical: " in out
    assert f"attention factor: {0.1 * math.log(2) + 1:.6g}" in out


def test_lengths_follow_from_the_method(capsys):
    out = output(
        capsys, *"inspect --head-dim 64 --method linear --factor 4 --original-length 64 --json".split()
    )
    data = json.loads(out)
    assert (data["train_length"], data["test_length"]) == (64, 256)
    out = output(
        capsys, *"inspect --head-dim 64 --method dynamic-ntk --factor 1 --original-length 64 --json".split()
    )
    assert json.loads(out)["test_length"] == 128


def test_a_config_with_layer_types(capsys, tmp_path):
    config = {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "max_position_embeddings": 128,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    data = json.loads(output(capsys, "inspect", str(tmp_path), "--json"))
    assert [d["layer_type"] for d in data] == ["full_attention", "sliding_attention"]
    assert data[0]["method"] == "linear"
    spec = resrope.RopeSpec.from_dict(data[0]["spec"])
    assert spec.scaling == resrope.Linear(factor=8.0)
    changed = json.loads(
        output(capsys, "inspect", str(tmp_path), "--method", "resonance-yarn", "--factor", "2", "--json")
    )
    assert changed[1]["spec"]["scaling"]["original_max_position_embeddings"] == 128


def test_plot(capsys, tmp_path):
    picture = tmp_path / "gap.png"
    assert f"picture: {picture}" in output(capsys, *SMALL, "--plot", str(picture), "--feature", "3")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        main([*SMALL, "--plot", str(tmp_path / "b.png"), "--feature", "99"])
    assert "feature must be in 0 … 31, got 99" in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists()


numbers = st.one_of(
    st.integers(-5, 300).map(str),
    st.floats(width=32).map(str),
    st.sampled_from(["", "x", "1e400", "0x10", "NaN"]),
)
flags = st.sampled_from(
    [
        "--head-dim",
        "--rope-theta",
        "--factor",
        "--original-length",
        "--train-length",
        "--test-length",
        "--feature",
    ]
)
methods = st.one_of(st.sampled_from(resrope.methods()), st.text(max_size=5))
pairs = st.sampled_from(
    ["beta_fast=2", "seq_len=9", "rope_theta=5", "short_factor=[1]", "x", "=1", "truncate=no"]
)


@given(
    options=st.dictionaries(flags, numbers, max_size=5),
    name=st.none() | methods,
    sets=st.lists(pairs, max_size=2),
    head_dim=st.booleans(),
)
@settings(max_examples=150)
def test_no_arguments_reach_a_traceback(options, name, sets, head_dim):
    """Exit code 0 or 2; any other exception than SystemExit fails the test."""
    if head_dim:
        options = {"--head-dim": "16", "--train-length": "32"} | options
    arguments = [part for pair in options.items() for part in pair] + [p for s in sets for p in ("--set", s)]
    arguments += ["--method", name] if name is not None else []
    with pytest.raises(SystemExit) as caught:
        main(["inspect", "--json", *arguments])
    assert caught.value.code in (0, 2)

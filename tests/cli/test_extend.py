import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from resrope.cli import main

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.ones(32, 32)}, folder / "model.safetensors")
    return folder


def call(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as caught:
        main(["extend", *map(str, arguments)])
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_help_has_examples_and_names_every_engine(capsys):
    from resrope.export.engines import TARGETS

    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert out.count("Example:") == 2
    assert all(name in out for name in TARGETS)


def test_prints_what_changed_and_what_comes_next(capsys, model, tmp_path):
    out = tmp_path / "a name"
    code, text, err = call(capsys, model, out, "--method", "resonance-yarn", "--factor", 4, "--link")
    assert (code, err) == (0, "")
    assert "resonance-yarn, trained on 64, now 256 tokens" in text
    assert "resonant" in text
    assert "1 → 1.13863" in text
    assert "hard links to the source: model.safetensors" in text
    assert f"check it: resrope verify '{out}'\n" in text
    assert f"pipeline as p; print(p('text-generation', '{out}')('Once'))" in text


def test_json_is_the_report(capsys, model, tmp_path):
    code, text, _ = call(
        capsys, model, tmp_path / "out", *"--method yarn --length 128 --fold-attention --json".split()
    )
    report = json.loads(text)
    assert code == 0
    assert (report["length"], report["folded"], report["spelling"]) == (128, True, "native")
    assert report["files"] == ["README.md", "config.json", "model.safetensors"]


def test_options_reach_the_method(capsys, model, tmp_path):
    options = "--method yarn --factor 2 --original-length 32 --set beta_fast=8 --json".split()
    _, text, _ = call(capsys, model, tmp_path / "out", *options)
    assert json.loads(text)["linked"] == []
    written = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert (written["beta_fast"], written["original_max_position_embeddings"]) == (8.0, 32)
    again = "--method linear --factor 2 --layers default --replace --json".split()
    _, text, _ = call(capsys, tmp_path / "out", tmp_path / "again", *again)
    assert json.loads(text)["length"] == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--factor 4", "Missing option '--method'"),
        ("--method yarm --factor 4", "unknown method 'yarm'"),
        (
            "--method yarn --factor 4 --engine tgi",
            "engine must be one of transformers, vllm, sglang, mlx, gguf",
        ),
        ("--method yarn", "factor"),
        ("--method yarn --factor 4 --set factor=2", "factor is given twice: 4.0 and --set factor=2"),
        ("--method yarn --factor 4 --set link=true", "--set takes parameters of the method, link is none"),
        ("--method yarn --factor 4 --set out=x", "--set takes parameters of the method, out is none"),
        ("--method yarn --factor 4 --set beta=2", "does not take beta"),
        ("--method yarn --factor 4 --layers=", "--layers takes names"),
        ("--method dynamic-ntk", "--length"),
        ("--method yarn --factor 4 --engine gguf", "must end in .gguf"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(capsys, model, tmp_path, options, message):
    code, out, err = call(capsys, model, tmp_path / "out", *options.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(("patience", "shown"), [(60.0, False), (-1.0, True)])
def test_a_bar_appears_only_where_it_takes_a_while(capsys, monkeypatch, patience, shown):
    import resrope.cli.extend as module
    import resrope.cli.output

    monkeypatch.setattr(resrope.cli.output, "console", lambda: Console(force_terminal=True, width=100))
    monkeypatch.setattr(module, "_PATIENCE", patience)
    with module._bar(quiet=False) as tell:
        tell(5_000_000, 10_000_000)
        tell(10_000_000, 10_000_000)
    assert ("10.0/10.0 MB" in capsys.readouterr().out) == shown

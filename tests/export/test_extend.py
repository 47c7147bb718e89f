import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from resrope import frequencies
from resrope.export import extend as module
from resrope.export.extend import extend
from resrope.models import read_config, rope_from_config
from resrope.models.engines import ENGINES

SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CASES = {
    "llama": {},
    "qwen2": {},
    "gemma3_text": {"head_dim": 32, "sliding_window": 8, "sliding_window_pattern": 2},
    "phi3": {},
    "gpt_neox": {"rotary_pct": 0.5},
    "mixtral": {"num_local_experts": 2},
}
METHODS = ["resonance-yarn", "yarn", "ntk", "resonance-linear"]
TOKENS = torch.arange(200)[None] * 7 % 61 + 3


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of small random models, by model type."""
    made = {}

    def folder(kind):
        if kind not in made:
            torch.manual_seed(0)
            config = AutoConfig.for_model(kind, **{**SMALL, **CASES[kind]})
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(0.1 * torch.randn(parameter.shape) + (parameter.dim() == 1))
            made[kind] = tmp_path_factory.mktemp(kind) / "model"
            model.save_pretrained(made[kind])
        return made[kind]

    return folder


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype="float32").eval()


@torch.no_grad()
def logits(model):
    return model(TOKENS).logits


def set_by_hand(model, tables):
    """Put frequencies and attention factors into the rotary buffers of a loaded model."""
    rotary = next(m for name, m in model.named_modules() if name.endswith("rotary_emb"))
    for layer, table in tables.items():
        prefix = "" if layer == "default" else f"{layer}_"
        getattr(rotary, f"{prefix}inv_freq").copy_(torch.tensor(table.inv_freq))
        setattr(rotary, f"{prefix}attention_scaling", table.attention_factor)
    return model


def tables_of(folder):
    """By the config's own record, in float64."""
    return {layer: frequencies(spec) for layer, spec in read_config(folder).specs.items()}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", CASES)
def test_stock_transformers_rotates_with_the_table(models, tmp_path, kind, name):
    source = models(kind)
    report = extend(source, tmp_path / "out", name, factor=4.0)
    plain = logits(loaded(source))
    wanted = logits(set_by_hand(loaded(source), tables_of(tmp_path / "out")))
    got = logits(loaded(tmp_path / "out"))
    assert float((wanted - plain).abs().max()) > 1e-3
    assert float((got - wanted).abs().max()) <= 1e-5
    assert report.length == 256
    assert json.loads((tmp_path / "out" / "config.json").read_text())["max_position_embeddings"] == 256


def test_the_table_is_the_method_on_the_models_own(models, tmp_path):
    """By hand: YaRN's longest wavelength is four times the model's; all are whole."""
    report = extend(models("llama"), tmp_path / "out", "resonance-yarn", factor=4.0)
    table = tables_of(tmp_path / "out")["default"]
    last = 2 * torch.pi * 10_000 ** (14 / 16)
    assert table.periods[-1] == round(4 * last)
    (layer,) = report.layers
    assert layer.longest == pytest.approx((last, round(4 * last)))
    assert layer.attention_factor == pytest.approx((1.0, 1.1386294))
    assert (layer.features, layer.changed, layer.resonant) == (8, 8, True)


def test_layers_with_a_window_keep_their_table(models, tmp_path):
    report = extend(models("gemma3_text"), tmp_path / "out", "resonance-linear", factor=4.0)
    changed = {layer.layer: layer.changed for layer in report.layers}
    assert changed == {"full_attention": 16, "sliding_attention": 0}
    before, after = (
        read_config(f).specs["sliding_attention"] for f in (models("gemma3_text"), tmp_path / "out")
    )
    assert before == after


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "phi3"])
def test_mlx_gets_the_attention_factor_in_the_weights(models, tmp_path, kind):
    source = models(kind)
    assert extend(source, tmp_path / "out", "resonance-yarn", factor=4.0, engine="mlx").folded
    report = extend(source, tmp_path / "other", "resonance-yarn", factor=4.0)
    assert not report.folded
    one, other = (logits(loaded(tmp_path / name)) for name in ("out", "other"))
    assert float((one - other).abs().max()) <= 1e-4
    reading = ENGINES["mlx"](json.loads((tmp_path / "out" / "config.json").read_text()))
    assert {table.attention_factor for table in reading.tables.values()} == {1.0}


def test_fold_can_be_asked_for_and_forbidden(models, tmp_path):
    given = {"name": "yarn", "factor": 4.0}
    report = extend(models("llama"), tmp_path / "out", fold=True, **given)
    assert report.folded
    assert report.linked == ()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_parameters"]["attention_factor"] == 1.0
    with pytest.raises(ValueError, match="use this table"):
        extend(models("phi3"), tmp_path / "not", fold=False, engine="mlx", **given)
    report = extend(models("llama"), tmp_path / "plain", "linear", factor=4.0, fold=True)
    assert not report.folded  # nothing to fold: the factor is 1


def test_vllm_and_sglang_get_the_factor_under_their_names(models, tmp_path):
    for engine in ("vllm", "sglang"):
        extend(models("llama"), tmp_path / engine, "resonance-yarn", factor=4.0, engine=engine)
        config = json.loads((tmp_path / engine / "config.json").read_text())
        assert config["rope_parameters"]["short_mscale"] == pytest.approx(1.1386294)
        (table,) = ENGINES[engine](config).tables.values()
        assert table.attention_factor == pytest.approx(1.1386294)


def test_extending_again_goes_on_from_the_record(models, tmp_path):
    extend(models("llama"), tmp_path / "one", "yarn", factor=4.0)
    report = extend(tmp_path / "one", tmp_path / "two", "resonance-yarn")
    assert (report.original_length, report.length) == (64, 256)
    text = (tmp_path / "two" / "README.md").read_text()
    assert text.count("## Extended context") == 1
    assert "resonance-yarn, factor 4" in text
    assert "256 tokens, trained on 64" in text


def test_a_factor_in_the_weights_is_not_multiplied_twice(models, tmp_path, monkeypatch):
    extend(models("llama"), tmp_path / "one", "yarn", factor=4.0, fold=True)
    with pytest.raises(ValueError, match=r"weights already hold an attention factor of 1\.13863"):
        extend(tmp_path / "one", tmp_path / "two", "yarn", factor=2.0, replace_scaling=True)
    extend(tmp_path / "one", tmp_path / "two", "resonance-yarn")
    record = json.loads((tmp_path / "two" / "config.json").read_text())["resrope"]
    assert record["folded_attention_factor"] == pytest.approx(1.138629436)
    assert record["specs"]["default"]["scaling"]["attention_factor"] == 1.0, "on top of the weights' own"


def test_gguf_goes_to_the_writers_with_the_table(models, tmp_path, monkeypatch):
    import resrope.export.convert
    import resrope.export.gguf

    calls = []
    monkeypatch.setattr(resrope.export.convert, "convert", lambda *a, **k: calls.append(("convert", *a, k)))
    monkeypatch.setattr(resrope.export.gguf, "write_gguf", lambda *a, **k: calls.append(("write", *a, k)))
    out = tmp_path / "out.gguf"
    report = extend(models("llama"), out, "resonance-yarn", factor=4.0, engine="gguf", fold=True)
    assert report.files == ("out.gguf",)
    name, folder, target, given = calls.pop()
    assert (name, folder, target) == ("convert", models("llama"), out)
    assert given["fold"] is True
    assert given["length"] == 256
    assert given["table"].attention_factor == pytest.approx(1.1386294)
    assert given["provenance"]["folded_attention_factor"] == given["table"].attention_factor
    source = tmp_path / "in.gguf"
    source.write_bytes(b"GGUF")
    monkeypatch.setattr(module, "read_config", lambda _: rope_from_config({"model_type": "llama", **SMALL}))
    extend(source, out, "yarn", factor=2.0, engine="gguf")
    name, path, target, given = calls.pop()
    assert (name, path, target, given["length"], given["fold"]) == ("write", source, out, 128, False)


def folder_with(tmp_path, models, config, kind="llama"):
    folder = tmp_path / "changed"
    shutil.copytree(models(kind), folder)
    own = json.loads((folder / "config.json").read_text()) if "n_positions" not in config else {}
    (folder / "config.json").write_text(json.dumps({**own, **config}))
    return folder


YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "rope_theta": 10_000.0}
SCALED = {"rope_parameters": YARN}
QUANTISED = {"quantization_config": {"quant_method": "gptq", "bits": 4}}


@pytest.mark.parametrize(
    ("config", "name", "given", "message"),
    [
        ({"model_type": "gpt2", "n_positions": 64}, "yarn", {"factor": 4.0}, "no rotary position embedding"),
        ({"model_type": "bert", "n_positions": 64}, "yarn", {"factor": 4.0}, "no rotary position embedding"),
        ({}, "yarm", {"factor": 4.0}, "unknown method 'yarm'"),
        ({}, "yarn", {"factor": 4.0, "engine": "tgi"}, "engine must be one of transformers, vllm, sglang"),
        ({}, "yarn", {"factor": 0.5}, "factor must be a finite number >= 1"),
        ({}, "yarn", {"factor": 4.0, "length": 100}, "factor · original_max_position_embeddings must be len"),
        ({}, "yarn", {"factor": 4.0, "layers": ("sliding",)}, "layers must be among default, got sliding"),
        ({}, "dynamic-ntk", {}, r"depends on the running length.*--length"),
        (SCALED, "yarn", {"factor": 4.0}, r"already has yarn \(factor 2.*--replace"),
        (SCALED, "linear", {"factor": 4.0}, r"which linear would drop.*--replace"),
        (QUANTISED, "yarn", {"factor": 4.0, "fold": True}, "cannot be folded .*: the weights are quantised"),
        (
            QUANTISED,
            "resonance-yarn",
            {"factor": 4.0, "engine": "mlx"},
            "nor can .* the weights are quantised",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(models, tmp_path, config, name, given, message):
    folder = folder_with(tmp_path, models, config)
    with pytest.raises(ValueError, match=message) as error:
        extend(folder, tmp_path / "out", name, **given)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["changed"]


def test_quantised_weights_can_be_linked(models, tmp_path):
    folder = folder_with(tmp_path, models, QUANTISED)
    report = extend(folder, tmp_path / "out", "resonance-yarn", factor=4.0, link=True)
    assert report.linked == ("model.safetensors",)


def test_replace_drops_the_models_own_scaling(models, tmp_path):
    folder = folder_with(tmp_path, models, SCALED)
    report = extend(folder, tmp_path / "out", "linear", factor=4.0, replace_scaling=True)
    assert (report.original_length, report.length) == (32, 128)


def test_dynamic_ntk_is_written_for_one_length(models, tmp_path):
    extend(models("llama"), tmp_path / "out", "dynamic-ntk", length=256)
    assert tables_of(tmp_path / "out")["default"].wavelengths[-1] == pytest.approx(
        2 * torch.pi * 10_000 ** (14 / 16) * 4
    )


def test_an_engine_that_ignores_the_scaling_is_refused_with_its_reason(models, tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model("gemma2", **SMALL, head_dim=32)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"no config makes mlx use this table.*gemma2"):
        extend(tmp_path / "model", tmp_path / "out", "resonance-yarn", factor=4.0, engine="mlx")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("remove", "message"),
    [("config.json", "the folder holds no config.json"), ("model.safetensors", "no weights")],
)
def test_an_incomplete_folder(models, tmp_path, remove, message):
    folder = folder_with(tmp_path, models, {})
    (folder / remove).unlink()
    with pytest.raises(ValueError, match=message):
        extend(folder, tmp_path / "out", "yarn", factor=4.0)


def test_names_of_source_and_out_are_checked(models, tmp_path):
    given = {"name": "yarn", "factor": 4.0}
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there: already there"):
        extend(models("llama"), tmp_path / "there", **given)
    with pytest.raises(ValueError, match=r"must end in .gguf, got .*out"):
        extend(models("llama"), tmp_path / "out", engine="gguf", **given)
    with pytest.raises(ValueError, match=r"writes a folder, got .*--engine gguf"):
        extend(models("llama"), tmp_path / "out.gguf", **given)
    with pytest.raises(ValueError, match="no such file or folder"):
        extend(tmp_path / "nothing", tmp_path / "out", **given)
    with pytest.raises(ValueError, match="extend needs the weights too"):
        extend(models("llama") / "config.json", tmp_path / "out", **given)
    with pytest.raises(ValueError, match="one table, the model has one for each of full_attention, sliding"):
        extend(models("gemma3_text"), tmp_path / "out.gguf", engine="gguf", **given)


def test_no_space(models, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OSError, match="No space left"):
        extend(models("llama"), tmp_path / "out", "yarn", factor=4.0)
    assert list(tmp_path.iterdir()) == []


def test_a_gguf_source_becomes_a_folder_of_float32(models, tmp_path, monkeypatch):
    """A stand-in for transformers' loader; the real one on SmolLM2 takes half a minute."""
    import resrope.export.dequantise

    (tmp_path / "in.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(
        module, "read_config", lambda source: rope_from_config({"model_type": "llama", **SMALL})
    )
    monkeypatch.setattr(
        resrope.export.dequantise,
        "from_gguf",
        lambda source, folder: shutil.copytree(models("llama"), folder),
    )
    report = extend(tmp_path / "in.gguf", tmp_path / "out", "yarn", factor=4.0)
    assert "model.safetensors" in report.files
    assert report.linked == ()
    loaded(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.gguf", "out"]


def test_transformers_4_decides_between_spellings(tmp_path):
    """Its OLMo 3 has one rope_theta for all layers, so that a larger one would reach those with a window."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("olmo3", **{**SMALL, "num_hidden_layers": 4}, sliding_window=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    report = extend(tmp_path / "model", tmp_path / "out", "ntk", factor=4.0)
    assert (report.spelling, report.caveat) == ("longrope", None)


def test_what_transformers_4_would_not_load_is_told(models, tmp_path):
    report = extend(models("phi3"), tmp_path / "out", "yarn", factor=4.0)
    assert report.caveat.startswith("transformers-4 would not use this table: ")


def test_what_resrope_could_not_read_back_is_not_written(models, tmp_path, monkeypatch):
    import resrope.models.portable as portable

    stock = portable.spelled

    def contradicting(*args, **given):
        return {**stock(*args, **given), "rope_scaling": {"rope_type": "linear", "factor": 3.0}}

    monkeypatch.setattr(portable, "spelled", contradicting)
    with pytest.raises(ValueError, match="nothing was written: resrope would not read it back"):
        extend(models("llama"), tmp_path / "out", "yarn", factor=4.0)
    assert list(tmp_path.iterdir()) == []


def test_the_report_and_the_card_say_the_original_length_that_was_given(models, tmp_path):
    given = {"factor": 4.0, "original_max_position_embeddings": 32}
    report = extend(models("llama"), tmp_path / "out", "resonance-yarn", **given)
    assert (report.original_length, report.length) == (32, 128)
    assert "128 tokens, trained on 32" in (tmp_path / "out" / "README.md").read_text()


def test_a_link_of_what_is_one_new_file_is_refused(models, tmp_path):
    with pytest.raises(ValueError, match="engine gguf writes one new file"):
        extend(models("llama"), tmp_path / "o.gguf", "yarn", factor=4.0, engine="gguf", link=True)

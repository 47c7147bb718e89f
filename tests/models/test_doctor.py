"""Sick configs, one for each finding, and healthy ones of every architecture."""

from __future__ import annotations

import copy
import json
import math
import struct
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from resrope.models import rope_from_config
from resrope.models.doctor import examine, examine_config, fix
from resrope.models.findings import angle_error, bfloat16
from resrope.models.repair import repaired
from resrope.spec import Frequencies, frequencies

SIZES = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
}
LLAMA = {"model_type": "llama", **SIZES, "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
HEALTHY = (
    "llama mistral mixtral qwen2 qwen3 gemma2 gemma3 gemma3_text phi phi3 gpt_neox stablelm olmo2 olmo3 "
    "cohere cohere2 glm4 granite starcoder2 smollm3 falcon gpt_oss deepseek_v3 qwen2_vl nemotron"
).split()

SICK: dict[str, tuple[str, dict[str, Any]]] = {
    "missing-theta": ("error", {"model_type": "qwen2", **SIZES}),
    "lost-in-version-4": (
        "warning",
        {"model_type": "llama", **SIZES, "rope_parameters": {**YARN, "rope_theta": 5e5}},
    ),
    "flat-parameters": (
        "error",
        {"model_type": "olmo3", **SIZES, "rope_theta": 5e5, "rope_parameters": {**YARN, "rope_theta": 5e5}},
    ),
    "scaling-twice": (
        "error",
        {**LLAMA, "rope_parameters": {**YARN, "rope_theta": 1e4}, "rope_scaling": {**YARN, "factor": 2.0}},
    ),
    "no-original-length": ("warning", {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
    "nothing-stretched": (
        "warning",
        {**LLAMA, "rope_scaling": {**YARN, "original_max_position_embeddings": 8192}},
    ),
    "lengths-disagree": ("warning", {**LLAMA, "rope_scaling": {**YARN, "factor": 8.0}}),
    "old-type-key": (
        "error",
        {
            "model_type": "gemma3_text",
            **SIZES,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "linear", "factor": 8.0},
        },
    ),
    "type-conflict": ("error", {**LLAMA, "rope_scaling": {**YARN, "type": "linear"}}),
    "private-flag": ("error", {**LLAMA, "rope_scaling": {**YARN, "use_resonance": True}}),
    "needs-registration": ("warning", {**LLAMA, "rope_scaling": {**YARN, "rope_type": "resonance_yarn"}}),
    "float32-angles": ("note", {**LLAMA, "max_position_embeddings": 1 << 20}),
    "bfloat16-cast": ("warning", {**LLAMA, "torch_dtype": "bfloat16"}),
    "dynamic-ntk": ("warning", {**LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
    "unreadable": ("error", {**LLAMA, "rope_scaling": {"rope_type": "spiral", "factor": 4.0}}),
    "engine-differs": (
        "warning",
        {
            **LLAMA,
            "model_type": "gemma2",
            "head_dim": 64,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
    ),
    "engine-refuses": ("note", {**LLAMA, "model_type": "falcon"}),
}


def codes(config: dict[str, Any], *severities: str) -> list[str]:
    found = examine_config(config).findings
    return [f.code for f in found if not severities or f.severity in severities]


@pytest.mark.parametrize("code", SICK)
def test_every_sickness_is_named(code):
    severity, config = SICK[code]
    found = [f for f in examine_config(config).findings if f.code == code]
    assert found, codes(config)
    assert found[0].severity == severity
    assert found[0].message.endswith(".") or code in ("unreadable", "engine-differs", "engine-refuses")
    assert "\n" not in found[0].message
    assert examine_config(config).is_sick == bool(codes(config, "error"))


def version_4(config: dict[str, Any]) -> dict[str, Any]:
    """A default config of version 5 as version 4 spelled it."""
    out = copy.deepcopy(config)
    text = out.get("text_config", out)
    new = text.pop("rope_parameters")
    wide = new.get("full_attention", new)
    neox = text["model_type"] == "gpt_neox"
    text["rotary_emb_base" if neox else "rope_theta"] = wide["rope_theta"]
    if "partial_rotary_factor" in wide:
        text["rotary_pct" if neox else "partial_rotary_factor"] = wide["partial_rotary_factor"]
    if text["model_type"] == "gemma3_text":
        text["rope_local_base_freq"] = new["sliding_attention"]["rope_theta"]
    scaling = {k: v for k, v in wide.items() if k not in ("rope_theta", "partial_rotary_factor")}
    text["rope_scaling"] = None if wide["rope_type"] == "default" else scaling
    return out


@pytest.mark.parametrize("model_type", HEALTHY)
def test_default_configs_have_no_error_in_either_spelling(model_type):
    modern = json.loads(json.dumps(CONFIG_MAPPING[model_type]().to_dict(), default=str))
    for config in (modern, version_4(modern)):
        assert codes(config, "error") == []
        after = repaired(config)
        assert codes(after, "error") == []
        assert "lost-in-version-4" not in codes(after)
        assert rope_from_config(after).specs == rope_from_config(config).specs
        assert repaired(after) == after


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": ["x"]},
        {"rope_scaling": {"rope_type": ["yarn"], "type": "yarn", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "longrope", "short_factor": 3, "long_factor": [1.0]}},
        {"rope_scaling": {"rope_type": "linear", "factor": "8"}},
        {"rope_theta": "10000"},
        {"max_position_embeddings": "4096"},
        {"rope_parameters": {"full_attention": None, "rope_type": 3}},
    ],
    ids=str,
)
def test_what_no_loader_can_read_is_an_error_and_not_a_crash(fields):
    found = examine_config({**LLAMA, **fields})
    assert found.is_sick
    assert all(found.verdict(name) for name in found.readings)


def test_a_healthy_config_has_nothing():
    found = examine_config(LLAMA)
    assert found.findings == ()
    assert not found.is_sick
    assert {found.verdict(name) for name in found.readings} == {"reads it as written"}


def test_what_each_engine_does_in_words():
    found = examine_config(SICK["engine-differs"][1])
    assert found.verdict("transformers-5") == "reads it as written"
    assert found.verdict("sglang").startswith(
        "SGLang passes no rope scaling to gemma2 models. (frequencies up to 4"
    )
    assert found.verdict("mlx").startswith("MLX-LM applies no rope scaling to gemma2 models.")
    assert found.distances["sglang"].inv_freq == pytest.approx(3.0, rel=1e-5)
    assert (
        examine_config(SICK["engine-refuses"][1]).verdict("mlx")
        == "would not load: MLX-LM has no falcon models"
    )


@pytest.mark.parametrize("code", ["lost-in-version-4", "flat-parameters", "old-type-key"])
def test_repairs(code):
    config = SICK[code][1]
    after = repaired(config)
    assert code not in codes(after)
    assert codes(after, "error") == []
    assert rope_from_config(after).specs == rope_from_config(config).specs
    assert list(after)[: len(config)] == list(config)
    assert {k: after[k] for k in SIZES} == SIZES
    (finding, *_) = [f for f in examine_config(config).findings if f.code == code]
    assert finding.fix is not None
    assert {**config, **finding.fix} == after


def test_a_repaired_llama_word_for_word():
    after = repaired(SICK["lost-in-version-4"][1])
    assert after["rope_parameters"] == {
        "rope_type": "yarn",
        "rope_theta": 5e5,
        **{k: YARN[k] for k in list(YARN)[1:]},
    }
    assert after["rope_theta"] == 5e5
    assert after["rope_scaling"] == {**YARN, "type": "yarn"}


@pytest.mark.parametrize("code", ["scaling-twice", "missing-theta", "private-flag", "unreadable"])
def test_what_is_not_certain_is_not_repaired(code, tmp_path):
    source = write(tmp_path / "sick", SICK[code][1])
    with pytest.raises(ValueError, match=r"cannot be repaired for certain: "):
        fix(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def write(folder, config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_fix_writes_a_folder_or_a_file_and_never_over_one(tmp_path):
    config = SICK["flat-parameters"][1]
    source = write(tmp_path / "sick", config)
    written = fix(source, tmp_path / "healed")
    assert written == tmp_path / "healed" / "config.json"
    assert json.loads(written.read_text()) == repaired(config)
    assert fix(source / "config.json", tmp_path / "new.json").read_bytes() == written.read_bytes()
    for taken in ("healed", "new.json"):
        with pytest.raises(ValueError, match="exists already"):
            fix(source, tmp_path / taken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["healed", "new.json", "sick"]
    with pytest.raises(ValueError, match="nothing is wrong"):
        fix(tmp_path / "healed", tmp_path / "again")


def test_a_missing_base_that_all_loaders_agree_on_is_filled_in():
    after = repaired({"model_type": "llama", **SIZES})
    assert after["rope_theta"] == 10000.0
    assert codes({"model_type": "llama", **SIZES}, "error") == []


def save(path, tensors):
    """A safetensors file by hand."""
    header, data = {}, b""
    for name, (dtype, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": [1], "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("case", ["right", "bfloat16 in F32", "bfloat16", "other", "other size"])
def test_saved_buffers(tmp_path, case):
    folder = write(tmp_path / "model", LLAMA)
    inv_freq = torch.tensor([10000.0 ** (-2 * j / 64) for j in range(32)])
    half = inv_freq.bfloat16()
    dtype, kept, code = {
        "right": ("F32", inv_freq.numpy().tobytes(), None),
        "bfloat16 in F32": ("F32", half.float().numpy().tobytes(), "bfloat16-buffer"),
        "bfloat16": ("BF16", half.view(torch.int16).numpy().tobytes(), "bfloat16-buffer"),
        "other": ("F32", (inv_freq / 2).numpy().tobytes(), "other-buffer"),
        "other size": ("F32", inv_freq[:16].numpy().tobytes(), "other-buffer"),
    }[case]
    names = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(2)]
    save(folder / "model.safetensors", {"w": ("F32", b"\0" * 8), **dict.fromkeys(names, (dtype, kept))})
    found = examine(folder).findings
    assert [f.code for f in found] == ([] if code is None else [code])
    if code is not None:
        assert "(2 such tensors)" in found[0].message


def test_a_damaged_safetensors_file(tmp_path):
    folder = write(tmp_path / "model", LLAMA)
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a safetensors file"):
        examine(folder)


def test_bfloat16_rounds_as_torch_does():
    values = [10000.0 ** (-j / 97) for j in range(97)] + [1.00390625, 1.01171875, 0.0]
    assert [bfloat16(v) for v in values] == torch.tensor(values).bfloat16().tolist()


def test_angle_error_against_torch():
    """Float32 products in torch against float64."""
    table = frequencies(rope_from_config(LLAMA).specs["default"])
    m = torch.arange((1 << 20) - 64, 1 << 20, dtype=torch.float64)
    exact = m[:, None] * torch.tensor(table.inv_freq, dtype=torch.float64)
    made = (m.float()[:, None] * torch.tensor(table.inv_freq, dtype=torch.float32)).double()
    error = angle_error(table, 1 << 20, lambda f: struct.unpack("<f", struct.pack("<f", f))[0])
    assert error == pytest.approx((exact - made).abs().max().item(), rel=1e-9)
    assert angle_error(Frequencies(inv_freq=(1.0,)), 1 << 20, bfloat16) == 0.0


def test_gguf_and_what_cannot_be_read(tmp_path):
    gguf = pytest.importorskip("gguf")
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(1 << 20)
    writer.add_rope_dimension_count(64)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    found = examine(file)
    assert [f.code for f in found.findings] == ["float32-angles"]
    assert (found.readings, found.is_sick) == ({}, False)
    with pytest.raises(ValueError, match="only configs can be repaired"):
        fix("smollm2", tmp_path / "out")
    with pytest.raises(ValueError, match="no such file"):
        examine(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="must be a mapping"):
        examine(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="no rotary position embedding"):
        examine(tmp_path)


def test_dynamic_ntk_engine_by_engine():
    found = examine_config(SICK["dynamic-ntk"][1])
    assert "plain RoPE at every length" in found.verdict("vllm")
    # vLLM's last frequency against transformers' at 4 · 8192 tokens: (4 · 4 - 3)^(62/62) apart.
    assert found.distances["vllm"].inv_freq == pytest.approx(12.0, rel=1e-5)
    assert math.isclose(found.distances["sglang"].inv_freq, 1 - 1 / 13, rel_tol=1e-5)


@pytest.mark.parametrize("scaling", [{"rope_type": "yarn", "factor": "4"}, {"type": "linear", "factor": -2}])
def test_numbers_that_are_none_become_findings(scaling):
    found = examine_config({**LLAMA, "rope_scaling": scaling})
    assert "unreadable" in codes({**LLAMA, "rope_scaling": scaling}, "error")
    assert all(reading.refusal is not None for reading in found.readings.values())


def test_a_type_nobody_knows_is_told_of_resrope_and_not_of_the_engine():
    found = examine_config({**LLAMA, "model_type": "foobar"})
    assert found.verdict("vllm") == "resrope does not know how vLLM rotates foobar models"
    assert "vllm: resrope does not know how vLLM rotates foobar models" in [f.message for f in found.findings]


KINDS = (
    "llama gemma3_text olmo3 phi3 phimoe gpt_neox modernbert qwen2_vl mixtral gpt_oss deepseek_v3 gptj "
    "cohere stablelm mistral phi foobar qwen3 gemma4_text recurrent_gemma minimax llama4_text qwen3_vl"
).split()
NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 4.0, 0.5, 1e-300, 1e300, 10**400, 1 << 63, -3.5, True, math.inf, math.nan, 512, 8192]
)
JSON = st.recursive(
    st.none() | NUMBERS | st.sampled_from(["4", "yarn", "", "full_attention"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["factor", "x"]), inner),
    max_leaves=4,
)
TYPES = st.sampled_from(
    "yarn linear dynamic longrope llama3 default proportional su mrope resonance_yarn".split()
)
FIELDS = (
    "factor original_max_position_embeddings beta_fast beta_slow mscale mscale_all_dim attention_factor "
    "truncate short_factor long_factor low_freq_factor high_freq_factor rope_theta "
    "partial_rotary_factor short_mscale long_mscale attn_factor max_trained_positions"
).split()
TOPS = (
    "rope_theta head_dim hidden_size num_attention_heads max_position_embeddings rotary_pct "
    "rotary_emb_base original_max_position_embeddings partial_rotary_factor rope_local_base_freq "
    "global_rope_theta local_rope_theta qk_rope_head_dim rotary_dim text_config layer_types "
    "per_layer_config global_head_dim dtype auto_map model_type"
).split()


def parameters_of(**more: Any) -> Any:
    kinds = {"rope_type": TYPES | JSON, "type": TYPES | JSON}
    return JSON | st.fixed_dictionaries(
        {}, optional={**kinds, **dict.fromkeys(FIELDS, NUMBERS | JSON), **more}
    )


FLAT = parameters_of()
BOTH = parameters_of(full_attention=FLAT, sliding_attention=FLAT)


@settings(max_examples=100, deadline=None)
@example(kind="gemma3_text", rope={"rope_scaling": {"factor": {}}}, fields={})
@example(
    kind="llama",
    rope={"rope_scaling": {"rope_type": "yarn", "factor": 0, "original_max_position_embeddings": []}},
    fields={},
)
@given(
    st.sampled_from(KINDS),
    st.fixed_dictionaries({}, optional={"rope_scaling": BOTH, "rope_parameters": BOTH}),
    st.dictionaries(st.sampled_from(TOPS), JSON, max_size=4),
)
def test_any_config_is_examined_or_refused(kind, rope, fields):
    try:
        found = examine_config({**LLAMA, "model_type": kind, **rope, **fields})
    except ValueError:
        return
    assert all("\n" not in found.verdict(name) for name in found.readings)


def test_what_the_newest_transformers_would_not_load_is_an_error():
    found = examine_config({**LLAMA, "rope_scaling": {"rope_type": "yarn"}})
    assert found.is_sick
    assert [f.code for f in found.findings if f.severity == "error"] == ["engine-refuses"]

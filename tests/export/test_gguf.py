"""A table into an existing GGUF file: files written with gguf.GGUFWriter, read back with gguf.GGUFReader."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

from resrope import Frequencies, RopeSpec, Yarn, frequencies  # noqa: E402
from resrope.export.gguf import LOADED, rope_factors, write_gguf  # noqa: E402
from resrope.models import read_config  # noqa: E402
from resrope.models.gguf import float32_powers, gguf_provenance  # noqa: E402

HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 4, 2, 16, 64
TABLE = frequencies(
    RopeSpec(
        head_dim=HEAD_DIM,
        rope_theta=1e5,
        scaling=Yarn(factor=4, original_max_position_embeddings=512),
        resonance=True,
    )
)
GIVEN = {"table": TABLE, "length": 2048, "provenance": {"method": "resonance-yarn", "λ": [6, 7]}}
TYPES = gguf.GGMLQuantizationType


def write(path: Path, arch="llama", *, kinds=None, extra=None, fused=False, more=None) -> Path:
    """A small model; kinds: quantisation by a tensor's name within its block; more: other tensors' shapes."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(1e5)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["a", "ü", "▁", "\n"])
    writer.add_token_scores([0.5, -1.25, float("inf"), 0.1])
    writer.add_token_types([1, 1, 3, 6])
    for key, value in (extra or {}).items():
        add = {
            float: writer.add_float32,
            str: writer.add_string,
            int: writer.add_uint32,
            bool: writer.add_bool,
        }
        add[type(value)](f"{arch}.{key}", value)
    added = {name: np.ones(shape, dtype=np.float32) for name, shape in (more or {}).items()}
    for name, data in {**weights(fused), **added}.items():
        kind = (kinds or {}).get(re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight"), TYPES.F32)
        writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights(fused=False) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    q, k, v = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    found = {"token_embd.weight": normal(5, HIDDEN)}
    for i in range(2):
        parts = {"attn_qkv": q + k + v} if fused else {"attn_q": q, "attn_k": k, "attn_v": v}
        for name, count in parts.items():
            found[f"blk.{i}.{name}.weight"] = normal(count, HIDDEN)
            found[f"blk.{i}.{name}.bias"] = normal(count)
    return {**found, "output_norm.weight": normal(3)}  # 12 bytes: the next one needs padding


@pytest.fixture
def extend(tmp_path):
    """Writes a model as ``write`` does, extends it and reads both: (before, after)."""

    def run(arch="llama", *, given=None, **model):
        source = write(tmp_path / "in.gguf", arch, **model)
        write_gguf(source, tmp_path / "out.gguf", **{**GIVEN, **(given or {})})
        return gguf.GGUFReader(source), gguf.GGUFReader(tmp_path / "out.gguf")

    return run


def pairs(reader) -> dict[str, Any]:
    kept = (f for n, f in reader.fields.items() if not n.startswith("GGUF."))
    return {f.name: (f.types, f.contents()) for f in kept}


def raw(reader) -> dict[str, Any]:
    return {t.name: (t.tensor_type, tuple(t.shape), t.data.tobytes()) for t in reader.tensors}


def numbers(reader) -> dict[str, Any]:
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


def test_only_the_table_and_the_length_change(extend):
    mixed = {"attn_q": TYPES.Q8_0, "attn_k": TYPES.F16, "attn_v": TYPES.BF16, "token_embd": TYPES.Q4_1}
    before, after = extend(kinds=mixed)
    old, new = pairs(before), pairs(after)
    own = {k: v[1] for k, v in new.items() if v != old.get(k)}
    assert own.pop("llama.rope.scaling.attn_factor") == np.float32(TABLE.attention_factor)
    assert json.loads(own.pop("resrope.provenance")) == GIVEN["provenance"]
    assert own == {"llama.context_length": 2048}
    assert [k for k in new if k in old] == list(old)
    assert {t.tensor_type for t in before.tensors} == {TYPES.F32, *mixed.values()}
    tensors = raw(after)
    kind, shape, _ = tensors.pop("rope_freqs.weight")
    assert (kind, shape) == (TYPES.F32, (HEAD_DIM // 2,))
    assert list(tensors.items()) == list(raw(before).items())
    assert all(t.data_offset % after.alignment == 0 for t in after.tensors)
    assert not list(Path(after.data.filename).parent.glob(".*"))


def llama_cpp_angles(theta: float, factors, positions):
    """What ggml's CPU code computes: float32 throughout, one multiplication by the step for each feature."""
    d = np.float32(2 * len(factors))
    step = np.float32(np.float64(np.float32(theta)) ** np.float64(np.float32(-2) / d))
    angle, found = positions.astype(np.float32), []
    for factor in factors.astype(np.float32):
        found.append(angle / factor)
        angle = angle * step
    return np.array(found, dtype=np.float64)


@pytest.mark.parametrize(("theta", "d"), [(1e4, 128), (1e5, 64), (5e5, 128), (1e6, 128)])
def test_factors_make_llama_cpp_turn_by_the_table(theta, d):
    scaling = Yarn(factor=4, original_max_position_embeddings=4096)
    table = frequencies(RopeSpec(head_dim=d, rope_theta=theta, scaling=scaling, resonance=True))
    positions = np.random.default_rng(0).integers(1, 16384, 2000)
    exact = np.outer(table.inv_freq, positions)
    got = llama_cpp_angles(theta, np.array(rope_factors(table, theta)), positions)
    relative = (got - exact) / exact
    assert np.abs(relative.mean(axis=1)).max() < 1e-7  # no trend
    assert np.abs(relative).max() < 1e-6
    naive = np.array([theta ** (-2 * j / d) / f for j, f in enumerate(table.inv_freq)])
    drift = (llama_cpp_angles(theta, naive, positions) - exact) / exact
    assert np.abs(drift.mean(axis=1)).max() > 8e-7  # what the factors make up for


def test_the_file_reads_back_as_the_same_table(extend):
    _, after = extend()
    rope = read_config(after.data.filename)
    table = frequencies(rope.specs["default"])
    assert rope.max_position_embeddings == 2048
    assert table.attention_factor == np.float32(TABLE.attention_factor)
    assert table.inv_freq == pytest.approx(TABLE.inv_freq, rel=6.1e-8)
    assert tuple(round(w) for w in table.wavelengths) == TABLE.periods
    assert gguf_provenance(Path(after.data.filename)) == GIVEN["provenance"]


def test_no_provenance_in_files_of_others(tmp_path):
    assert gguf_provenance(write(tmp_path / "in.gguf")) is None
    (tmp_path / "no.gguf").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"no\.gguf: not a GGUF file"):
        gguf_provenance(tmp_path / "no.gguf")


def test_float32_powers_are_those_of_the_rounded_step():
    powers = np.array(float32_powers(1e6, 128))
    step = np.float32(1e6 ** np.float64(np.float32(-2 / 128)))
    assert powers[1] == step
    assert powers == pytest.approx(np.float64(step) ** np.arange(64), rel=1e-14)
    assert np.abs(powers / 1e6 ** (-np.arange(64) / 64) - 1).max() > 1e-6


def test_the_old_scaling_goes(extend):
    old = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 2.0,
        "rope.scaling.original_context_length": 256,
        "rope.scaling.attn_factor": 0.5,
        "rope.scaling.yarn_beta_fast": 16.0,
        "rope.scaling.finetuned": True,
    }
    _, after = extend(extra=old)
    left = {k for k in after.fields if "scal" in k}
    assert left == {"llama.rope.scaling.attn_factor", "llama.rope.scaling.finetuned"}
    assert after.fields["llama.rope.scaling.attn_factor"].contents() == np.float32(TABLE.attention_factor)


def test_extending_twice_is_extending_once(extend, tmp_path):
    extend()
    shutil.move(tmp_path / "out.gguf", tmp_path / "once.gguf")
    write_gguf(tmp_path / "once.gguf", tmp_path / "out.gguf", **GIVEN)
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "once.gguf").read_bytes()


def test_no_attn_factor_where_it_is_one(extend):
    plain = Frequencies(inv_freq=TABLE.inv_freq)
    _, after = extend(given={"table": plain})
    assert "llama.rope.scaling.attn_factor" not in after.fields


def test_phi3_has_a_short_and_a_long_tensor(extend):
    _, after = extend("phi3", fused=True)
    tensors = raw(after)
    assert "rope_freqs.weight" not in tensors
    assert tensors["rope_factors_short.weight"] == tensors["rope_factors_long.weight"]
    table = frequencies(read_config(after.data.filename).specs["default"])
    assert table.inv_freq == pytest.approx(TABLE.inv_freq, rel=6.1e-8)


def test_mistral3_keeps_the_length_beyond_which_it_scales_queries(extend):
    scaled = {"rope.scaling.original_context_length": 256, "attention.temperature_scale": 0.1}
    _, after = extend("mistral3", extra=scaled)
    assert after.fields["mistral3.rope.scaling.original_context_length"].contents() == 256


@pytest.mark.parametrize("kind", [TYPES.F32, TYPES.F16, TYPES.BF16])
def test_fold_multiplies_the_queries_and_nothing_else(extend, kind):
    before, after = extend(kinds={"attn_q": kind}, given={"fold": True})
    assert "llama.rope.scaling.attn_factor" not in after.fields
    old, new = numbers(before), numbers(after)
    unit = {TYPES.F32: 2**-24, TYPES.F16: 2**-11, TYPES.BF16: 2**-8}[kind]
    for name, data in old.items():
        if ".attn_q." in name:
            wanted = data.astype(np.float64) * TABLE.attention_factor**2
            np.testing.assert_allclose(new[name], wanted, rtol=unit)
        else:
            np.testing.assert_array_equal(new[name], data)


def test_fold_of_fused_rows_with_partial_rotation(extend):
    half = frequencies(RopeSpec(head_dim=HEAD_DIM // 2, rope_theta=1e5, scaling=Yarn(
        factor=4, original_max_position_embeddings=512)))  # fmt: skip
    before, after = extend(
        "phi3", fused=True, extra={"rope.dimension_count": 8}, given={"fold": True, "table": half}
    )
    scale = np.ones((HEADS + 2 * KV_HEADS) * HEAD_DIM)
    for head in range(HEADS):
        scale[head * HEAD_DIM : head * HEAD_DIM + 8] = half.attention_factor**2
    for name in ("blk.1.attn_qkv.weight", "blk.1.attn_qkv.bias"):
        old, new = numbers(before)[name], numbers(after)[name]
        np.testing.assert_allclose(new.T, old.T * scale, rtol=1e-7)


def rotated(x, angles, *, neighbours):
    """One head's vector, rotated pair by pair: (2i, 2i + 1) for llama, (i, i + d/2) for qwen2."""
    d, found = len(x), np.empty(len(x))
    for i, angle in enumerate(angles):
        a, b = (2 * i, 2 * i + 1) if neighbours else (i, i + d // 2)
        found[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
        found[b] = x[a] * np.sin(angle) + x[b] * np.cos(angle)
    return found


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [TYPES.F32, TYPES.Q8_0])
def test_qwen2_becomes_a_llama_with_the_same_attention_scores(extend, kind, fused):
    before, after = extend("qwen2", kinds=dict.fromkeys(("attn_q", "attn_k", "attn_qkv"), kind), fused=fused)
    assert after.fields["general.architecture"].contents() == "llama"
    assert not [k for k in after.fields if k.startswith("qwen2.")]
    old, new = numbers(before), numbers(after)
    x = np.random.default_rng(1).normal(size=(2, HIDDEN))

    def score(tensors, neighbours):
        if fused:
            w, b = tensors["blk.1.attn_qkv.weight"], tensors["blk.1.attn_qkv.bias"]
            both = [(x[0] @ w.T + b)[: HEADS * HEAD_DIM], (x[1] @ w.T + b)[HEADS * HEAD_DIM :]]
        else:
            names = [("q", 0), ("k", 1)]
            both = [
                x[i] @ tensors[f"blk.1.attn_{n}.weight"].T + tensors[f"blk.1.attn_{n}.bias"] for n, i in names
            ]
        found = []
        for head in range(HEADS):
            q = both[0][head * HEAD_DIM :][:HEAD_DIM]
            k = both[1][head // (HEADS // KV_HEADS) * HEAD_DIM :][:HEAD_DIM]
            q, k = (
                rotated(v, p * np.array(TABLE.inv_freq), neighbours=neighbours) for v, p in ((q, 9), (k, 4))
            )
            found.append(q @ k)
        return found

    assert score(new, True) == pytest.approx(score(old, False), rel=1e-12)
    assert score(new, False) != pytest.approx(score(old, False), rel=1e-2)
    same = [n for n in old if not any(part in n for part in (".attn_q.", ".attn_k.", ".attn_qkv."))]
    assert {n: raw(before)[n] for n in same} == {n: raw(after)[n] for n in same}


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("gemma2", "llama.cpp has no rope_freqs.weight for architecture gemma2: the file would not load"),
        ("qwen3", "has no rope_freqs.weight for architecture qwen3"),
        ("gemma3", "a table for each layer type"),
        ("llama4", "rotates only within chunks"),
        ("falcon-h1", "rotates without it"),
        ("pangu-embedded", "rotates only the queries"),
    ],
)
def test_architectures_without_a_place_for_a_table(extend, tmp_path, arch, message):
    with pytest.raises(ValueError, match=message) as error:
        extend(arch)
    assert str(error.value).startswith(f"{tmp_path / 'in.gguf'}: ")
    assert "\n" not in str(error.value)
    assert "llama, " in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ({"extra": {"rope.dimension_count": 32}}, {}, "rotary_dim/2 = 16 frequencies, got 8"),
        ({}, {"table": Frequencies(inv_freq=(1.0,) * 7 + (0.0,))}, "some features of the table stand still"),
        ({}, {"table": Frequencies(inv_freq=(1.0,) * 7 + (1e-200,))}, "too far from rope_theta 100000"),
        ({"extra": {"rope.freq_base_swa": 1e4}}, {}, "one table cannot serve full_attention and sliding"),
        ({"arch": "granite", "extra": {"rope.scaling.finetuned": False}}, {}, "these layers do not rotate"),
        ({}, {"length": 0}, "length must be an integer >= 1"),
        ({"kinds": {"attn_q": TYPES.Q8_0}}, {"fold": True}, "blk.0.attn_q.weight is quantised"),
        ({"more": {"blk.0.attn_q_norm.weight": (HEAD_DIM,)}}, {"fold": True}, "where queries are normalised"),
        (
            {"kinds": {"attn_q.bias": TYPES.Q8_0}, "arch": "qwen2"},
            {},
            "blk.0.attn_q.bias must be a float tensor",
        ),
        ({"arch": "qwen2", "extra": {"attention.key_length": 32}}, {}, "rotates whole heads, got 16 of 32"),
        ({"extra": {"rope.scaling.alpha": 2.0}}, {}, "rope.scaling.alpha changes the frequencies"),
    ],
)
def test_refused_in_one_line_with_nothing_left_behind(extend, tmp_path, model, given, message):
    with pytest.raises(ValueError, match=message) as error:
        extend(given=given, **model)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_bad_paths(tmp_path):
    source = write(tmp_path / "in.gguf")
    (tmp_path / "text.gguf").write_text("{}")
    for given, out, kind, message in (
        (source, source, ValueError, r"in\.gguf exists already"),
        (tmp_path / "none.gguf", tmp_path / "out.gguf", ValueError, r"none\.gguf: no such file"),
        (tmp_path / "text.gguf", tmp_path / "out.gguf", ValueError, r"text\.gguf: not a GGUF file"),
        (source, tmp_path / "no" / "out.gguf", FileNotFoundError, "No such folder"),
    ):
        with pytest.raises(kind, match=message):
            write_gguf(given, out, **GIVEN)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.gguf", "text.gguf"]


def test_a_disk_too_full_is_found_before_writing(tmp_path, monkeypatch):
    source = write(tmp_path / "in.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"Too little space: [0-9,]+ bytes needed, 1,000 free"):
        write_gguf(source, tmp_path / "out.gguf", **GIVEN)
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    source = write(tmp_path / "in.gguf")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*out\.gguf"):
        write_gguf(source, tmp_path / "out.gguf", **GIVEN)
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_every_architecture_that_is_named_exists():
    assert set(LOADED) <= set(gguf.MODEL_ARCH_NAMES.values())

import json
import shutil

import pytest
import torch

from resrope import RopeSpec, frequencies
from resrope.export.convert import convert
from resrope.longtext import attention
from resrope.longtext.candidates import candidates, placed, tables_at
from resrope.longtext.forward import token_losses
from resrope.longtext.subject import Subject, open_subject, tokenizer_of
from resrope.models.apply import rope_of

IDS = torch.randint(3, 128, (1, 60), generator=torch.Generator().manual_seed(1))


def of(model):
    return Subject(name="tiny", model=model, tokenizer=None, rope=rope_of(model), identity="tiny")


def whole(model, tokens=None):
    ids = IDS if tokens is None else torch.arange(tokens)[None] % 128
    with torch.no_grad():
        return model(ids).logits


def method(subject, label, length):
    done = placed(candidates([label])[0], subject.rope, length)
    return done, tables_at(done, length)


@pytest.mark.parametrize("label", ["yarn", "resonance-yarn", "dynamic-ntk"])
def test_it_rotates_with_the_tables_and_then_with_its_own(tiny, label):
    subject = of(tiny("llama", initializer_range=0.2))
    config, plain = subject.model.config.to_dict(), whole(subject.model)
    done, tables = method(subject, label, 1024)
    with subject.rotating(done, tables) as model:
        assert model is subject.model
        (table,) = tables.values()
        assert torch.equal(model.model.rotary_emb.inv_freq, torch.tensor(table.inv_freq, dtype=torch.float32))
        assert model.model.rotary_emb.attention_scaling == table.attention_factor
        assert (whole(model) - plain).abs().max() > 1e-3
    assert torch.allclose(whole(subject.model), plain, atol=1e-5)
    assert subject.model.config.to_dict() == config


def test_after_an_exception_it_has_its_own_tables_again(tiny):
    subject = of(tiny("gemma3_text", sliding_window=16))
    plain, rotary = whole(subject.model), subject.model.model.rotary_emb
    before = type(rotary), {name: buffer.clone() for name, buffer in rotary.named_buffers()}
    done, tables = method(subject, "yarn", 1024)
    with pytest.raises(KeyboardInterrupt), subject.rotating(done, tables):
        raise KeyboardInterrupt
    assert torch.equal(whole(subject.model), plain)
    assert type(rotary) is before[0]
    assert all(torch.equal(before[1][name], buffer) for name, buffer in rotary.named_buffers())


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [3.0] * 8},
    ],
)
def test_its_own_tables_may_be_scaled(tiny, scaling):
    """Dynamic NTK and LongRoPE change while a stock model runs, and go on doing so afterwards."""
    rope = {"rope_theta": 10000.0, "original_max_position_embeddings": 64, **scaling}
    subject = of(tiny("llama", rope_parameters=rope, initializer_range=0.2))
    before = [whole(subject.model, n) for n in (40, 200)]
    done, tables = method(subject, "own", 40)
    with subject.rotating(done, tables):
        pass
    for n, wanted in zip((40, 200), before, strict=True):
        assert torch.equal(whole(subject.model, n), wanted)


def test_a_folder(letters):
    subject = open_subject(letters)
    assert (subject.name, subject.model.training) == (str(letters), False)
    assert subject.tokenizer("Aa").input_ids == tokenizer_of(letters)("Aa").input_ids
    assert {spec.head_dim for spec in subject.rope.specs.values()} == {16}
    assert subject.model.dtype == torch.float32
    stock = open_subject(letters, attn="eager")
    ids = subject.tokenizer("What has roots as nobody sees, is taller than trees?").input_ids
    assert token_losses(subject.model, ids, chunk=20) == pytest.approx(
        token_losses(stock.model, ids), abs=1e-5
    )
    mine = object()
    assert open_subject(letters, tokenizer=mine).tokenizer is mine


def saved(tiny, folder, model_type, **changes):
    model = tiny(model_type, **changes)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model_type", "wanted"),
    [("llama", attention.NAME), ("gemma2", "eager"), ("gpt_oss", "eager"), ("falcon", "sdpa")],
)
def test_our_attention_where_transformers_would_take_sdpa_and_lets_another_in(
    tiny, tmp_path, model_type, wanted
):
    """gemma2 caps its scores, gpt_oss has sinks, falcon computes attention by itself."""
    subject = open_subject(saved(tiny, tmp_path / "m", model_type), device="cpu", tokenizer=object())
    assert subject.model.config._attn_implementation == wanted


def test_the_attention_asked_for_is_used(letters):
    for attn in ("eager", "sdpa"):
        assert open_subject(letters, attn=attn).model.config._attn_implementation == attn
    with pytest.raises(ValueError, match="nonsense") as caught:
        open_subject(letters, attn="nonsense")
    assert "\n" not in str(caught.value)


def test_the_identity_is_that_of_weights_dtype_and_attention(letters, tmp_path):
    copy = shutil.copytree(letters, tmp_path / "copy")
    known = open_subject(letters).identity
    assert open_subject(copy).identity == known, "not where it lies"
    others = [open_subject(letters, dtype="bfloat16"), open_subject(letters, attn="eager")]
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    others.append(open_subject(copy))
    assert others[0].model.dtype == torch.bfloat16
    assert len({known, *(s.identity for s in others)}) == 4


def test_another_config_is_another_identity(letters, tmp_path):
    copy = shutil.copytree(letters, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert open_subject(copy).identity != open_subject(letters).identity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:77"}, "device must be one that this torch has, got cuda:77"),
        ({"device": "abacus"}, "device must be one that this torch has, got abacus"),
        ({"dtype": "int8"}, "dtype must be among float32, bfloat16, float16, got 'int8'"),
    ],
)
def test_devices_and_dtypes_that_are_none(letters, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_subject(letters, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_or_a_model(tiny, tmp_path):
    with pytest.raises(ValueError, match="no tokenizer can be loaded") as caught:
        open_subject(saved(tiny, tmp_path / "m", "llama"))
    assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot load it"):
        open_subject(tmp_path / "empty")


def test_the_attention_asked_for_is_used_in_a_gguf_file_too(letters, tmp_path):
    pytest.importorskip("gguf")
    file, table = tmp_path / "model.gguf", frequencies(RopeSpec(head_dim=16, rope_theta=10_000.0))
    convert(letters, file, table=table, length=512, provenance={}, no_vocab=True)
    subject = open_subject(file, attn="eager", tokenizer=object())
    assert subject.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("path", ["no.gguf", "x/no.gguf", "./no", "/no/model", "a/b/c"])
def test_what_can_only_be_a_place_here_is_not_asked_of_the_hub(path, monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", pytest.fail)
    for opened in (tokenizer_of, open_subject):
        with pytest.raises(ValueError, match=f"^{path}: no such file or folder$"):
            opened(path)

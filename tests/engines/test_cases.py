import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from resrope.models import read_config

ROOT = Path(__file__).parents[2]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.0],
    "long_factor": [1.0, 2.0],
    "original_max_position_embeddings": 64,
}


def longrope(longest=256, model_type="llama", **changes):
    parameters = {**LONGROPE, **changes}
    return {"model_type": model_type, "max_position_embeddings": longest, "rope_parameters": parameters}


def test_every_tiny_model_has_the_table_that_its_case_states(tmp_path):
    import cases

    assert len(cases.ARCHITECTURES) == 22
    for name, arch in cases.ARCHITECTURES.items():
        cases.config(name).save_pretrained(tmp_path / name)
        specs = read_config(tmp_path / name).specs
        spec = specs[arch.layer or "default"]
        assert (spec.head_dim, spec.rope_theta) == (cases.HEAD_DIM, arch.rope_theta), name
        assert spec.partial_rotary_factor == arch.partial_rotary_factor, name
        assert spec.scaling is None, name


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_neox", "deepseek_v3", "qwen2_vl"])
def test_the_table_matters_to_a_tiny_model(name):
    import cases
    import reference

    model, layer = cases.model(name), cases.ARCHITECTURES[name].layer or "default"
    plain = reference.logits(model, cases.tokens())
    table = cases.table(name, "rope")
    reference.install(model, {layer: (table.inv_freq, table.attention_factor)})
    same = reference.difference(plain, reference.logits(model, cases.tokens()))
    table = cases.table(name, "resonance-yarn")
    reference.install(model, {layer: (table.inv_freq, table.attention_factor)})
    other = reference.difference(plain, reference.logits(model, cases.tokens()))
    assert same["max_difference"] < 1e-4
    assert other["kl"] > 1e-3


def test_a_table_without_a_module_is_an_error():
    import cases
    import reference

    with pytest.raises(ValueError, match="full_attention"):
        reference.install(cases.model("llama"), {"full_attention": ([1.0] * 16, 1.0)})


def test_difference_by_hand():
    import reference

    # (1/4, 3/4) and (1/2, 1/2), the second position alike: KL = ln(1/2)/4 + 3·ln(3/2)/4, halved.
    one = np.log(np.array([[1.0, 3.0], [1.0, 1.0]]))
    two = np.zeros((2, 2))
    found = reference.difference(one, two)
    assert found["kl"] == pytest.approx((math.log(0.5) / 4 + 3 * math.log(1.5) / 4) / 2)
    assert found["max_difference"] == pytest.approx(math.log(3))
    with pytest.raises(ValueError, match="shape"):
        reference.difference(one, two[:1])


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_longrope_by_hand(engine):
    import derive

    # θ^(−2j/d) = 1, 1/10; ln 4 / ln 64 = 1/3.
    (table,) = derive.tables(engine, longrope(), head_dim=4, last=64 + 1).values()
    assert table.inv_freq.tolist() == pytest.approx([1.0, 1 / 20])
    assert table.scale == pytest.approx(math.sqrt(4 / 3))
    (table,) = derive.tables(engine, longrope(long_mscale=1.5), head_dim=4, last=99).values()
    assert table.scale == 1.5
    # attention_factor has no influence.
    (table,) = derive.tables(engine, longrope(64, attention_factor=3.0), head_dim=4, last=63).values()
    assert (table.inv_freq.tolist(), table.scale) == (pytest.approx([1.0, 0.1]), 1.0)


def test_where_the_boundary_lies():
    import derive

    def long(engine, last):
        (table,) = derive.tables(engine, longrope(), head_dim=4, last=last).values()
        return table.inv_freq[1].item() < 0.09

    assert [long("vllm", n) for n in (10, 64, 65)] == [True, True, True]
    assert [long("sglang", n) for n in (10, 64, 65)] == [False, False, True]
    assert [long("transformers", n) for n in (10, 63, 64)] == [False, False, True]


def test_what_an_engine_refuses_or_passes_over():
    import derive

    with pytest.raises(ValueError, match="rotates neighbours"):
        derive.tables("vllm", longrope(model_type="cohere"), head_dim=4, last=9)
    (table,) = derive.tables("sglang", longrope(model_type="gemma2"), head_dim=4, last=99).values()
    assert table.inv_freq.tolist() == pytest.approx([1.0, 0.1])
    with pytest.raises(ValueError, match="not derived"):
        derive.tables("vllm", longrope(rope_type="dynamic"), head_dim=4, last=9)
    with pytest.raises(ValueError, match="engine"):
        derive.tables("mlx", longrope(), head_dim=4, last=9)


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_yarn_is_that_of_transformers(engine, truncate):
    import derive

    parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "truncate": truncate}
    parameters["original_max_position_embeddings"] = 64
    config = LlamaConfig(head_dim=32, max_position_embeddings=256, rope_parameters=dict(parameters))
    wanted, scale = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    (table,) = derive.tables(engine, config.to_dict(), head_dim=32, last=255).values()
    torch.testing.assert_close(table.inv_freq, wanted, rtol=2e-7, atol=0)
    assert table.scale == pytest.approx(scale)


def test_derived_layer_types(tmp_path):
    import cases
    import derive

    cases.config("gemma3_text").save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path).to_dict()
    found = derive.tables("vllm", config, head_dim=32, last=9)
    assert found["full_attention"].inv_freq[1].item() == pytest.approx(1e6 ** (-1 / 16))
    assert found["sliding_attention"].inv_freq[1].item() == pytest.approx(1e4 ** (-1 / 16))


def _results():
    import report

    ran = {"max_difference": 1e-6, "kl": 1e-12, "versions": {"mlx-lm": "0"}, "from_spelled": 0.0}
    case = {"architecture": "llama", "method": "rope"}
    tiny = [
        {"engine": "mlx", **case, "status": "ran", **ran},
        {"engine": "mlx", **case, "method": "yarn", "status": "refused", "reason": "it would | not"},
        {"engine": "vllm", **case, "status": "failed", "reason": "no such model"},
    ]
    both = {"max_difference": 2e-5, "kl": 3e-11}
    real = {"method": "yarn", "factor": 4.0, "tokens": 9, "far_tokens": 2, "far_start": 7, "generated": 3}
    goal = {"most": 1e-9, "of": "kl"}
    row = {"name": "llama.cpp", "status": "ran", "text": both, "far": both, "same": True, "goal": goal}
    settings = {"architectures": 1, "original": 64, "length": 256, "factor": 4.0}
    about = {"command": "run.py", "commit": "abc", "date": "today", "seconds": 60.0, "threads": 2}
    return {
        **about,
        "reference": "5",
        "goals": report.goals(),
        "settings": settings,
        "tiny": tiny,
        "applied": [
            {"engine": "transformers-5", **case, "status": "ran", "max_difference": 1e-6, "reloaded": 0.0},
            {"engine": "transformers-4", **case, "status": "ran", "max_difference": 1e-6, "save": "no base"},
        ],
        "smollm2": {**real, "records": [row]},
    }


def test_the_report_has_every_number():
    import report

    results = json.loads(json.dumps(_results()))
    report.check(results)
    text = report.markdown(results)
    assert "| mlx | 0 | 1 | 1 | 0 | 1.0e-06 | 1.0e-12 | 1.0e-06 | 0 | logits ≤ 0.0002 | yes |" in text
    assert "| llama.cpp | 2.0e-05 | 3.0e-11 |  | 2.0e-05 | 3.0e-11 | yes | nats ≤ 1e-09 | yes |" in text
    assert "| mlx | refused | llama: yarn | it would / not |" in text
    assert "| llama | 1.0e-06, 1 refused | 1 failed |" in text
    assert "| llama | 1.0e-06 | 0 | 1.0e-06 | refused: no base |" in text


def test_the_guide_has_the_table_of_the_kept_results():
    import report

    results = json.loads((ROOT / "results" / "engines.json").read_text(encoding="utf-8"))
    report.check(results)
    assert results["commit"].isalnum(), "made from a commit, not from changes on top of one"
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert report.update_serving(page, report.serving_table(results)) == page
    assert (ROOT / "results" / "engines.md").read_text(encoding="utf-8") == report.markdown(results)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"tiny": [{"engine": "mlx", "status": "ran"}]}, "architecture"), ({"goals": None}, "goals")],
)
def test_results_of_another_shape_are_refused(change, message):
    import report

    results = {k: v for k, v in {**_results(), **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        report.check(results)


def test_unknown_names_are_one_line(capsys):
    import run

    assert run.main(["--only", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("error: --only takes transformers-5, ")

import pytest

import resrope
from resrope.longtext.candidates import Candidate, candidates, placed, tables_at
from resrope.models import rope_from_config
from resrope.spec import DynamicNTK, LongRope, RopeSpec, Yarn, frequencies

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
}
HALF = LLAMA["hidden_size"] // LLAMA["num_attention_heads"] // 2


def rope(**changes):
    return rope_from_config({**LLAMA, **changes})


def one(label, **given):
    (made,) = candidates([label], given)
    return made


def table(scaling=None, **changes):
    return frequencies(RopeSpec(head_dim=16, scaling=scaling, **changes))


def only(tables):
    (found,) = tables.values()
    return found


def test_labels_with_parameters_of_their_own_and_shared_ones():
    made = candidates(["own", "rope", "yarn:factor=8,beta_fast=16.5", "resonance-yarn"], {"factor": 4})
    assert [c.label for c in made] == ["own", "rope", "yarn:factor=8,beta_fast=16.5", "resonance-yarn"]
    assert [c.name for c in made] == ["own", "rope", "yarn", "resonance-yarn"]
    assert [c.parameters for c in made] == [{}, {}, {"factor": 8, "beta_fast": 16.5}, {"factor": 4}]
    assert candidates(["yarn"], replace_scaling=True)[0].replace_scaling
    assert isinstance(one("yarn:factor=8").parameters["factor"], int)


def test_without_labels_it_is_the_model_as_it_is():
    assert candidates([], {"factor": 4}) == [Candidate(label="own", name="own")]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["rope", "yarn", "rope"], "method rope is given twice"),
        (["yarm"], "method must be among own, rope, .*yarn.*, got 'yarm'"),
        (["own:factor=2"], "method own .* takes no parameters, got own:factor=2"),
        (["yarn:factor"], "name=number with commas between, got yarn:factor"),
        (["yarn:factor=x"], "name=number with commas between, got yarn:factor=x"),
    ],
)
def test_labels_that_are_refused(labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        candidates(labels)
    assert "\n" not in str(caught.value)


def test_the_same_method_with_other_parameters_is_another():
    assert len(candidates(["yarn:factor=2", "yarn:factor=4", "yarn"])) == 3


def test_own_is_the_table_of_the_config():
    done = placed(one("own"), rope(), 1024)
    assert done.length == 256
    assert only(tables_at(done, 1024)) == only(tables_at(done, 10)) == table()


def test_the_target_makes_the_factor():
    done = placed(one("yarn"), rope(), 1024)
    assert done.length == 1024
    assert only(done.tables()) == table(Yarn(factor=4, original_max_position_embeddings=256))
    assert only(placed(one("resonance-yarn"), rope(), 1024).tables()) == table(
        Yarn(factor=4, original_max_position_embeddings=256), resonance=True
    )


def test_a_factor_counts_before_the_target():
    for candidate in (one("yarn:factor=2"), one("yarn", factor=2)):
        done = placed(candidate, rope(), 1024)
        assert done.length == 512
        assert only(done.tables()) == table(Yarn(factor=2, original_max_position_embeddings=256))


def test_below_the_trained_length_the_methods_serve_that():
    assert placed(one("yarn"), rope(), 100).length == 256
    assert only(placed(one("linear"), rope(), 100).tables()) == table()


def test_dynamic_ntk_has_the_base_of_each_length_and_keeps_its_factor():
    dynamic = {"factor": 2.0, "original_max_position_embeddings": 256}
    done = placed(one("dynamic-ntk:factor=2.0"), rope(), 1024)
    assert done.length == 1024
    for length in (100, 256, 257, 512, 1024):
        assert only(tables_at(done, length)) == table(DynamicNTK(**dynamic, seq_len=length))
    assert only(tables_at(done, 100)) == only(tables_at(done, 256)) == table()
    assert only(tables_at(done, 512)) != only(tables_at(done, 1024))


def test_longrope_has_a_table_below_and_one_beyond_the_original_length():
    factors = {"short_factor": (1.0,) * HALF, "long_factor": tuple(range(2, 2 + HALF))}
    own = {
        "rope_type": "longrope",
        "short_factor": [1.0] * HALF,
        "long_factor": [float(n) for n in range(2, 2 + HALF)],
    }
    model = rope(
        model_type="phi3",
        rope_scaling=own,
        max_position_embeddings=1024,
        original_max_position_embeddings=256,
    )
    done = placed(one("own"), model, 1024)
    near, far = only(tables_at(done, 256)), only(tables_at(done, 257))
    assert near.inv_freq == pytest.approx(table().inv_freq)
    assert [a / b for a, b in zip(near.inv_freq, far.inv_freq, strict=True)] == pytest.approx(
        factors["long_factor"]
    )
    spec = next(iter(model.specs.values()))
    assert isinstance(spec.scaling, LongRope)
    assert far == only(tables_at(done, 1024))


def test_a_model_that_already_scales_keeps_its_scaling_unless_asked():
    scaled = rope(rope_scaling={"rope_type": "linear", "factor": 2.0}, max_position_embeddings=512)
    with pytest.raises(ValueError, match="already has linear"):
        placed(one("yarn:factor=4,original_max_position_embeddings=256"), scaled, 1024)
    (free,) = candidates(["yarn:factor=4,original_max_position_embeddings=256"], replace_scaling=True)
    assert only(placed(free, scaled, 1024).tables()) == table(
        Yarn(factor=4, original_max_position_embeddings=256)
    )
    assert only(tables_at(placed(one("own"), scaled, 9), 9)) == table(resrope.Linear(factor=2.0))


@pytest.mark.parametrize(
    "label", ["rope:factor=4", "yarn:beta_slow_=1", "yarn:factor=0.5", "yarn:factor=nan"]
)
def test_parameters_that_a_method_refuses(label):
    with pytest.raises(ValueError, match=r"factor|beta_slow_"):
        placed(one(label), rope(), 1024)

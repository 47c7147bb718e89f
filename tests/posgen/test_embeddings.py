import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

import resrope
from resrope.posgen import cell as cells
from resrope.posgen.cell import run_cell
from resrope.posgen.embeddings import EMBEDDINGS, built_in, embedding
from resrope.posgen.embeddings.bias import ALiBi, Fire, T5Bias
from resrope.posgen.embeddings.rotary import PoSE, PRope, RandomisedRope, XPos
from resrope.posgen.evaluate import evaluate, run_freely
from resrope.posgen.model import Decoder, ModelConfig
from resrope.posgen.ops import attend
from resrope.posgen.positions import Sizes, rotated, when_tested
from resrope.posgen.record import Cell

SIZES = Sizes(d_model=24, n_heads=4, head_dim=10, train_length=20, test_length=60)
SEQ = torch.arange(33)


def of(name, sizes=SIZES):
    torch.manual_seed(3)
    return EMBEDDINGS[name](sizes)


def test_alibi_is_that_of_transformers():
    """Bloom's has one row for all queries; a softmax does not see what is the same for all keys."""
    made = ALiBi(replace(SIZES, n_heads=8)).bias(SEQ)
    theirs = build_alibi_tensor(torch.ones(1, 33), 8, torch.float32).view(8, 33)
    assert torch.allclose(made[:, 32], theirs - theirs[:, 32:], atol=1e-6)
    assert made[:, 1, 0].tolist() == [-(2.0**-h) for h in range(1, 9)]
    assert torch.equal(made, made.tril())


def test_t5s_bias_is_that_of_transformers():
    made, positions = T5Bias(SIZES), torch.arange(400)
    buckets = T5Attention._relative_position_bucket(
        positions[None] - positions[:, None], bidirectional=False, num_buckets=32, max_distance=128
    )
    assert torch.equal(made.bias(positions), made.table[buckets].permute(2, 0, 1))


def test_sinusoidal_by_hand():
    made = of("sinusoidal").input(torch.tensor([0, 7]))
    assert made[0].tolist() == [0.0, 1.0] * 12
    wanted = [f(7 / 10000 ** (2 * i / 24)) for i in range(12) for f in (math.sin, math.cos)]
    assert made[1].tolist() == pytest.approx(wanted, abs=1e-6)


def test_xpos_scores_by_the_formula():
    """A score of feature i is RoPE's times ζ_i^(distance/512), wherever the two stand."""
    queries, keys = XPos(replace(SIZES, test_length=400)).eval().rotation(torch.arange(400))
    rope = resrope.frequencies(resrope.RopeSpec(head_dim=10)).inv_freq
    for i, frequency in enumerate(rope):
        zeta = (i / 5 + 0.4) / 1.4
        for n, m in ((9, 9), (30, 3), (399, 0), (399, 372)):
            wanted = zeta ** ((n - m) / 512) * torch.polar(
                torch.tensor(1.0), torch.tensor(frequency * (n - m))
            )
            assert torch.allclose(queries[n, i] * keys[m, i].conj(), wanted.to(torch.complex64), atol=2e-5)


def test_fire_by_the_formula():
    made = Fire(SIZES)
    with torch.no_grad():
        made.c.fill_(0.3)
        made.reach.fill_(-12.0 / SIZES.train_length)  # its absolute value counts
    bias = made.bias(SEQ)
    for i, j in ((5, 0), (12, 12), (30, 4), (32, 31)):
        ratio = math.log(0.3 * (i - j) + 1) / math.log(0.3 * max(i, 12) + 1)
        assert torch.allclose(bias[:, i, j], made.function(torch.tensor([ratio])), atol=1e-5)


def test_randomised_positions_rise_and_are_new_at_every_step():
    made = RandomisedRope(SIZES)
    drawn = [made.positions(20, np.random.default_rng([0, step])) for step in range(200)]
    assert all((p[1:] > p[:-1]).all() for p in drawn)
    assert len({tuple(p.tolist()) for p in drawn}) == 200
    assert 110 < max(int(p.max()) for p in drawn) < 120
    assert torch.equal(drawn[7], made.positions(20, np.random.default_rng([0, 7])))
    assert len(set(made.positions(60, np.random.default_rng(0)).tolist())) == 60


def test_pose_skips_in_training_alone():
    made = PoSE(SIZES)
    drawn = [made.train().positions(20, np.random.default_rng(step)) for step in range(300)]
    assert all(((p[1:] - p[:-1]) != 1).sum() <= 1 for p in drawn)
    assert {int(p[0]) for p in drawn} == {0}
    assert 55 < max(int(p.max()) for p in drawn) <= 59
    assert made.eval().positions(60, np.random.default_rng(0)).tolist() == list(range(60))


def test_p_rope_turns_three_quarters_of_the_pairs():
    turns, _ = PRope(replace(SIZES, head_dim=16)).rotation(torch.arange(20))
    plain = resrope.frequencies(resrope.RopeSpec(head_dim=16)).inv_freq
    assert torch.equal(turns[:, 6:], torch.ones(20, 2, dtype=torch.complex64))
    assert torch.allclose(turns[19].angle()[5], torch.tensor(19 * plain[5]), atol=1e-6)


@pytest.fixture(params=[*EMBEDDINGS, "resonance-yarn"])
def name(request):
    return request.param


def test_every_embedding_is_causal_and_has_its_shapes(name, tiny):
    made = embedding(name, tiny, 0)
    where = when_tested(made, 0)(23)
    model = Decoder(tiny.override({"dropout": 0.0}).model, seed=0)
    ids = torch.randint(0, 17, (2, 23), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, 15] = (ids[:, 15] + 1) % 17
    before, after = model(ids, where), model(changed, where)
    assert torch.allclose(before[:, :15], after[:, :15], atol=1e-6)
    assert not torch.allclose(before[:, 15:], after[:, 15:])
    with torch.no_grad():
        assert torch.allclose(model(ids, where), before, atol=1e-5)


def test_positions_matter_but_to_none(name, tiny):
    """A sequence of one token repeated: without positions every query sees the same values."""
    made = embedding(name, tiny.override({"n_layers": 1}), 0)
    model = Decoder(tiny.override({"dropout": 0.0}).model, seed=0)
    ids = torch.tensor([[3, 5, 9, 3, 5, 9, 11]])
    swapped = ids[:, [0, 2, 1, 3, 5, 4, 6]]
    where = when_tested(made, 0)(7)
    last, other = model(ids, where)[0, -1], model(swapped, where)[0, -1]
    assert torch.allclose(last, other, atol=1e-5) == (name == "none")


def test_every_embedding_trains_and_goes_on_to_the_same_bits(name, tiny, tmp_path, monkeypatch):
    cell = Cell(task="cot", method=name, seed=1)
    whole = run_cell(tmp_path / "whole", cell, tiny)
    parameters = whole["embedding"]["parameters"]
    assert (parameters > 0) == (name in ("learned", "t5", "fire"))
    with monkeypatch.context() as patch:
        saves = []

        def save_twice(out, work, plain=cells._save):
            plain(out, work)
            saves.append(work.trainer.step)
            if len(saves) == 2:
                raise KeyboardInterrupt

        patch.setattr(cells, "_save", save_twice)
        with pytest.raises(KeyboardInterrupt):
            run_cell(tmp_path / "stopped", cell, tiny)
    again = run_cell(tmp_path / "stopped", cell, tiny)
    for part in ("history", "last", "best"):
        assert again[part] == whole[part], part


def test_it_is_not_drawn_from_the_decoders_numbers(tiny):
    table = embedding("learned", tiny, 0).table
    tokens = Decoder(tiny.model, seed=0).embedding
    assert not torch.allclose(table[:17], tokens)
    assert torch.equal(table, embedding("learned", tiny, 0).table)
    assert not torch.equal(table, embedding("learned", tiny, 1).table)


@pytest.mark.parametrize("name", ["learned", "t5", "fire"])
def test_what_is_learned_moves(name, tiny):
    work = cells.prepared(Cell(task="cot", method=name, seed=0), tiny)
    before = {k: p.detach().clone() for k, p in work.trainer.position.named_parameters()}
    list(work.trainer.losses(6))
    moved = {k for k, p in work.trainer.position.named_parameters() if not torch.equal(p, before[k])}
    assert moved == set(before)


def test_attention_with_a_bias_is_the_textbooks():
    torch.manual_seed(0)
    batch, seq, heads, head_dim = 2, 7, 3, 4
    qkv = torch.randn(batch * seq, 3 * heads * head_dim, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(heads, seq, seq, dtype=torch.float64, requires_grad=True)
    angles = torch.rand(seq, head_dim // 2, dtype=torch.float64)
    turns = rotated(angles.cos(), angles.sin(), heads).turns

    def textbook(qkv, bias):
        q, k, v = qkv.view(batch, seq, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        pairs = (x.reshape(batch, heads, seq, -1, 2).contiguous() for x in (q, k))
        q, k = (torch.view_as_real(torch.view_as_complex(x) * turns[:, 0, 0]).flatten(-2) for x in pairs)
        scores = (q @ k.mT + bias).masked_fill(torch.ones(seq, seq).triu(1).bool(), -math.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch * seq, -1)

    got, want = attend(qkv, turns, None, bias), textbook(qkv, bias)
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(got)
    ours, theirs = (torch.autograd.grad((x * weight).sum(), (qkv, bias)) for x in (got, want))
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(attend(qkv, turns, None, bias), want)
        torch.testing.assert_close(attend(qkv, turns), attend(qkv, turns, None, torch.zeros_like(bias)))


def test_dropout_under_a_bias_is_that_without(tiny):
    model = Decoder(ModelConfig(d_model=16, n_heads=2, head_dim=8, d_ff=32, dropout=0.3), seed=0)
    ids = torch.randint(0, 17, (3, 9), generator=torch.Generator().manual_seed(0))
    plain = rotated(torch.ones(9, 4), torch.zeros(9, 4), 2)
    biased = replace(plain, bias=torch.zeros(2, 9, 9))
    torch.testing.assert_close(model(ids, plain, dropout_seed=5), model(ids, biased, dropout_seed=5))


@pytest.mark.parametrize("name", ["randomised-rope", "fire", "learned", "xpos", "yarn"])
def test_running_freely_has_the_positions_of_the_whole_sequence(name, tiny):
    """A model that is right nowhere writes in both ways the same first token."""
    model, tokens = Decoder(tiny.model, seed=0), torch.arange(5 * 23).view(5, 23) % 17
    position = embedding(name, tiny, 0)
    forced = evaluate(model, when_tested(position, 0), tokens, 4)
    written = tokens.clone()
    with torch.no_grad():
        written[:, 4] = model(tokens[:, :-1], when_tested(position, 0)(22))[:, 3].argmax(-1)
    assert run_freely(model, when_tested(position, 0), written, 4).correct[4] == 5
    assert forced.correct[4] == (written[:, 4] == tokens[:, 4]).sum()


def test_drawn_positions_are_drawn_anew_within_a_test_and_are_those_of_every_test(tiny):
    position = embedding("randomised-rope", tiny, 0)
    where, again = when_tested(position, 3), when_tested(position, 3)
    first, second = where(22), where(22)
    assert not torch.equal(first.turns, second.turns)
    assert torch.equal(again(22).turns, first.turns)
    asked = []

    def counted(length):
        asked.append(where(length))
        return asked[-1]

    evaluate(Decoder(tiny.model, seed=0), counted, torch.zeros(120, 23, dtype=torch.int64), 4)
    assert len(asked) == 3  # 50 rows at a time


def test_which_names_are_ones_own():
    assert all(map(built_in, ("distinct-yarn", "listed-rope", "alibi", "resonance-yarn")))
    assert not any(map(built_in, ("distinct-resonance-yarn", "distinct", "a:B", "bogus")))


def test_two_choices_of_integers_are_refused(tiny):
    with pytest.raises(ValueError, match="there are distinct-yarn and resonance-yarn"):
        embedding("distinct-resonance-yarn", tiny, 0)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resrope.longtext.compare import conclusion, even_block, lengths_around, verdicts
from resrope.longtext.curves import Tally
from resrope.longtext.perplexity import Measured, Protocol
from resrope.longtext.retrieval import Cell, Plan, Retrieval
from resrope.longtext.study import Study
from resrope.longtext.windows import blocks

PROTOCOL = Protocol(lengths=(256, 512, 1024), block=128, target=1024)


def measured(loss):
    """loss(position) in nats, the same in five texts."""
    losses = np.array([loss(m) for m in range(1, 1024)])
    row = [losses[: n - 1].sum() for n in PROTOCOL.lengths]
    blocks = [losses[max(b.start - 1, 0) : b.end - 1].sum() for b in PROTOCOL.blocks]
    counts = [n - 1 for n in PROTOCOL.lengths]
    sizes = [b.end - max(b.start, 1) for b in PROTOCOL.blocks]

    def tally(nats, tokens):
        return Tally(nats=np.tile(nats, (5, 1)), tokens=np.tile(np.array(tokens, dtype=float), (5, 1)))

    return Measured(
        by_length=tally(row, counts),
        by_block=tally(blocks, sizes),
        serves=1024,
        forwards={str(loss(1)): 1.0},
        commits=("abc",),
    )


def study(**methods):
    return Study(
        model="tiny",
        native=512,
        protocol=PROTOCOL,
        texts={f"t{i}": 1024 for i in range(5)},
        methods={name.replace("_", "-"): measured(loss) for name, loss in methods.items()},
        made={"command": None},
    )


def own(m):
    return 2.0 if m < 512 else 5.0


def test_a_method_that_holds_at_a_small_price_is_worth_it():
    found = verdicts(study(own=own, yarn=lambda m: 2.02))
    assert found[1].short[512].ratio == pytest.approx(np.exp(0.02))
    assert found[1].beyond == pytest.approx(np.exp(2.02))
    assert found[1].reference == pytest.approx(np.exp(2.0))
    assert (
        found[1].words
        == "holds to 1024 tokens (perplexity beyond × 1.02); costs little inside, 2.0 % at 256 tokens"
    )
    assert found[0].words.startswith("breaks at 512 tokens")
    assert conclusion(found).startswith("Worth it: yarn")


def test_a_price_on_short_prompts_is_named():
    found = verdicts(study(own=own, linear=lambda m: 2.3 if m < 300 else 2.0))
    assert "costs 35.0 % at 256 tokens" in found[1].words
    assert "35.0 % on short prompts" in conclusion(found)


def test_where_a_method_breaks():
    found = verdicts(study(own=own, ntk=lambda m: 2.0 if m < 768 else 4.0))
    assert found[1].broken_from == 768
    assert "breaks at 768 tokens" in found[1].words
    assert conclusion(found).startswith("Not worth it")


def test_a_method_that_breaks_nowhere_is_better_than_one_that_reads_better_until_it_breaks():
    broken, blunt = (lambda m: 2.0 if m < 896 else 2.8), (lambda m: 2.3)
    found = verdicts(study(own=own, yarn=broken, ntk=blunt))
    assert found[1].broken_from == 896
    assert found[1].beyond < found[2].beyond
    assert conclusion(found).startswith("A compromise: ntk")


def test_a_forward_on_which_two_methods_rest_counts_once():
    made = study(own=lambda m: 2.0, rope=lambda m: 2.0, yarn=lambda m: 2.1)
    assert made.to_dict()["seconds"] == made.seconds == 2.0


def test_a_model_that_holds_by_itself_needs_no_method():
    found = verdicts(study(own=lambda m: 2.0, yarn=lambda m: 2.01))
    assert conclusion(found) == (
        "Not worth it: beyond its context the model as it is does no worse than with yarn."
    )


def test_a_gain_not_worth_a_word_is_not_worth_it():
    found = verdicts(study(own=lambda m: 2.0, yarn=lambda m: 2.04 if m < 512 else 2.0 - 1e-4))
    assert found[1].beyond < found[0].beyond
    assert conclusion(found).startswith("Not worth it")
    found = verdicts(study(own=lambda m: 2.0, yarn=lambda m: 1.99))
    assert conclusion(found).startswith("Worth it: yarn")


def test_of_methods_that_read_alike_the_cheaper_is_best():
    cheap, dear = (lambda m: 2.01 if m < 512 else 2.001), (lambda m: 2.03 if m < 512 else 2.0)
    found = verdicts(study(own=own, yarn=dear, ntk=cheap))
    assert found[1].beyond < found[2].beyond
    assert conclusion(found).startswith("Worth it: ntk")
    assert "costs 1.0 % on short prompts" in conclusion(found)


def keys(**beyond):
    """What was found of four passkeys beyond the context."""
    cells = {name: [Cell(length=1024, depth=0.5, correct=n, trials=4)] for name, n in beyond.items()}
    plan = Plan(lengths=(1024,), depths=(0.5,), trials=4)
    return Retrieval(model="tiny", plan=plan, native_length=512, methods=cells)


def test_among_methods_that_hold_passkeys_decide():
    made = study(own=own, yarn=lambda m: 2.0, ntk=lambda m: 2.01)
    assert conclusion(verdicts(made)).startswith("Worth it: yarn")
    assert conclusion(verdicts(made, keys(own=0, yarn=0, ntk=4))).startswith("Worth it: ntk")


def test_a_model_that_finds_more_by_itself_needs_no_method():
    made = study(own=lambda m: 2.0, yarn=lambda m: 1.95)
    assert conclusion(verdicts(made, keys(own=4, yarn=0))).startswith("Not worth it")


def test_a_method_that_degrades_is_a_compromise():
    found = verdicts(
        study(own=own, yarn=lambda m: 2.0 if m < 512 else 2.4, ntk=lambda m: 2.0 if m < 512 else 2.5)
    )
    assert conclusion(found).startswith("A compromise: yarn does best beyond, where it degrades")


def test_a_comparison_needs_a_method():
    with pytest.raises(ValueError, match="a method beside own"):
        conclusion(verdicts(study(own=own)))


def test_blocks_that_do_not_straddle_the_context():
    assert even_block(8192, 16384) == 1024
    assert even_block(2047, 4096) == 89
    assert even_block(2053, 4200) == 2053, "a prime: one block inside"
    assert even_block(8192, 8300) == 64, "what lies beyond is a block of its own"
    with pytest.raises(ValueError, match="further beyond the 8192 tokens the model serves, got 8200"):
        even_block(8192, 8200)
    with pytest.raises(ValueError, match="further beyond the 2053 tokens"):
        even_block(2053, 2100)


@given(st.integers(2, 5000), st.integers(1, 9000))
def test_there_is_a_block_beyond_and_none_on_both_sides(native, more):
    try:
        size = even_block(native, native + more)
    except ValueError:
        assert more < native
        return
    made = blocks(native + more, size)
    assert native in [b.end for b in made]
    assert made[-1].start >= native


def test_degrading_is_neither():
    assert "degrades beyond" in verdicts(study(own=own, ntk=lambda m: 2.0 if m < 512 else 2.4))[1].words


def test_passkeys_inside_and_beyond():
    plan = Plan(lengths=(256, 1024), depths=(0.0, 1.0), trials=2)
    cells = [
        Cell(length=n, depth=d, correct=c, trials=2)
        for (n, d), c in zip([(256, 0.0), (256, 1.0), (1024, 0.0), (1024, 1.0)], (2, 2, 1, 0), strict=True)
    ]
    retrieval = Retrieval(model="tiny", plan=plan, native_length=512, methods={"own": cells, "yarn": cells})
    found = verdicts(study(own=own, yarn=lambda m: 2.0), retrieval)
    assert found[1].found == (1.0, 0.25)
    assert found[1].words.endswith("finds 100 % inside and 25 % beyond of the passkeys")


def test_lengths_around_the_trained_length():
    assert lengths_around(8192, 16384) == (512, 1024, 2048, 4096, 8192, 16384)
    assert lengths_around(512, 600) == (256, 512, 600)
    with pytest.raises(ValueError, match="beyond the 8192 tokens that the model serves, got 4096"):
        lengths_around(8192, 4096)
    with pytest.raises(ValueError, match="None"):
        lengths_around(None, 4096)


def test_a_study_within_the_trained_length_has_no_verdict():
    inside = study(own=own)
    with pytest.raises(ValueError, match=r"and beyond$"):
        verdicts(Study(**{**{f: getattr(inside, f) for f in inside.__slots__}, "native": 4096}))

import math

import pytest
import torch

from resrope.posgen.dropout import Dropout, Mask, Place, keep_where_above


def test_keep_where_above_by_hand():
    x = torch.tensor([1.0, -2.0, 3.0, 4.0])
    gate = torch.tensor([0.0, 1.0, -1.0, 0.5])
    assert keep_where_above(x, gate, 0.0).tolist() == [0.0, -2.0, 0.0, 4.0]
    assert x.tolist() == [1.0, -2.0, 3.0, 4.0]
    assert keep_where_above(x, gate, 0.5, out=x) is x
    assert x.tolist() == [0.0, -2.0, 0.0, 0.0]


def test_a_mask_keeps_what_lies_above_its_limit():
    mask = Mask(torch.tensor([-5, -4, 7, -32768], dtype=torch.int16), -5)
    assert mask.kept(torch.ones(2, 2, dtype=torch.float64)).tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_equal_arguments_draw_equal_masks_in_any_order():
    first, second = Dropout(0.1, 7), Dropout(0.1, 7)
    a = first.mask(Place.HIDDEN, 1, (50, 40))
    second.mask(Place.FINAL, 0, (3, 3))
    torch.manual_seed(0)
    assert torch.equal(a.noise, second.mask(Place.HIDDEN, 1, (50, 40)).noise)


def test_the_number_of_threads_does_not_change_a_mask():
    def draw(threads):
        torch.set_num_threads(threads)
        return Dropout(0.1, 7).mask(Place.HIDDEN, 1, (1 << 19,)).noise

    before = torch.get_num_threads()
    try:
        one, two = draw(1), draw(2)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)
    half = one.view(2, -1).double()
    assert abs(torch.corrcoef(half)[0, 1]) < 5 / math.sqrt(half.shape[1])


def test_every_seed_layer_and_place_has_its_own_mask():
    masks = [
        Dropout(0.5, seed).mask(place, layer, (40, 40)).noise.flatten()
        for seed in (0, 1, 2**70)
        for layer in (0, 1)
        for place in Place
    ]
    kept = (torch.stack(masks) > 0).double() * 2 - 1
    correlation = kept @ kept.T / kept.shape[1]
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() < 5 / math.sqrt(kept.shape[1])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
    dropout, count = Dropout(rate, 3), 1_000_003  # not a multiple of four
    mask = dropout.mask(Place.HIDDEN, 0, (count,))
    kept = mask.kept(torch.ones(count, dtype=torch.float64))
    spread = math.sqrt(rate * (1 - rate) / count)
    assert abs(1 - kept.mean().item() - rate) < 4 * spread
    assert abs(kept.mean().item() * dropout.scale - 1) < 4 * spread / (1 - rate)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.99999])
def test_the_scale_is_the_inverse_of_the_exact_rate_of_keeping(rate):
    every_level = torch.arange(-(2**15), 2**15).to(torch.int16)
    dropout = Dropout(rate, 0)
    limit = dropout.mask(Place.HIDDEN, 0, (1,)).limit
    kept = Mask(every_level, limit).kept(torch.ones(2**16))
    assert kept.sum().item() == pytest.approx(2**16 / dropout.scale, rel=1e-12)
    assert abs(1 / dropout.scale - (1 - rate)) <= 2**-16


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan])
def test_bad_rates_are_refused(rate):
    with pytest.raises(ValueError, match=r"dropout rate must be >= 0 and < 1, got"):
        Dropout(rate, 0)


def test_negative_seeds_are_refused():
    with pytest.raises(ValueError, match=r"dropout_seed must be a non-negative integer, got -1"):
        Dropout(0.1, -1)

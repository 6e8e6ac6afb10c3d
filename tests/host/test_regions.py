"""Words that count inside a mask only, in one forward of the drawing model."""

import pytest
import torch
from random_states import FIRST, TEXT, hidden_states, pool, weighted
from test_conditioning_travels import average, concat, draw

pytestmark = pytest.mark.needs("weights")
LEFT = torch.zeros(1, 64, 96)
LEFT[..., :48] = 1
RIGHT = 1 - LEFT


@pytest.fixture
def library():
    from unifusion_pack.unifusion import hidden_states

    return hidden_states


@pytest.fixture
def place(bridge):
    return lambda hidden, mask, **how: bridge("actions.place").run(hidden, mask, **how)[0]


def words(library, seed, count=4):
    return hidden_states(library, seed, ((TEXT, count),))


def test_a_mask_of_ones_is_bit_identical(bridge, krea2_model, library, place):
    hidden = hidden_states(library)
    assert place(hidden, torch.ones(1, 32, 32)) is hidden
    model, positive, _ = pool(bridge, krea2_model, place(hidden, torch.ones(3, 5), feather=9))
    assert torch.equal(draw(model, positive), draw(*pool(bridge, krea2_model, hidden)[:2]))


def test_one_region_under_one_forward_equals_the_equation(bridge):
    """A picture's query meets a region's key with log m; text of other regions is not seen."""
    masks = torch.zeros(1, 64, 64)
    masks[:, :, :32] = 0.5
    regions = torch.tensor([[0, 1, 1]])
    matrix = bridge("drawers.regions").RegionBias(regions, [masks], (2, 2)).matrix(3 + 4, torch.zeros(1))
    inf = float("inf")
    expected = torch.tensor([[0, -inf, -inf], [0, 0, 0], [0, 0, 0], [0, 0.5, 0.5], [0, 0, 0], [0, 0.5, 0.5], [0, 0, 0]])
    expected[3:, 1:] = torch.where(expected[3:, 1:] > 0, expected[3:, 1:].log(), torch.tensor(-inf))
    torch.testing.assert_close(matrix[0, 0], expected)


def test_left_words_change_the_left_more(bridge, krea2_model, library, place):
    common, left = words(library, 0), words(library, 1)
    model, positive, _ = bridge("actions.pool").run(krea2_model, common, more=[place(left, LEFT)])[:3]
    _, without, _ = pool(bridge, krea2_model, common)
    change = (draw(model, positive, steps=1) - draw(model, without, steps=1)).abs()
    assert change[..., :6].mean() > 2 * change[..., 6:].mean() > 0


def test_two_regions_and_a_common_rest_run_in_one_forward(bridge, krea2_model, library, place):
    from test_weights import count_rows

    parts = [
        words(library, 0),
        place(words(library, 1), LEFT),
        place(words(library, 2), RIGHT, strength=2.0, feather=8),
    ]
    model, positive, _ = bridge("actions.pool").run(krea2_model, parts[0], more=parts[1:])[:3]
    rows = count_rows(model)
    drawn = draw(model, positive)
    assert rows == [1] * 4 and torch.isfinite(drawn).all()
    swapped = [parts[0], place(words(library, 1), RIGHT), place(words(library, 2), LEFT, strength=2.0, feather=8)]
    other = bridge("actions.pool").run(krea2_model, swapped[0], more=swapped[1:])[1]
    assert (draw(model, other) - drawn).abs().max() > 1e-3


def test_strength_two_is_the_region_twice(bridge, krea2_model, library, place):
    common, left = words(library, 0), words(library, 1)
    heavy = bridge("actions.pool").run(krea2_model, common, more=[place(left, LEFT, strength=2.0)])
    plain = bridge("actions.pool").run(krea2_model, common, more=[place(left, LEFT)])
    features = bridge("drawers.token_features")
    carried = features.split(plain[1][0][0], left.width)
    index = (carried.regions[0] == 1).nonzero()[:, 0]
    tensor = plain[1][0][0]
    twice = [[torch.cat([tensor[:, : index[0]], tensor[:, index], tensor[:, index[0] :]], dim=1), plain[1][0][1]]]
    single, double = draw(plain[0], plain[1]), draw(plain[0], twice)
    drawn = draw(heavy[0], heavy[1])
    assert (double - single).abs().max() > 1e-4
    # In the text's own attention a token given twice weighs twice, a strength in the picture does not: near, not equal.
    assert (drawn - double).abs().max() < (drawn - single).abs().max()


def test_joined_by_a_stock_node_each_keeps_its_place(bridge, krea2_model, library, place):
    left, right = (place(words(library, seed), mask) for seed, mask in ((1, LEFT), (2, RIGHT)))
    model, both, _ = bridge("actions.pool").run(krea2_model, left, more=[right])[:3]
    apart = [pool(bridge, krea2_model, part)[1] for part in (left, right)]
    torch.testing.assert_close(draw(model, concat(*apart)), draw(model, both), rtol=1e-5, atol=1e-5)


def test_averaged_with_another_place_is_refused(bridge, krea2_model, library, place):
    left, plain = place(words(library, 1, 30), LEFT), words(library, 2, 60)
    model, positive, _ = pool(bridge, krea2_model, left)
    with pytest.raises(ValueError, match="words in a region, was mixed"):
        draw(model, average(positive, pool(bridge, krea2_model, plain)[1], 0.5))


def test_positive_with_regions_and_negative_without_in_one_batch(bridge, krea2_model, library, place):
    left = place(words(library, 1), LEFT)
    model, positive, _ = pool(bridge, krea2_model, left)
    length = positive[0][0].shape[1]
    same = pool(bridge, krea2_model, words(library, 3, length))[1]
    longer = concat(same, pool(bridge, krea2_model, words(library, 4, 1))[1])
    assert torch.isfinite(draw(model, positive, same, cfg=3.0)).all()
    by_batch, alone = draw(model, positive, same, cfg=1.0), draw(model, positive, longer, cfg=1.0)
    assert torch.equal(by_batch, alone)


def test_regions_are_saved_and_loaded_bit_equal(bridge, krea2_model, library, place, tmp_path, monkeypatch):
    import folder_paths

    for which in ("input", "output", "temp"):
        (tmp_path / which).mkdir()
        monkeypatch.setattr(folder_paths, f"{which}_directory", str(tmp_path / which))
    hidden = bridge("actions.pool").run  # pooled and unpooled
    both = library.join([words(library, 0), place(weighted(library, hidden_states(library, 1), {FIRST: 2.0}), LEFT)])
    model, positive, *_ = hidden(krea2_model, both)
    files = bridge("actions.stored_files")
    name, _ = files.save(both, None, "region/states", None, None)
    loaded = files.load(name, krea2_model)[3]
    assert torch.equal(loaded.regions, both.regions) and torch.equal(loaded.masks[0], both.masks[0])
    assert torch.equal(draw(model, hidden(krea2_model, loaded)[1]), draw(model, positive))
    name, _ = files.save(positive, None, "region/pooled", None, None)
    assert torch.equal(draw(*files.load(name, krea2_model)[:2]), draw(model, positive))


@pytest.mark.parametrize(
    "mask",
    [torch.zeros(1, 8, 8), torch.full((1, 8, 8), float("nan")), torch.ones(2, 2, 2, 2), None, torch.ones(1, 0, 3)],
)
def test_what_is_no_mask_is_refused(library, place, mask):
    with pytest.raises(ValueError, match=r"[Mm](ask|ASK).*\.$"):
        place(words(library, 0), mask)

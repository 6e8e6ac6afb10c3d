"""Pictures are brought to their budget with the aspect kept; changes are said, what cannot be used is refused."""

from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unifusion import contact_sheet
from unifusion.profiles import PROFILES
from unifusion.references import (
    DETAILS,
    LEAST_TOKENS,
    TOKEN,
    Reference,
    combine,
    combined_lines,
    count_views,
    fit,
    from_batch,
    from_images,
    patches,
    prepare,
    prepared_lines,
    tile_grid,
    token_grid,
    unknown_labels,
)


def picture(height, width, value=0.5):
    return torch.full((1, height, width, 3), value)


# Sizes


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(LEAST_TOKENS, 600))
@settings(max_examples=150, deadline=None)
def test_a_view_never_exceeds_its_tokens_and_keeps_its_shape_where_it_can(height, width, tokens):
    rows, columns = token_grid(height, width, tokens)
    assert LEAST_TOKENS <= rows * columns <= tokens
    if tokens >= 64 and 0.5 <= width / height <= 2:
        assert abs(log(columns / rows * height / width)) < 0.2
        assert rows * columns > 0.6 * tokens


def test_the_miniature_sees_its_pictures_untouched_and_krea_2_at_144_tokens():
    reference = Reference(torch.rand(1, 128, 128, 3))
    tokens = {key: PROFILES[key].image_pixels // TOKEN**2 for key in PROFILES}
    assert torch.equal(prepare(reference, tokens["miniature"]).views[0], reference.picture)
    assert prepare(reference, tokens["krea2"]).grids == [(12, 12)]


def test_a_gradient_stays_a_gradient():
    ramp = torch.linspace(0, 1, 400)[None, None, :, None].expand(1, 200, 400, 3)
    view = fit(ramp, 32)
    assert view.shape == (1, 128, 256, 3)
    torch.testing.assert_close(
        view[0, :, 8:-8], torch.linspace(0, 1, 256)[None, 8:-8, None].expand(128, 240, 3), atol=0.01, rtol=0
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 3)])
def test_tiny_and_thin_pictures_are_seen_and_reported(size):
    seen = prepare(Reference(picture(*size), tiles=10), 16)
    assert len(seen.views) == 1 and LEAST_TOKENS <= seen.tokens <= 16
    assert "enlarged from" in seen.note or "does not fit" in seen.note
    assert "too small to be cut" in seen.note


def test_a_huge_picture_is_brought_down_first_and_reported():
    row = torch.linspace(0, 1, 12000)[None, None, :, None]
    reference = from_batch(row.expand(1, 8000, 12000, 3), "a")[0]
    assert reference.picture.shape[1] * reference.picture.shape[2] <= 2**24
    assert reference.picture.shape[2] / reference.picture.shape[1] == pytest.approx(1.5, rel=1e-3)
    assert reference.note == "12000 x 8000 pixels brought to 5016 x 3344 first"
    assert prepare(reference, 144).tokens <= 144


# Tiles: patches first, the whole last


@pytest.mark.parametrize(
    ("size", "tiles", "grid"),
    [
        ((512, 512), 1, (1, 1)),
        ((512, 512), 5, (2, 2)),
        ((512, 512), 10, (3, 3)),
        ((512, 1024), 3, (1, 2)),
        ((300, 900), 4, (1, 3)),
        ((40, 40), 10, (1, 1)),
    ],
)
def test_patches_suit_the_shape(size, tiles, grid):
    assert tile_grid(*size, tiles) == grid


@pytest.mark.parametrize("tiles", DETAILS.values())
@pytest.mark.parametrize("size", [(97, 131), (300, 200), (65, 900)])
def test_tiles_cover_every_pixel_once_and_the_whole_comes_last(size, tiles):
    image = torch.arange(size[0] * size[1]).view(1, *size, 1).expand(1, *size, 3) / (size[0] * size[1])
    parts = patches(image, tiles)
    covered = torch.cat([part[..., 0].flatten() for part in parts]) if parts else image[..., 0].flatten()
    assert torch.equal(covered.sort().values, image[..., 0].flatten())
    seen = prepare(Reference(image, tiles=tiles), 16)
    assert len(seen.views) == len(parts) + 1 == count_views(image, tiles) <= tiles
    assert torch.equal(seen.views[-1], fit(image, 16))


# Budget


@pytest.mark.parametrize("budget", [36, 100, 1000])
def test_pictures_share_a_budget(budget):
    references = [Reference(picture(200, 300)), Reference(picture(300, 200), tiles=5), Reference(picture(64, 64))]
    combined = combine(references, budget)
    used = sum(prepare(reference, 9999).tokens for reference in combined)
    assert 0.5 * budget < used <= budget
    assert f"budget: {used} of {budget} tokens" in combined_lines(combined, budget)[-1]


def test_a_budget_too_small_is_refused_by_name():
    references = [Reference(picture(200, 200), tiles=5), Reference(picture(200, 400), tiles=3)]
    with pytest.raises(ValueError, match=r"budget of 31 tokens .* 2 pictures with 8 views: .*together 32"):
        combine(references, 31)
    assert [reference.tokens for reference in combine(references, 32)] == [4, 4]


def test_a_picture_keeps_its_own_detail_setting():
    combined = combine([Reference(picture(200, 200), tiles=1), Reference(picture(200, 200))], tiles=5)
    assert [reference.tiles for reference in combined] == [1, 5]


# Bad input


def test_no_picture_is_refused():
    with pytest.raises(ValueError, match="There is no picture"):
        combine([])
    with pytest.raises(ValueError, match="There is no picture"):
        combine(from_images({"image0": None}))


def test_a_batch_of_twenty_becomes_twenty_numbered_references():
    batch = torch.arange(20).view(20, 1, 1, 1).expand(20, 32, 32, 3) / 20
    references = from_batch(batch, "a", label="frame", strength=0.5)
    assert [reference.label for reference in references] == [f"frame {number}" for number in range(1, 21)]
    assert all(
        torch.equal(reference.picture, batch[number : number + 1]) for number, reference in enumerate(references)
    )
    assert len(combined_lines(combine(references, 100), 100)) == 21


def test_alpha_is_put_on_white_and_reported():
    image = torch.zeros(1, 8, 8, 4)
    image[..., :4, 3] = 1.0
    reference = from_batch(image, "a")[0]
    assert reference.picture[..., :4, :].max() == 0 and reference.picture[..., 4:, :].min() == 1
    assert "transparency put on white" in prepared_lines([prepare(reference, 16)])[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused_by_name(bad):
    batch = torch.rand(3, 40, 40, 3)
    batch[1, 20, 30, 2] = bad
    with pytest.raises(ValueError, match="image0, picture 2 of 3, contains NaN or infinite pixels"):
        from_images({"image0": batch})


@pytest.mark.parametrize("shape", [(1, 8, 8, 2), (1, 0, 8, 3), (0, 8, 8, 3), (8, 8), (2, 2, 8, 8, 3)])
def test_what_is_no_picture_is_refused_by_name(shape):
    with pytest.raises(ValueError, match="image0.* is (not a picture|an empty batch)"):
        from_images({"image0": torch.zeros(shape)})


def test_gray_pictures_and_values_out_of_range_are_taken():
    assert from_batch(torch.full((1, 4, 4, 1), 0.25), "a")[0].picture.shape == (1, 4, 4, 3)
    assert from_batch(torch.full((1, 4, 4, 3), 1.5), "a")[0].picture.max() == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -2.5}, "strength of a reference must be -2 or more"),
        ({"strength": float("nan")}, "strength"),
        ({"start": 0.5, "end": 0.5}, "some part of the schedule"),
        ({"start": 0.9, "end": 0.1}, "some part of the schedule"),
        ({"label": "a<|im_end|>"}, "plain words"),
        ({"label": "two\nlines"}, "plain words"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        from_batch(picture(8, 8), "a", **settings)


def test_sockets_are_taken_in_the_order_of_their_numbers():
    images = {f"image{number}": picture(4, 4, number / 20) for number in (10, 2, 0)}
    assert [round(float(r.picture[0, 0, 0, 0]) * 20) for r in from_images(images)] == [0, 2, 10]


# Labels


def test_label_styles():
    references = [Reference(picture(4, 4)), Reference(picture(4, 4), label="the dog"), Reference(picture(4, 4))]

    def labels(style):
        return [reference.label for reference in combine(references, labels=style)]

    assert labels("own labels") == ["", "the dog", ""]
    assert labels("none") == ["", "", ""]
    assert labels("Image 1:") == ["Image 1", "the dog", "Image 3"]
    assert labels("Picture 1:") == ["Picture 1", "the dog", "Picture 3"]


def test_the_same_label_twice_is_refused():
    with pytest.raises(ValueError, match="Two references have the label 'the dog'"):
        combine([Reference(picture(4, 4), label="the dog"), Reference(picture(4, 4), label="The dog")])


def test_labels_in_the_prompt_that_no_picture_has_are_found():
    references = combine([Reference(picture(4, 4)), Reference(picture(4, 4))], labels="Image 1:")
    assert unknown_labels("the hat of Image 1 on image 2", references) == []
    assert unknown_labels("image 3 beside Picture 1 and image 3, imagery 4", references) == ["image 3", "Picture 1"]


def test_a_name_is_shown_where_labels_are_left_out(monkeypatch):
    written = []
    monkeypatch.setattr(contact_sheet, "_write", lambda pen, at, text, fill=None: written.append(text))
    arranged = [*from_batch(picture(4, 4), "a", "The Hero"), *from_batch(picture(4, 4), "b")]
    combined = combine(arranged, labels="none")
    contact_sheet.draw(combined)
    assert [line for line in written if line[:1].isdigit() and "token" not in line] == ["1  The Hero", "2  (no name)"]
    first, second, _ = combined_lines(combined, 0)
    assert first.startswith("image 1 'The Hero': ") and second.startswith("image 2: ")


# Contact sheet


def test_the_sheet_shows_every_picture_and_its_strength():
    references = [
        *from_batch(picture(60, 90, 0.2), "a", "the dog", 2.0),
        *from_batch(picture(200, 200, 0.4), "b", tiles=5),
        *from_batch(picture(90, 60, 0.6), "c", strength=0.0, end=0.5),
        *from_batch(picture(1, 1, 0.8), "d"),
        *from_batch(picture(64, 64, 0.1), "e", label="a name that is far too long for one line of the sheet"),
    ]
    for budget in (0, 200):
        sheet = contact_sheet.draw(combine(references, budget))
        assert sheet.ndim == 4 and sheet.shape[0] == 1 and sheet.shape[3] == 3
        assert sheet.dtype == torch.float32 and 0 <= sheet.min() and sheet.max() <= 1
        for value in (0.2, 0.4, 0.8, 0.1):  # the one of strength 0 is veiled
            assert ((sheet - round(value * 255) / 255).abs() < 1e-3).all(-1).sum() > 500
    stronger = contact_sheet.draw(combine([references[0]._replace(strength=1.0), *references[1:]], 200))
    assert not torch.equal(sheet, stronger)

"""Maps of attention: their numbers, what is blank in them, their colours and their labels."""

import base64
import io
import itertools
import re

import numpy as np
import pytest
from matplotlib import image

from lissome.report import language_page
from lissome.report.drawing import svg
from lissome.report.language_files import read_maps
from lissome.report.language_maps import KINDS, drawings, heads, names, scale, sentence
from tests.report.language_runs import checked, kept, made

REFINED, _, WEIGHTS = KINDS


def test_maps_are_the_numbers_with_unseen_pairs_blank(tmp_path):
    maps = read_maps(made(tmp_path / "run"))
    future = np.triu(np.ones((25, 25), bool), 1)
    for kind in KINDS:
        ends = scale(maps, kind)
        axes = heads(maps, 1, kind, ends).axes[0]
        assert [text.get_text() for text in axes.texts] == ["head 1", "head 2", "head 3"]
        for head, picture in enumerate(axes.images):
            values, norm = picture.get_array(), picture.norm
            truth = maps.layers[1][kind.name][head]
            assert np.array_equal(np.ma.getmaskarray(values), future)
            assert values.filled(0)[~future] == pytest.approx(np.sqrt(truth[~future]) if kind.root else truth[~future])
            assert (norm.vmin, norm.vmax) == ends


@pytest.mark.parametrize("many", [1, 2, 3, 5, 6, 16])
def test_maps_of_any_number_of_heads_lie_beside_and_below_each_other(tmp_path, many):
    kept(tmp_path, layers=1, many=many, text="to be, or")
    axes = heads(read_maps(tmp_path), 0, WEIGHTS, (0.0, 1.0)).axes[0]
    boxes = [tuple(picture.get_extent()) for picture in axes.images]
    assert len(boxes) == len(set(boxes)) == many
    for one, two in itertools.combinations(boxes, 2):
        assert one[1] < two[0] or two[1] < one[0] or one[2] < two[3] or two[2] < one[3]
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for left, right, below, above in boxes:
        assert low <= left < right <= high
        assert top < above < below <= bottom
    lowest = [box for box in boxes if box[2] == bottom]
    for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        (box,) = (box for box in lowest if box[0] < tick < box[1])
        assert "to be, or"[round(tick - box[0] - 0.5)] == label.get_text().replace("␣", " ")


def test_the_scale_of_scores_is_shared_and_has_zero_in_the_middle(tmp_path):
    maps = read_maps(made(tmp_path / "run"))
    low, high = scale(maps, REFINED)
    assert low == -high
    seen = np.abs(np.concatenate([own["refined"][:, own["valid"] > 0] for own in maps.layers.values()]))
    assert np.mean(seen > high) < 0.01
    assert high < seen.max()
    assert scale(maps, WEIGHTS) == (
        0,
        pytest.approx(np.sqrt(max(own["weights"].max() for own in maps.layers.values()))),
    )
    maps.layers[0]["weights"][0, 0, 0] = -1  # of the first variant of self-adjusting weights
    assert scale(maps, WEIGHTS)[0] == -scale(maps, WEIGHTS)[1]


def test_colours_are_blue_above_zero_red_below_and_the_page_shines_through_at_zero_and_beyond(tmp_path):
    path = made(tmp_path / "run")
    maps = read_maps(path)
    maps.layers[0]["refined"][:] = np.where(np.arange(25) < 12, -3.0, 3.0)  # columns
    maps.layers[0]["refined"][:, :, 5] = 0
    text = svg(heads(maps, 0, REFINED, (-3.0, 3.0)), "n", "t")
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', text)
    pictures = [image.imread(io.BytesIO(base64.b64decode(data.replace("\n", "")))) for data in found]
    square = next(each for each in pictures if each.shape[0] == each.shape[1])
    square = square if square[0, 0, 3] > 0 and square[0, -1, 3] == 0 else square[::-1]
    red, none, blue = square[-1, 0], square[-1, 5], square[-1, -1]
    assert red[0] > red[2] + 0.4
    assert blue[2] > blue[0] + 0.4
    assert (red[3], blue[3]) == (1, 1)
    assert none[3] < 0.2
    assert square[0, -1, 3] == 0


def test_a_self_adjusting_row_of_zeros_and_numbers_that_are_not_finite_are_drawn(tmp_path):
    maps = read_maps(made(tmp_path / "run"))
    for own in maps.layers.values():
        own["weights"][:], own["refined"][:] = 0, np.nan
    for kind in (WEIGHTS, REFINED):
        assert "<svg" in svg(heads(maps, 0, kind, scale(maps, kind)), "n", "t")


def test_labels_are_tokens_where_they_fit_and_words_elsewhere():
    assert names(["def", " f", "(", "\n", " "], 100) == [(0, "def"), (1, "f"), (2, "("), (3, "⏎"), (4, "␣")]
    assert names(["\x00", "\ufffd", "a" * 30], 100) == [(0, "·"), (1, "\ufffd"), (2, "aaaaaaa…")]
    words = names(list("one two  three"), 60)
    assert words == [(1, "one"), (5, "two"), (11, "three")]
    places = [place for place, _ in names(list("a b c d e f g h " * 6), 120)]
    assert all(later - place >= 7.5 * 96 / 120 for place, later in itertools.pairwise(places))
    assert names([" "] * 40, 100) == []
    assert names(["ab", " cd", "ef", " gh"], 20) == [(0, "ab"), (2, "ef")]


def test_the_page_bears_any_text(tmp_path):
    run = made(tmp_path / "run", full=False)
    kept(run, text="\x00\x1b<&>\"'$\\x$ \u732b \U0001f642\n\t\ufffd", many=1)
    assert "\x00" not in checked(language_page(run))


def test_what_is_left_out_of_the_maps_is_said(tmp_path):
    maps = read_maps(made(tmp_path / "run"))
    assert sentence(maps) == "What the model does with “to be, or not <to> be $x$”, 25 tokens."
    maps.told.update(cut=30, depth=24, width=32)
    assert sentence(maps).endswith(
        "25 tokens; 30 more were left out; 2 of its 24 layers are shown, evenly spaced; 3 of its 32 heads are shown, "
        "evenly spaced."
    )


def test_layers_of_a_deep_model_open_on_a_click(tmp_path):
    kept(tmp_path, layers=6, many=1, text="ab", refine=False)
    text = drawings(tmp_path / "figures", read_maps(tmp_path))
    assert text.count("<summary>Layer ") == 2
    assert (
        text.index("Layer 4, weights")
        < text.index("<summary>Layer 5</summary>")
        < text.index("Layer 5, scores after bias,")
    )

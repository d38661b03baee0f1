"""The page of a language model: its figures hold the numbers of its files, and its files may be missing or broken."""

import itertools
import json
import re

import numpy as np
import pytest

from lissome._errors import UsageError
from lissome.report import language_page
from lissome.report.drawing import palette, svg
from lissome.report.language_curves import by_length, decays, gradients, losses, parts, separators
from lissome.report.language_files import Lengths, is_language, read_gradients, read_lengths, read_maps, read_shares
from lissome.report.language_maps import KINDS
from lissome.report.read import read_run
from tests.report.language_runs import checked, kept, made, shares


def test_a_page_shows_all_that_a_run_keeps_in_one_file(tmp_path):
    run = made(tmp_path / "run")
    text = checked(language_page(run))
    assert "Language model: kerple; dape(3); softmax; causal" in text
    assert "Perplexity 24.5 (3.00 bits per byte) on the held-out part of the text &lt;i&gt; &amp; more, after" in text
    assert "after 100 steps and 25 s, with 1,234 trained numbers." in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    drawn = {path.stem for path in (run / "figures").iterdir()}
    assert drawn == {
        "loss-steps",
        "loss-seconds",
        "lengths",
        "gradients",
        "bias",
        "attention-parts",
        "attention-separators",
    } | {f"layer-{layer}-{kind.name}" for layer in (1, 2) for kind in KINDS}
    assert text.count("<svg") == len(drawn)
    assert language_page(run).read_text() == text
    assert is_language(run)


def test_what_is_missing_is_left_out(tmp_path):
    run = made(tmp_path / "run", all_files=False)
    assert "Attention" not in checked(language_page(run))
    assert {path.stem for path in (run / "figures").iterdir()} == {"loss-steps", "loss-seconds"}
    kept(run, bias=False, refine=False, many=1, text="to be")
    language_page(run)
    assert {path.stem for path in (run / "figures").iterdir()} >= {"layer-1-refined", "layer-2-weights"}
    assert not [path for path in (run / "figures").iterdir() if path.stem in ("bias", "layer-1-correction")]


def test_a_run_in_progress_has_a_page(tmp_path):
    run = made(tmp_path / "run", summary=False, full=False)
    text = checked(language_page(run))
    assert "This run has not finished" in text
    assert "Language model: causal; kerple; dape(3); softmax" in text
    (run / "metrics.jsonl").unlink()
    for name in ("maps.safetensors", "lengths.json", "gradients.jsonl", "separators.json"):
        (run / name).unlink()
    text = checked(language_page(run))
    assert "There is no evaluation with a finite loss yet." in text
    assert "No evaluations yet, so there are no figures." in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lengths.json", '{"rows": [{"length": 64}]}'),
        ("lengths.json", '{"rows": [{"length": "many", "nats": 2, "error": 0}]}'),
        ("lengths.json", "{"),
        ("lengths.json", "[1]"),
        ("gradients.jsonl", '{"step": 20}\n'),
        ("gradients.jsonl", '{"step": 1, "embedding": 1, "layers": [1, 2], "stages": [1]}\n'),
        ("gradients.jsonl", "nonsense\n{}\n"),
        ("separators.json", '{"attention": {"rest": [[1]]}, "keys": {}, "row_sum": [[1]]}'),
        ("separators.json", '{"attention": 3}'),
        ("maps.safetensors", "nonsense"),
        ("sentence.json", '{"pieces": ["a"], "layers": [0], "heads": [0]}'),
        ("sentence.json", '{"pieces": null, "layers": [0], "heads": [0]}'),
        ("metrics.jsonl", "nonsense\n{}\n"),
    ],
)
def test_a_damaged_file_is_one_sentence_that_names_it(tmp_path, name, content):
    run = made(tmp_path / "run", full=False)
    (run / name).write_text(content)
    with pytest.raises(UsageError) as caught:
        language_page(run)
    words = str(caught.value)
    assert re.search(r"maps\.safetensors|sentence\.json" if name == "sentence.json" else re.escape(name), words)
    assert "broken" in words or "expected" in words
    assert "\n" not in words
    assert not (run / "index.html").exists()


@pytest.mark.parametrize("key", ["depth", "cut", "length"])
def test_a_sentence_whose_numbers_are_none_is_broken(tmp_path, key):
    run = made(tmp_path / "run", full=False)
    told = json.loads((run / "sentence.json").read_text())
    (run / "sentence.json").write_text(json.dumps(told | {key: "many"}))
    with pytest.raises(UsageError, match=r"broken \(or does not fit sentence\.json\)"):
        language_page(run)


def test_curves_of_loss_are_the_rows(tmp_path):
    run = read_run(made(tmp_path / "run"))
    for x in ("step", "seconds"):
        lines = losses(run.metrics, x).axes[0].get_lines()
        for line, key in zip(lines, ("loss", "validation_loss"), strict=True):
            assert line.get_xdata().tolist() == [row[x] for row in run.metrics]
            assert line.get_ydata().tolist() == [row[key] for row in run.metrics]


def test_a_loss_that_hardly_moves_fills_its_axes():
    rows = [{"step": step, "loss": 5.4 + 0.1 * step, "validation_loss": 5.5} for step in range(3)]
    low, high = losses(rows, "step").axes[0].get_ylim()
    assert 5.3 < low < 5.4
    assert 5.6 < high < 5.7
    rows[2]["loss"] = 1.3
    axes = losses(rows, "step").axes[0]
    assert axes.get_yscale() == "log"
    svg(axes.figure, "n", "t")
    ticks = [tick.get_text() for tick in (*axes.get_yticklabels(), *axes.get_yticklabels(minor=True))]
    assert {"2", "3", "4"} <= set(ticks)


def test_perplexity_by_length_has_its_numbers_band_and_line(tmp_path):
    found = read_lengths(made(tmp_path / "run"))
    assert found.length.tolist() == [64, 128, 256]
    axes = by_length([("run", found)], palette([("run", "svd")])).axes[0]
    curve, line = axes.get_lines()
    assert axes.get_xscale() == "log"
    assert curve.get_ydata() == pytest.approx([8, 7, 9])
    assert list(line.get_xdata()) == [64, 64]
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for length, perplexity in zip((64, 128, 256), (8, 7, 9), strict=True):
        own = corners[np.isclose(corners[:, 0], length), 1]
        assert (own.min(), own.max()) == pytest.approx((perplexity * np.exp(-0.1), perplexity * np.exp(0.1)))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["64", "128", "256"]


@pytest.mark.parametrize("rows", [[(1, 3.0)], [(32, 1e3)], [(2**i, 500.0 + i) for i in range(17)]])
def test_any_lengths_have_ticks_that_do_not_meet(rows):
    length, values = (np.array(column, float) for column in zip(*rows, strict=True))
    drawn = by_length([("a", Lengths(None, "x", None, length, values, values, values))], palette([("a", "a")]))
    svg(drawn, "n", "t")
    labels = [tick.get_window_extent() for tick in drawn.axes[0].get_xticklabels()]
    assert labels
    assert all(one.x1 < two.x0 for one, two in itertools.pairwise(labels))


def test_the_bias_has_a_panel_for_each_layer_and_a_curve_for_each_head(tmp_path):
    maps = read_maps(made(tmp_path / "run"))
    panels = decays(maps).axes
    assert [axes.get_title() for axes in panels] == ["layer 1", "layer 2"]
    for layer, axes in enumerate(panels):
        *curves, line = axes.get_lines()
        assert line.get_xdata() == [16, 16]
        for head, curve in enumerate(curves):
            assert curve.get_ydata() == pytest.approx(-(head + 1) * 0.1 * (layer + 1) * np.arange(65), rel=1e-5)


def test_norms_are_the_rows_and_what_is_missing_is_a_gap(tmp_path):
    found = read_gradients(made(tmp_path / "run"))
    weights, stages = gradients(found).axes
    one, two, embedding = weights.get_lines()
    assert (one.get_ydata().tolist(), two.get_ydata().tolist()) == ([0.5, 0.5, 0.5], [1, 20, 40])
    assert embedding.get_ydata().tolist() == [1, 1, 1]
    assert stages.get_lines()[0].get_ydata().tolist() == [0.1, 0.1, 0.1]
    assert np.isnan(stages.get_lines()[1].get_ydata()).all()
    assert weights.get_yscale() == "log"
    found["stages"][:] = np.nan
    assert len(gradients(found).axes) == 1


def test_bars_of_shares_are_whole_and_the_map_has_its_figures(tmp_path):
    found = read_shares(made(tmp_path / "run"))
    bars = parts(found).axes[0].containers
    assert sum(np.array([bar.get_width() for bar in part]) for part in bars) == pytest.approx(np.ones(3))
    nearest = next(part for part in bars if part.get_label() == "16 nearest tokens")
    assert [bar.get_width() for bar in nearest] == pytest.approx([0.5, 0.5, 0.5])
    first = next(part for part in bars if part.get_label() == "first 4 tokens")
    assert [bar.get_width() for bar in first] == pytest.approx(
        [np.mean([0.1, 0.16, 0.22]) / 4, np.mean([0.28, 0.34, 0.4]) / 4, 0.1]
    )
    assert [text.get_text() for text in separators(found).axes[0].texts] == ["10%", "16%", "22%", "28%", "34%", "40%"]


def test_rows_that_do_not_sum_to_one_are_said(tmp_path):
    run = made(tmp_path / "run", full=False)
    (run / "maps.safetensors").unlink()
    assert "Rows of weights" not in checked(language_page(run))
    told = shares() | {"row_sum": np.full((2, 3), 0.73).tolist()}
    (run / "separators.json").write_text(json.dumps(told))
    text = checked(language_page(run))
    assert "Rows of weights sum to 0.730 in the mean; shares are of that sum." in text
    assert "25% in the mean, and 8% of the keys are such tokens" in text

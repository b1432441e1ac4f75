"""The paper's figures: what is drawn, that nothing in the data breaks a picture, and that grey is enough."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_rgb
from PIL import Image

from sweeps.comparison import plots
from sweeps.comparison.figure_parts import STYLES, clean_name
from sweeps.comparison.plots import (
    plot_accuracy,
    plot_augmentation,
    plot_images_per_individual,
    plot_learning_rates,
    plot_losses,
    plot_row_losses,
    plot_threshold_curves,
    plot_variants,
)

REPORTS = [
    {"epoch": 1, "loss": 3.0, "loss_validating": 4.0, "accuracy_validating": 0.25, "accuracy_training": 0.5},
    {"epoch": 2, "loss": 2.0, "loss_validating": None, "accuracy_validating": 0.5, "accuracy_training": 0.75},
    {"epoch": 3, "loss": 1.0, "loss_validating": 3.0, "accuracy_validating": 0.75, "accuracy_training": 1.0},
]
HARD_NAMES = ("_hidden", "$x$", r"\$\frac{$", "a|b`c", "line\nbreak\0", "long " * 40, "", "\ud800")
GRID_T = np.linspace(0.05, 0.95, 19)
CURVE = (GRID_T, 1 - GRID_T, GRID_T, np.sqrt(GRID_T * (1 - GRID_T)))
NONE_HWC = np.zeros((0, 8, 8, 3), dtype=np.uint8)


def read(path):
    """Pixels of a file that must be a PNG; (H, W, 3)."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def drawn(monkeypatch):
    """Instead of writing it, plotting functions return their figure, laid out."""

    def keep(figure, path):
        FigureCanvasAgg(figure).draw()
        return figure

    monkeypatch.setattr(plots, "save_png", keep)


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def grey(colour):
    """Relative luminance after WCAG 2, in [0, 1]."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_twelve_rows_differ_without_colour():
    assert len({style["marker"] for style in STYLES}) == 12
    for style in STYLES:
        assert 1.05 / (grey(style["color"]) + 0.05) >= 3
    for one, other in combinations(STYLES[:4], 2):
        assert one["linestyle"] != other["linestyle"]
        lights = sorted(grey(style["color"]) + 0.05 for style in (one, other))
        assert lights[1] / lights[0] > 1.3


def test_counts_are_sorted_and_named_apart_from_the_nameless(drawn):
    identity_N = np.array(["a", "b", "b", "c", "b", "c", None, "", "a"], dtype=object)
    group_N = np.array(["cow"] * 8 + ["pig"])
    figure = plot_images_per_individual(identity_N, group_N, None)
    cow, pig = figure.axes
    assert cow.patches[0].get_data().values.tolist() == [3, 2, 1]
    assert cow.get_title() == "cow\nidentities 3, images 6, singletons 1\n(and 2 images without a name)"
    assert pig.get_title() == "pig\nidentities 1, images 1, singletons 1"
    assert cow.get_yscale() == "log"


def test_sheets_hold_each_image_at_its_place(drawn):
    before_BHWC = np.stack([np.full((4, 6, 3), value, dtype=np.uint8) for value in (10, 20, 30)])
    figure = plot_augmentation(before_BHWC, before_BHWC / 255 + 0.2, None)
    before, after = (axes.images[0].get_array() for axes in figure.axes)
    assert before.shape == (4 + 1 + 4, 6 + 1 + 6, 3)  # two by two with a gap of one pixel
    assert before[0, 0, 0] == 10
    assert before[0, 7, 0] == 20
    assert before[5, 0, 0] == 30
    assert (before[5:, 7:] == 255).all()
    assert (before[4] == 255).all()
    assert after[5, 0, 0] == 30 + 51
    with pytest.raises(ValueError, match="3 images before augmentation, 2 after"):
        plot_augmentation(before_BHWC, before_BHWC[:2], None)


def test_variants_stand_beside_their_image(drawn):
    image_HWC = np.full((4, 4, 3), 7, dtype=np.uint8)
    left, right = plot_variants(image_HWC, np.stack([image_HWC + step for step in range(1, 5)]), None).axes
    assert (left.images[0].get_array() == 7).all()
    assert right.images[0].get_array()[::5, ::5, 0].tolist() == [[8, 9], [10, 11]]


def test_a_line_per_row_with_gaps_and_rows_without_values(drawn):
    figure = plot_losses({"_a": REPORTS, "starter": []}, "loss_validating", None, "Validation loss")
    line, empty = figure.axes[0].lines
    assert line.get_xdata().tolist() == [1, 2, 3]
    np.testing.assert_array_equal(line.get_ydata(), [4.0, np.nan, 3.0])
    assert len(empty.get_ydata()) == 0
    assert legend_of(figure) == ["_a", "starter (no values)"]
    assert figure.axes[0].get_xlabel() == "epoch"
    assert figure.axes[0].get_title() == "Validation loss"


def test_losses_of_other_size_share_a_logarithmic_axis(drawn):
    small = [{"epoch": 1, "loss": 0.2}]
    assert plot_losses({"a": REPORTS, "b": small}, "loss", None, "").axes[0].get_yscale() == "log"
    assert plot_losses({"a": REPORTS}, "loss", None, "").axes[0].get_yscale() == "linear"
    zero = [*small, {"epoch": 2, "loss": 0.0}]  # would vanish from a logarithmic axis
    assert plot_losses({"a": REPORTS, "b": zero}, "loss", None, "").axes[0].get_yscale() == "linear"


def test_one_row_shows_both_losses(drawn):
    figure = plot_row_losses(REPORTS, None, "Loss")
    assert legend_of(figure) == ["training", "validating"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [3, 2, 1]


def test_accuracy_is_in_per_cent_and_the_classifiers_only_where_there_is_one(drawn):
    figure = plot_accuracy(REPORTS, None, "Accuracy")
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[25, 50, 75], [50, 75, 100]]
    assert "%" in figure.axes[0].get_ylabel()
    reports = [report | {"classifier_accuracy_validating": 0.1} for report in REPORTS]
    figure = plot_accuracy(reports, None, "Accuracy")
    np.testing.assert_allclose(figure.axes[0].lines[2].get_ydata(), 10)
    assert len(legend_of(figure)) == 3


def test_threshold_curves_mark_the_threshold_in_use(drawn):
    nothing_T = np.full(19, np.nan)
    curves = {"cow": CURVE, "pig": (*CURVE[:2], nothing_T, nothing_T)}
    cow, pig = plot_threshold_curves(curves, {"cow": 0.375, "pig": float("nan")}, None, "Thresholds").axes
    *metrics, mark = cow.lines
    for line, metric_T in zip(metrics, CURVE[1:], strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([GRID_T, metric_T], axis=1))
    assert mark.get_xdata() == [0.375, 0.375]
    assert [text.get_text() for text in cow.texts] == ["0.375"]
    assert len(pig.lines) == 3  # no mark
    assert pig.get_title() == "pig\nBAUS, GEO_MEAN undefined"


def test_learning_rates_are_drawn_over_epochs_equal_ones_once(drawn):
    rate_S = np.array([1e-5, 2e-5, 3e-5, 2e-5])
    figure = plot_learning_rates({"stage": rate_S, "norm": rate_S / 5, "head": rate_S}, 2, None, "Rates")
    stage, norm = figure.axes[0].lines
    assert stage.get_xdata().tolist() == [0, 0.5, 1, 1.5]
    np.testing.assert_allclose(stage.get_ydata(), 5 * norm.get_ydata())
    assert legend_of(figure) == ["stage, head", "norm"]
    assert "multiplier" in plot_learning_rates(rate_S, 2, None, "").axes[0].get_ylabel()


@pytest.mark.parametrize("count", [1, 12])
def test_the_legend_covers_no_data(drawn, count):
    names = [f"{index} a row with a name that is long enough to fill a legend" for index in range(count)]
    for figure in (
        plot_losses(dict.fromkeys(names, REPORTS), "loss", None, "a title " * 20),
        plot_threshold_curves(dict.fromkeys(names[:6], CURVE), {}, None, "a title " * 20),
    ):
        legend = figure.legends[0].get_window_extent()
        for axes in figure.axes:
            if axes.get_visible():
                panel = axes.get_tightbbox()  # with its title and labels
                assert panel.width > 300
                assert panel.height > 200
                assert not panel.overlaps(legend)
        assert legend.x1 <= figure.bbox.x1
        assert legend.y0 >= figure.bbox.y0


@pytest.mark.parametrize("name", HARD_NAMES)
def test_names_are_shown_as_they_are(name, tmp_path):
    shown = clean_name(name)
    assert not is_math_text(shown)
    assert "\n" not in shown
    assert len(shown) <= 44 + name.count("$")
    plain = read(plot_losses({"plain": REPORTS}, "loss", tmp_path / "plain.png", name))
    named = read(plot_losses({name: REPORTS}, "loss", tmp_path / "named.png", name))
    assert plain.shape != named.shape or (plain != named).any()
    curves = read(plot_threshold_curves({name: CURVE}, {name: 0.5}, tmp_path / "curves.png", name))
    assert (curves < 128).any()


def test_every_picture_says_when_there_is_nothing_to_draw(tmp_path):
    nothing = np.zeros(0)
    written = [
        plot_images_per_individual(nothing, nothing, tmp_path / "counts.png"),
        plot_images_per_individual(np.array([None, None]), np.array(["a", "a"]), tmp_path / "nameless.png"),
        plot_augmentation(NONE_HWC, NONE_HWC, tmp_path / "augmented.png"),
        plot_variants(np.zeros((8, 8, 3)), NONE_HWC, tmp_path / "variants.png"),
        plot_losses({}, "loss", tmp_path / "losses.png", "t"),
        plot_losses({"a": [], "b": [{"epoch": 1}]}, "loss", tmp_path / "losses_of_none.png", "t"),
        plot_row_losses([], tmp_path / "row.png", "t"),
        plot_accuracy([], tmp_path / "accuracy.png", "t"),
        plot_threshold_curves({}, {}, tmp_path / "thresholds.png", "t"),
        plot_threshold_curves({"a": (nothing,) * 4}, {"a": None}, tmp_path / "thresholds_of_none.png", "t"),
        plot_learning_rates({}, 1, tmp_path / "rates.png", "t"),
        plot_learning_rates(nothing, 1, tmp_path / "rates_of_none.png", "t"),
    ]
    for path in written:
        assert (read(path) < 128).sum() > 100, path.name


def test_other_data_other_pixels_same_data_same_bytes(tmp_path):
    def write(name, chosen):
        path = tmp_path / "new" / f"{name}.png"
        assert plot_threshold_curves({"cow": CURVE}, {"cow": chosen}, path, "Thresholds") == path
        return path

    first, same, other = write("first", 0.2), write("same", 0.2), write("other", 0.7)
    assert first.read_bytes() == same.read_bytes()
    assert read(first).shape == read(other).shape
    assert (read(first) != read(other)).any()

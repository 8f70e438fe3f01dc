"""Explanations of an image, and the figures and the page made of them."""

import dataclasses
import html
import io

import numpy as np
import pytest
from conftest import one_backend
from explained import CLASSES
from explained import SIZE
from explained import make_model
from explained import picture
from PIL import Image

from keras_danet import Predictor
from keras_danet import explain
from keras_danet.explain.explanation import COUNT
from keras_danet.explain.kept_channels import read_channels
from keras_danet.explain.kept_channels import save_channels
from keras_danet.explain.points import choose_points
from keras_danet.explain.points import classes_by_size
from keras_danet.explain.points import deepest_point
from keras_danet.inference.fonts import drawable


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def explanation(model):
    return explain.Explainer(model)(picture())


def eroded(mask):
    """The deepest point, by taking layer after layer off."""
    left = mask.copy()
    while left.any():
        last = left
        padded = np.pad(left, 1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
        left = windows.all((2, 3))
    return tuple(np.argwhere(last)[0].tolist())


@one_backend
def test_the_deepest_point_is_what_erosion_leaves():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((23, 31)) < rng.uniform(0.5, 1)
        assert deepest_point(mask) == eroded(mask)
    assert deepest_point(np.ones((6, 9), bool)) == (2, 2)
    assert deepest_point(np.zeros((6, 9), bool)) is None
    assert deepest_point(np.ones((1, 1), bool)) == (0, 0)


@one_backend
def test_points_are_chosen_by_the_rule():
    label = np.zeros((9, 9), int)
    label[:, 6:] = 2
    label[0, 0] = 1
    changed = np.zeros((9, 9), bool)
    changed[6:9, 0:3] = True
    assert classes_by_size(label) == [0, 2, 1]
    # What changes first, then classes by their size, each point once.
    expected = [(7, 1), (2, 3), (1, 7), (0, 0)]
    assert choose_points(label, changed, 7) == expected
    assert choose_points(label, changed, 2) == expected[:2]
    assert choose_points(label, label > 9, 7) == expected[1:]


def test_an_explanation_is_what_its_parts_are(model, explanation):
    image = picture()
    predictor = Predictor(model)
    label, confidence, entropy, _ = predictor.uncertainty(image)
    np.testing.assert_array_equal(explanation.label, label)
    np.testing.assert_array_equal(explanation.confidence, confidence)
    np.testing.assert_array_equal(explanation.entropy, entropy)
    for kind in ("position", "channel"):
        off = Predictor(explain.without(model, kind))(image)
        np.testing.assert_array_equal(explanation.without[kind], off)
        assert (off != label).any()
    changed = explanation.without["position"] != label
    points = choose_points(label, changed, COUNT)
    assert explanation.position.points == points and len(points) > 1
    maps = explain.position_attention(model, image, points)
    np.testing.assert_array_equal(explanation.position.maps, maps)


def test_where_a_point_looks_is_told_by_classes(explanation):
    # Of 8x8 pixels, each position has the share of its own pixels.
    one_hot = np.eye(3)[explanation.label]
    shares = one_hot.reshape(6, 8, 9, 8, 3).mean((1, 3))
    maps = explanation.position.maps
    for found, about in zip(maps, explanation.points, strict=True):
        expected = (found[..., None] * shares).sum((0, 1))
        told = [about["attends_to"].get(name, 0) for name in CLASSES]
        np.testing.assert_allclose(told, expected, atol=1e-6)
        assert list(about["attends_to"].values()) == sorted(told)[::-1]
        place = about["row"], about["column"]
        assert about["class"] == CLASSES[explanation.label[place]]
        assert about["probability"] == explanation.confidence[place]


def test_given_points_and_channels_are_kept(model):
    explainer = explain.Explainer(model)
    found = explainer(picture(), [(0, 71), (47, 0)], [5, 2])
    assert found.position.points == [(0, 71), (47, 0)]
    assert found.channel.chosen == [5, 2]
    with pytest.raises(ValueError, match=r"48x72 pixels.*\(48, 0\)"):
        explainer(picture(), [(48, 0)])
    with pytest.raises(ValueError, match="from 0 to 15"):
        explainer(picture(), channels=[16])


def test_channels_are_named_by_labelled_images_or_the_image(model):
    image = picture()
    label = np.random.default_rng(3).integers(0, 3, SIZE)
    classes = explain.channel_classes(model, [(image, label)])
    own = explain.Explainer(model)(image)
    told = explain.Explainer(model, classes=classes)(image)
    assert not own.channel.is_measured and told.channel.is_measured
    expected = explain.channel_classes(model, [(image, own.label)])
    np.testing.assert_array_equal(
        own.channel.classes.responses, expected.responses
    )
    assert told.channel.classes is classes
    for channel in told.channel.chosen:
        k = classes.classes[channel]
        same = classes.responses[classes.classes == k, k]
        assert classes.responses[channel, k] == same.max()
    assert own.as_dict()["channels_measured_on"] == 0
    assert told.as_dict()["channels_measured_on"] == 1
    other = dataclasses.replace(classes, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="Measure them with this network"):
        explain.Explainer(model, classes=other)


def test_kept_channels_are_those_of_the_network(model, tmp_path):
    predictor = Predictor(model)
    label = np.random.default_rng(3).integers(0, 3, SIZE)
    classes = explain.channel_classes(model, [(picture(), label)])
    assert read_channels(tmp_path, predictor) is None
    path = save_channels(classes, predictor, tmp_path)
    again = read_channels(tmp_path, predictor)
    np.testing.assert_array_equal(again.responses, classes.responses)
    assert read_channels(tmp_path, Predictor(make_model(seed=1))) is None
    for content in ("{", "[]", '{"network": 1}', "\udc80"):
        path.write_text(content, errors="surrogateescape")
        with pytest.raises(ValueError, match=r"channels\.json does not hold"):
            read_channels(tmp_path, predictor)


def test_a_model_without_attention_is_explained_as_far_as_it_goes():
    model = make_model(attention=())
    found = explain.Explainer(model)(picture())
    assert found.position is None and found.channel is None
    assert found.points == [] and found.without == {}
    assert set(found.as_dict()) == {"size", "classes", "changed"}
    with pytest.raises(ValueError, match="no channel attention"):
        classes = explain.ChannelClasses(np.zeros((4, 3)), CLASSES, 1)
        explain.Explainer(model, classes=classes)


@one_backend
class TestFigures:
    @pytest.fixture(autouse=True)
    def figures(self):
        pytest.importorskip("matplotlib")
        from keras_danet.explain import figures

        self.figures = figures

    def test_all_are_drawn_at_the_width_of_a_page(self, explanation):
        makers = self.figures.makers(explanation)
        assert list(makers) == [
            *("position", "channel", "points", "channels", "classes"),
            "uncertainty",
        ]
        for make in makers.values():
            content = self.figures.figure_file(make(explanation), "png")
            with Image.open(io.BytesIO(content)) as picture:
                assert 1200 <= picture.width <= 1600

    def test_a_map_has_its_values_at_its_place(self, explanation):
        figure = self.figures.point_figure(explanation)
        maps = explanation.position.maps
        # The image comes first.
        axes = figure.axes[1 : 1 + len(maps)]
        for axis, found in zip(axes, maps, strict=True):
            [drawn] = axis.images
            low, high = drawn.norm.vmin, drawn.norm.vmax
            assert low * high == pytest.approx(1)
            expected = (found * found.size).clip(low)
            np.testing.assert_allclose(drawn.get_array(), expected, rtol=1e-6)
            assert drawn.get_extent() == [-0.5, 71.5, 47.5, -0.5]

    def test_what_changes_is_white(self, explanation):
        figure = self.figures.effect_figure(explanation, "channel")
        [drawn] = figure.axes[-1].images
        changed = explanation.without["channel"] != explanation.label
        np.testing.assert_array_equal(drawn.get_array(), changed)
        said = figure.axes[-1].get_title()
        assert said == f"changed: {changed.mean():.1%} of the pixels"

    def test_text_stays_text(self, explanation):
        figure = self.figures.class_figure(explanation)
        content = self.figures.figure_file(figure, "svg").decode()
        for name in CLASSES:
            assert f">{name}</text>" in content
        assert self.figures.figure_file(figure, "pdf").startswith(b"%PDF")

    @pytest.mark.parametrize(
        "name", ["道路", "طريق", "Straße", "$x^$", r"\frac", "a\x1b[31m", ""]
    )
    def test_names_in_any_script_and_formulas(self, explanation, name):
        names = (name, *CLASSES[1:])
        renamed = dataclasses.replace(explanation, class_names=names)
        figure = self.figures.class_figure(renamed)
        content = self.figures.figure_file(figure, "svg")
        text = html.unescape(content.decode())
        assert "\x1b" not in text
        # The name, or what stands for one that no font has.
        shown = drawable(name, "class 0")
        assert not name or f">{shown}</text>" in text

    def test_without_attention_there_is_the_uncertainty(self):
        found = explain.Explainer(make_model(attention=()))(picture())
        assert list(self.figures.makers(found)) == ["uncertainty"]
        with pytest.raises(ValueError, match="no position attention"):
            self.figures.point_figure(found)
        with pytest.raises(ValueError, match="no channel attention"):
            self.figures.channel_figure(found)

    def test_an_image_of_one_class_and_even_attention(self, explanation):
        label = np.zeros_like(explanation.label)
        maps = np.full_like(explanation.position.maps, 1 / 54)
        position = dataclasses.replace(explanation.position, maps=maps)
        plain = dataclasses.replace(explanation, label=label, position=position)
        for make in self.figures.makers(plain).values():
            assert self.figures.figure_file(make(plain), "png")

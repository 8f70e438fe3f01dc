import keras
import numpy as np
import pytest

from keras_danet.metrics import MeanIoU
from keras_danet.metrics import PixelAccuracy
from keras_danet.metrics import SegmentationMetrics
from keras_danet.metrics import class_iou
from keras_danet.metrics import confusion_matrix
from keras_danet.metrics import mean_iou
from keras_danet.metrics import pixel_accuracy

BACKEND = keras.backend.backend()
ALL = [SegmentationMetrics, MeanIoU, PixelAccuracy]
# float32 sums of at most num_classes**2 terms of one sign.
TOLERANCE = 1e-6


def counted(label, prediction, num_classes):
    """The matrix by the book, one pixel at a time; 255 is left out."""
    matrix = np.zeros((num_classes, num_classes), "int64")
    for true, predicted in zip(label.flat, prediction.flat, strict=True):
        if true != 255:
            matrix[int(true), int(predicted)] += 1
    return matrix


def scored(matrix):
    """Mean IoU and pixel accuracy, class by class in Python integers."""
    matrix, iou = matrix.tolist(), []
    for k, row in enumerate(matrix):
        union = sum(row) + sum(r[k] for r in matrix) - row[k]
        if union:
            iou.append(row[k] / union)
    hits = sum(row[k] for k, row in enumerate(matrix))
    return sum(iou) / len(iou), hits / sum(map(sum, matrix))


def example(num_classes, shape=(3, 7, 5), seed=0, used=None):
    """Labels with 255 among them, logits, and their argmax by NumPy."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, used or num_classes, shape).astype("uint8")
    logits = rng.standard_normal((*shape, num_classes)).astype("float32")
    # Half of the pixels right, a fifth of them void.
    right = np.eye(num_classes, dtype="float32")[label]
    logits += 9 * right * (rng.random((*shape, 1)) < 0.5)
    label[rng.random(shape) < 0.2] = 255
    return label, logits, logits.argmax(-1)


def result_of(metric):
    """The result as a dict of floats, whichever metric it is."""
    result = metric.result()
    if not isinstance(result, dict):
        result = {metric.name: result}
    return {name: float(value) for name, value in result.items()}


def test_functions_equal_counting_by_hand():
    label, _, prediction = example(6, used=4)
    matrix = confusion_matrix(label, prediction, 6)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, counted(label, prediction, 6))
    expected = scored(matrix)
    assert mean_iou(matrix) == pytest.approx(expected[0], abs=1e-12)
    assert pixel_accuracy(matrix) == pytest.approx(expected[1], abs=1e-12)


def test_class_iou_of_a_known_matrix():
    # Class 2 is only predicted (0), class 3 is nowhere (NaN).
    matrix = [[3, 1, 1, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    iou = class_iou(np.array(matrix))
    np.testing.assert_allclose(iou, [3 / 5, 4 / 5, 0, np.nan])
    assert mean_iou(np.array(matrix)) == pytest.approx((0.6 + 0.8) / 3)


def test_functions_of_nothing_are_nan():
    matrix = confusion_matrix(np.full((2, 2), 255), np.zeros((2, 2), int), 3)
    assert matrix.sum() == 0
    assert np.isnan(class_iou(matrix)).all()
    assert np.isnan(mean_iou(matrix))
    assert np.isnan(pixel_accuracy(matrix))


@pytest.mark.parametrize(
    ("label", "prediction", "match"),
    [
        ([0, 3], [0, 0], r"`label` holds .*\[3\]"),
        ([0, -1], [0, 0], r"`label` holds .*\[-1\]"),
        ([0, 1], [0, 3], r"`prediction` holds .*\[3\]"),
        ([0, 1], [0, -1], r"`prediction` holds .*\[-1\]"),
        ([0.0, 1.0], [0, 1], "`label` must hold integers"),
        ([0, 1], [0.0, 1.0], "`prediction` must hold integers"),
        ([[0, 1]], [0, 1], "same shape"),
    ],
)
def test_confusion_matrix_refuses(label, prediction, match):
    with pytest.raises(ValueError, match=match):
        confusion_matrix(np.array(label), np.array(prediction), 3)


@pytest.mark.parametrize("metric_class", ALL)
def test_metric_equals_counting_by_hand(metric_class):
    # Classes 4 and 5 occur in the prediction alone, class 6 nowhere.
    label, logits, _ = example(7, used=4)
    logits[..., 6] = -99
    matrix = counted(label, logits.argmax(-1), 7)
    expected = dict(
        zip(("mean_iou", "pixel_accuracy"), scored(matrix), strict=True)
    )
    metric = metric_class(7)
    metric.update_state(label, logits)
    np.testing.assert_array_equal(metric.confusion_matrix(), matrix)
    assert metric.confusion_matrix().dtype == np.int64
    for name, value in result_of(metric).items():
        assert value == pytest.approx(expected[name], abs=TOLERANCE)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "int32", "uint32", "float32", "float64"]
)
def test_label_dtypes_and_channel_axis(dtype):
    label, logits, prediction = example(5)
    metric = SegmentationMetrics(5)
    metric.update_state(label.astype(dtype)[..., None], logits)
    np.testing.assert_array_equal(
        metric.confusion_matrix(), counted(label, prediction, 5)
    )


def test_ties_go_to_the_lowest_class():
    logits = np.array([[1, 2, 2], [2, 1, 2], [0, 0, 0], [-1, -1, -0.5]])
    metric = SegmentationMetrics(3)
    metric.update_state(
        np.zeros((1, 2, 2), "uint8"),
        logits.reshape(1, 2, 2, 3).astype("float32"),
    )
    # NumPy's argmax of the four pixels: 1, 0, 0, 2.
    np.testing.assert_array_equal(metric.confusion_matrix()[0], [2, 1, 1])


def test_nan_logits_count_as_some_class():
    label, logits, _ = example(4)
    logits[0, 0] = np.nan
    metric = SegmentationMetrics(4)
    metric.update_state(label, logits)
    assert metric.confusion_matrix().sum() == (label != 255).sum()


def test_batching_changes_nothing():
    label, logits, _ = example(5, shape=(6, 4, 3))
    whole, parts = SegmentationMetrics(5), SegmentationMetrics(5)
    whole.update_state(label, logits)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        parts.update_state(label[part], logits[part])
    np.testing.assert_array_equal(
        parts.confusion_matrix(), whole.confusion_matrix()
    )
    assert result_of(parts) == result_of(whole)


def test_counts_stay_exact_beyond_32_bits():
    label, logits, prediction = example(3)
    update = counted(label, prediction, 3)
    start = np.array([2**30 - 1, 2**31 - 1, 2**32 - 1] * 3)
    start += 2**53 * np.arange(9)  # float64 rounds these
    metric = SegmentationMetrics(3)
    limbs = np.append(start, 0)
    metric.low.assign(limbs % 2**30)
    metric.high.assign(limbs // 2**30)
    expected = start.reshape(3, 3)
    for _ in range(2):
        metric.update_state(label, logits)
        expected = expected + update
    assert (update > 0).all()
    np.testing.assert_array_equal(metric.confusion_matrix(), expected)
    result = result_of(metric)
    iou, accuracy = scored(expected)
    assert result["mean_iou"] == pytest.approx(iou, abs=TOLERANCE)
    assert result["pixel_accuracy"] == pytest.approx(accuracy, abs=TOLERANCE)


@pytest.mark.parametrize("metric_class", ALL)
def test_perfect_is_exactly_one_and_nothing_is_zero(metric_class):
    label, _, _ = example(5, used=3)
    metric = metric_class(5)
    assert set(result_of(metric).values()) == {0.0}
    metric.update_state(np.full_like(label, 255), np.eye(5)[label % 5])
    assert set(result_of(metric).values()) == {0.0}
    metric.update_state(label, np.eye(5, dtype="float32")[label % 5])
    assert set(result_of(metric).values()) == {1.0}
    metric.reset_state()
    assert metric.confusion_matrix().sum() == 0


@pytest.mark.parametrize(
    ("wrong", "dtype"),
    [
        (4, "uint8"),
        (254, "uint8"),
        (4, "int32"),
        (-1, "int32"),
        (256, "int32"),
        (2**32 + 255, "int64"),
        (1.5, "float32"),
        (255.5, "float32"),
        (np.nan, "float32"),
    ],
)
def test_an_invalid_label_gives_nan(wrong, dtype):
    if BACKEND == "jax" and dtype == "int64":
        pytest.skip("JAX itself cuts int64 arrays to int32")
    label, logits, _ = example(4)
    label = label.astype(dtype)
    label[0, 0, 0] = wrong
    metric = SegmentationMetrics(4)
    metric.update_state(label, logits)
    assert np.isnan(list(result_of(metric).values())).all()
    with pytest.raises(ValueError, match="1 pixels had a label"):
        metric.confusion_matrix()
    metric.reset_state()
    metric.update_state(label[1:], logits[1:])
    assert metric.confusion_matrix().sum() == (label[1:] != 255).sum()


@pytest.mark.parametrize(
    ("ignore_label", "dtype"),
    [(0, "uint8"), (0, "int32"), (254, "uint8"), (-1, "int32"), (256, "int32")],
)
def test_ignore_label_is_free_to_choose(ignore_label, dtype):
    label, logits, prediction = example(4)
    expected = counted(label, prediction, 4)
    expected[ignore_label == np.arange(4)] = 0
    label = np.where(label == 255, ignore_label, label.astype(dtype))
    metric = SegmentationMetrics(4, ignore_label=ignore_label)
    metric.update_state(label.astype(dtype), logits)
    np.testing.assert_array_equal(metric.confusion_matrix(), expected)


def test_more_classes_than_uint8_holds():
    label, logits, prediction = example(300, used=250)
    metric = SegmentationMetrics(300)
    metric.update_state(label, logits)
    np.testing.assert_array_equal(
        metric.confusion_matrix(), counted(label, prediction, 300)
    )


@pytest.mark.parametrize("form", ["pixel", "pixel_channel", "example"])
def test_weight_zero_leaves_out_and_others_count_once(form):
    label, logits, prediction = example(4)
    weight = np.random.default_rng(1).choice([0.0, 0.3, 2.0], label.shape)
    if form == "example":
        weight = np.array([0.5, 0.0, 1.0])
    metric = SegmentationMetrics(4)
    metric.update_state(
        label, logits, weight[..., None] if form == "pixel_channel" else weight
    )
    shape = (-1, 1, 1) if form == "example" else label.shape
    kept = np.where(weight.reshape(shape) != 0, label, 255)
    np.testing.assert_array_equal(
        metric.confusion_matrix(), counted(kept, prediction, 4)
    )


@pytest.mark.parametrize("jit", [False, True])
def test_compiled_update_equals_eager(jit):
    label, logits, prediction = example(5)
    metric = SegmentationMetrics(5)
    if BACKEND == "jax":
        import jax

        update, result = (
            jax.jit(f) if jit else f
            for f in (metric.stateless_update_state, metric.stateless_result)
        )
        state = [variable.value for variable in metric.variables]
        for _ in range(2):
            state = update(state, label, logits)
        scores = result(state)
        for variable, value in zip(metric.variables, state, strict=True):
            variable.assign(value)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        update = tf.function(metric.update_state, jit_compile=jit)
        for _ in range(2):
            update(tf.constant(label), tf.constant(logits))
        scores = tf.function(metric.result, jit_compile=jit)()
    else:
        pytest.skip("torch runs eagerly, as in the other tests")
    matrix = counted(label, prediction, 5)
    np.testing.assert_array_equal(metric.confusion_matrix(), 2 * matrix)
    assert float(scores["mean_iou"]) == pytest.approx(
        scored(matrix)[0], abs=TOLERANCE
    )


# TensorFlow alone also runs an uncompiled graph (under tf.distribute).
@pytest.mark.parametrize(
    "jit", ["auto", False] if BACKEND == "tensorflow" else ["auto"]
)
def test_fit_and_evaluate_log_numpys_numbers(jit):
    label, _, _ = example(4, shape=(5, 6, 6))
    rng = np.random.default_rng(0)
    image = rng.standard_normal((5, 6, 6, 3)).astype("float32")
    weight = rng.choice([0.0, 1.0], label.shape)
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(4, 3, padding="same"),
        ]
    )
    # Rate 0, so that the training logs belong to the weights at hand.
    model.compile(
        keras.optimizers.SGD(0.0),
        keras.losses.SparseCategoricalCrossentropy(True, ignore_class=255),
        metrics=[SegmentationMetrics(4)],
        weighted_metrics=[MeanIoU(4, name="weighted_mean_iou")],
        jit_compile=jit,
    )
    logs = model.fit(
        image,
        label,
        sample_weight=weight,
        validation_data=(image[:3], label[:3]),
        batch_size=2,
        epochs=2,
        verbose=0,
    ).history
    prediction = model.predict(image, verbose=0).argmax(-1)
    train = scored(counted(label, prediction, 4))
    val = scored(counted(label[:3], prediction[:3], 4))
    kept = np.where(weight > 0, label, 255)
    weighted = scored(counted(kept, prediction, 4))[0]
    for epoch in range(2):
        for name, value in {
            "mean_iou": train[0],
            "pixel_accuracy": train[1],
            "weighted_mean_iou": weighted,
            "val_mean_iou": val[0],
            "val_pixel_accuracy": val[1],
        }.items():
            assert logs[name][epoch] == pytest.approx(value, abs=TOLERANCE)
    report = model.evaluate(image, label, 2, verbose=0, return_dict=True)
    assert report["mean_iou"] == pytest.approx(train[0], abs=TOLERANCE)
    assert report["pixel_accuracy"] == pytest.approx(train[1], abs=TOLERANCE)


@pytest.mark.parametrize("metric_class", ALL)
def test_config_round_trip(metric_class):
    metric = metric_class(7, ignore_label=0, name="mine")
    config = keras.saving.serialize_keras_object(metric)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is metric_class
    assert again.get_config() == metric.get_config()
    assert metric.get_config() == {
        "num_classes": 7,
        "ignore_label": 0,
        "name": "mine",
    }


def test_names():
    names = [metric_class(3).name for metric_class in ALL]
    assert names == ["segmentation_metrics", "mean_iou", "pixel_accuracy"]


@pytest.mark.parametrize(
    ("label", "logits"),
    [
        ((2, 4, 4), (2, 4, 4, 5)),
        ((2, 4, 4), (2, 4, 4)),
        ((2, 4, 4, 3), (2, 4, 4, 3)),
        ((2, 4), (2, 4, 3)),
        ((2, 4, 4), (2, 2, 8, 3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(label, logits):
    with pytest.raises(ValueError, match="Expected `y_true`"):
        SegmentationMetrics(3).update_state(np.zeros(label), np.zeros(logits))


@pytest.mark.parametrize("num_classes", [1, 0, 2.5])
def test_nonsense_num_classes_is_refused(num_classes):
    with pytest.raises(ValueError, match="`num_classes` must be"):
        SegmentationMetrics(num_classes)


@pytest.mark.parametrize("shape", [(), (2, 3), (2, 1), (2, 2, 1), (2, 2, 3, 2)])
def test_weights_of_other_shapes_are_refused(shape):
    metric = SegmentationMetrics(2)
    label, logits = np.zeros((2, 2, 3), "uint8"), np.zeros((2, 2, 3, 2))
    with pytest.raises(ValueError, match="sample weights must have one value"):
        metric.update_state(label, logits, np.ones(shape, "float32"))


@pytest.mark.parametrize("shape", [(2,), (2, 2, 3), (2, 2, 3, 1)])
def test_weights_of_0_leave_pixels_out(shape):
    metric = SegmentationMetrics(2)
    label, logits = np.zeros((2, 2, 3), "uint8"), np.zeros((2, 2, 3, 2))
    weight = np.ones(shape, "float32")
    weight[0] = 0
    metric.update_state(label, logits, weight)
    assert metric.confusion_matrix().tolist() == [[6, 0], [0, 0]]

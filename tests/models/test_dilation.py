"""`dilate` keeps every feature at the original's grid points."""

import importlib.util

import keras
import numpy as np
import pytest
from conftest import one_backend
from keras import layers

from keras_danet import DANet
from keras_danet import dilate

SIZE = (128, 192)


def shuffled(model):
    """`model` with batch norms that are not the identity."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if variable.name in ("gamma", "moving_variance", "variance"):
            variable.assign(rng.uniform(0.5, 1.5, shape).astype("float32"))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(rng.uniform(-0.3, 0.3, shape).astype("float32"))
    return model


def tiny_resnet(padding):
    """Every way to stride: padded, "same", even kernels, 1x1, 1x1 pools."""
    x = inputs = keras.Input((None, None, 3))
    filters = 4
    for index, kernel in enumerate((7, 3, 3, 5, 3)):
        name = f"block{index}"
        if padding == "explicit":
            y = layers.ZeroPadding2D(kernel // 2)(x)
            y = layers.Conv2D(filters, kernel, 2, "valid", name=name)(y)
        elif padding == "late":
            sides = ((kernel // 2 - 1, kernel // 2),) * 2
            y = layers.ZeroPadding2D(sides)(x)
            y = layers.Conv2D(filters, kernel, 2, "valid", name=name)(y)
        elif padding == "patch":
            y = layers.Conv2D(filters, 2, 2, "valid", name=name)(x)
        else:
            y = layers.Conv2D(filters, kernel, 2, padding, name=name)(x)
        y = layers.LayerNormalization()(y)
        z = layers.MaxPooling2D(1, 2)(x) if index % 2 else x
        z = layers.Conv2D(filters, 1, 1 if index % 2 else 2)(z)
        x = layers.Activation("gelu")(y + z)
        y = layers.SeparableConv2D(filters, 3, padding="same")(x)
        y = layers.DepthwiseConv2D(
            3, padding="same", dilation_rate=2 if index else 1
        )(y)
        x = layers.Concatenate()([x, layers.Dense(filters)(y)])
        filters *= 2
    return keras.Model(inputs, x)


def padded_by_operator():
    """As keras-hub's ResNetBackbone pads before it pools."""
    x = inputs = keras.Input((None, None, 3))
    for index, filters in enumerate((4, 6, 8, 10, 12)):
        if index == 1:
            width = [[0, 0], [1, 1], [1, 1], [0, 0]]
            x = keras.ops.pad(x, width, constant_values=float("-inf"))
            x = layers.MaxPooling2D(3, 2)(x)
        else:
            x = layers.Conv2D(filters, 3, 2, "same", activation="relu")(x)
        x = layers.Conv2D(filters, 3, padding="same")(x)
    return keras.Model(inputs, x)


def padded_twice():
    x = inputs = keras.Input((None, None, 3))
    for filters in (4, 6, 8, 10, 12):
        x = layers.ZeroPadding2D(((0, 1), (1, 0)))(x)
        x = layers.ZeroPadding2D(((1, 0), (0, 1)))(x)
        x = layers.Conv2D(filters, 3, 2, "valid", activation="relu")(x)
    return keras.Model(inputs, x)


class Rescaling(layers.Layer):
    """Not Keras's: what a user gave the name of a pointwise layer."""

    def call(self, x):
        return keras.ops.flip(x, axis=1)


BACKBONES = {
    "explicit": lambda: tiny_resnet("explicit"),
    "late": lambda: tiny_resnet("late"),
    "same": lambda: tiny_resnet("same"),
    "patch": lambda: tiny_resnet("patch"),
    "operator": padded_by_operator,
    "twice": padded_twice,
}


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", BACKBONES)
def test_features_at_the_grid_points_are_kept(name, output_stride):
    keras.utils.set_random_seed(1)
    original = shuffled(BACKBONES[name]())
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (1, *SIZE, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(original(images, training=False))
    assert expected.std() > 1e-3
    features = dilate(original, output_stride)(images, training=False)
    dilated = keras.ops.convert_to_numpy(features["stage4"])
    assert dilated.shape[1:3] == tuple(s // output_stride for s in SIZE)
    every = 32 // output_stride
    kept = dilated[:, ::every, ::every]
    # Away from the borders, whose zeros reach other positions.
    np.testing.assert_allclose(
        kept[:, 1:-1, 1:-1],
        expected[:, 1:-1, 1:-1],
        atol=1e-4 * expected.std(),
    )
    strides = [
        SIZE[0] // features[f"stage{number}"].shape[1] for number in (1, 2, 3)
    ]
    assert strides == [4, 8, min(16, output_stride)]


@one_backend
@pytest.mark.parametrize(
    "name", ["ResNet50", "ResNet50V2", "ConvNeXtTiny", "MobileNetV2"]
)
def test_published_backbones_keep_their_features(name):
    make = getattr(keras.applications, name)
    original = shuffled(make(weights=None, include_top=False))
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (1, *SIZE, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(original(images, training=False))
    features = dilate(original)(images, training=False)
    kept = keras.ops.convert_to_numpy(features["stage4"])[:, ::4, ::4]
    np.testing.assert_allclose(
        kept[:, 1:-1, 1:-1],
        expected[:, 1:-1, 1:-1],
        atol=1e-4 * expected.std(),
    )


@one_backend
@pytest.mark.parametrize("output_stride", [8, 16])
def test_three_stages_end_where_the_last_one_begins(output_stride):
    make = keras.applications.ResNet50
    original = shuffled(make(weights=None, include_top=False))
    end = original.get_layer("conv4_block6_out").output
    images = np.random.default_rng(0).uniform(0, 255, (1, *SIZE, 3))
    cut = keras.Model(original.input, end)
    expected = keras.ops.convert_to_numpy(cut(images, training=False))
    backbone = dilate(original, output_stride, num_stages=3)
    features = backbone(images, training=False)
    assert list(features) == ["stage1", "stage2", "stage3"]
    every = 16 // output_stride
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(features["stage3"])[:, ::every, ::every][
            :, 1:-1, 1:-1
        ],
        expected[:, 1:-1, 1:-1],
        atol=1e-4 * expected.std(),
    )
    assert backbone.count_params() == cut.count_params()


@one_backend
def test_squeeze_and_excite_is_dilated():
    original = keras.applications.EfficientNetB0(
        weights=None, include_top=False
    )
    features = dilate(original)
    assert features.output["stage4"].shape == (None, None, None, 1280)
    shape = features.compute_output_shape((2, 64, 96, 3))["stage4"]
    assert shape == (2, 8, 12, 1280)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow"
    or importlib.util.find_spec("keras_cv") is None,
    reason="keras-cv needs TensorFlow",
)
def test_keras_cv_backbone():
    import keras_cv

    original = shuffled(
        keras_cv.models.ResNetBackbone(
            stackwise_filters=[8, 16, 32, 64],
            stackwise_blocks=[1, 1, 2, 1],
            stackwise_strides=[1, 2, 2, 2],
            include_rescaling=False,
        )
    )
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (1, *SIZE, 3)).astype("float32")
    expected = np.array(original(images, training=False))
    kept = np.array(dilate(original)(images)["stage4"])[:, ::4, ::4]
    np.testing.assert_allclose(
        kept[:, 1:-1, 1:-1],
        expected[:, 1:-1, 1:-1],
        atol=1e-4 * expected.std(),
    )


@pytest.mark.parametrize("num_stages", [3, 4])
def test_danet_over_a_dilated_backbone_is_saved(num_stages, tmp_path):
    backbone = dilate(BACKBONES["explicit"](), num_stages=num_stages)
    model = DANet(3, backbone, auxiliary=True, pixel_mean=0, pixel_std=1)
    ends_with = f"stage{num_stages}"
    assert sorted(model.features)[-1] == ends_with
    images = np.random.default_rng(0).uniform(0, 1, (1, 64, 96, 3))
    logits = model.predict(images, verbose=0)
    assert logits.shape == (1, 64, 96, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0), logits, atol=1e-6
    )


def chain(*made):
    x = inputs = keras.Input((None, None, 3))
    for layer in made:
        x = layer(x)
    return keras.Model(inputs, x)


def strided(count):
    return [layers.Conv2D(4, 3, 2, "same") for _ in range(count)]


@one_backend
@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: chain(*strided(3), layers.MaxPooling2D(2, name="bad")),
            "'bad' pools where the resolution",
        ),
        (
            lambda: chain(*strided(4), layers.UpSampling2D(name="bad")),
            r"'bad' \(UpSampling2D\) is of a type",
        ),
        (
            lambda: chain(*strided(4), Rescaling(name="bad")),
            r"'bad' \(Rescaling\) is of a type",
        ),
        (lambda: chain(*strided(4)), "stride 32. Received: 16"),
        (
            lambda: chain(layers.GlobalAveragePooling2D()),
            "must be a functional Keras model with one input",
        ),
        (
            lambda: chain(layers.Conv2D(3, 3, (2, 1), name="bad")),
            "'bad' has different strides per axis",
        ),
        (
            lambda: chain(*strided(4), layers.Resizing(8, 8, name="bad")),
            r"'bad' \(Resizing\)",
        ),
        (
            lambda: keras.applications.DenseNet121(
                weights=None, include_top=False
            ),
            "'pool3_pool' pools",
        ),
        (lambda: keras.Sequential([]), "must be a functional"),
        (lambda: "resnet50", "must be a functional"),
    ],
)
def test_what_cannot_be_dilated_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        dilate(make())


@one_backend
@pytest.mark.parametrize(
    "name, stride_32",
    [
        ("VGG16", True),
        ("InceptionV3", True),
        ("Xception", True),
        ("InceptionResNetV2", False),
    ],
)
def test_the_readme_s_table_of_what_is_refused(name, stride_32):
    backbone = getattr(keras.applications, name)(
        weights=None, include_top=False
    )
    for output_stride in (8, 16) if stride_32 else (8, 16, 32):
        with pytest.raises(ValueError, match="cannot be dilated: its layer"):
            dilate(backbone, output_stride)
    if stride_32:
        assert "stage4" in dilate(backbone, 32).output


def test_output_stride_and_stages_are_checked():
    with pytest.raises(ValueError, match="`num_stages` must be one of .3, 4"):
        dilate(BACKBONES["explicit"](), num_stages=2)
    with pytest.raises(ValueError, match="Three stages end at a stride of 16"):
        dilate(BACKBONES["explicit"](), output_stride=32, num_stages=3)
    with pytest.raises(ValueError, match="must be one of .8, 16, 32"):
        dilate(BACKBONES["explicit"](), output_stride=4)

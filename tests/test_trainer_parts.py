"""What a recipe's fields become: the loss of a step, the network."""

import keras
import numpy as np
import pytest
import references

from keras_danet import trainer
from keras_danet.recipes import TrainConfig

WEIGHTS = (0.5, 2.0, 0.1, 1.3)


def tiny(**settings):
    return TrainConfig(
        dataset="scenes",
        epochs=1,
        batch_size=2,
        crop_size=(32, 32),
        depth=18,
        filters=8,
        dropout=0.0,
        jit_compile=keras.backend.backend() == "jax",
    ).replace(settings)


def smoothed(labels, logits):
    """A tenth of each pixel is spread over the four classes."""
    shares = [
        references.pixel_crossentropy(np.where(labels == 255, 255, c), logits)
        for c in range(4)
    ]
    hard = references.pixel_crossentropy(labels, logits)
    return 0.9 * hard + 0.1 * np.mean(shares)


def lovasz(labels, logits):
    """The mean over images, of which each has labelled pixels."""
    return np.mean(list(map(references.lovasz_softmax, labels, logits)))


def dice(labels, logits):
    return references.dice_loss(labels, logits, 1.0)


def focal(labels, logits):
    return references.focal_loss(labels, logits, 2.0, WEIGHTS)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, references.pixel_crossentropy),
        ({"label_smoothing": 0.1}, smoothed),
        (
            {"class_weights": WEIGHTS},
            # Every pixel is kept where all are hard.
            lambda *x: references.ohem_crossentropy(*x, 1.1, 0, WEIGHTS),
        ),
        ({"loss": "focal", "class_weights": WEIGHTS}, focal),
        (
            {"lovasz_weight": 0.5},
            lambda *x: references.pixel_crossentropy(*x) + 0.5 * lovasz(*x),
        ),
        (
            {
                "loss": "focal",
                "class_weights": WEIGHTS,
                "dice_weight": 2.0,
                "lovasz_weight": 3.0,
            },
            lambda *x: focal(*x) + 2 * dice(*x) + 3 * lovasz(*x),
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_step_has_the_loss_of_the_recipe(settings, expected):
    config = tiny(**settings)
    keras.utils.set_random_seed(0)
    model = trainer.build_model(config, 4)
    for output in model.output:
        kernel = model.get_layer(f"{output}_classifier").kernel
        # Far enough from 0 for easy and hard pixels.
        kernel.assign(100 * kernel)
    trainer.compile_model(model, config, 10)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    labels = rng.integers(0, 4, (2, 32, 32)).astype("uint8")
    labels[rng.random(labels.shape) < [[[0.9]], [[0.2]]]] = 255
    outputs = model(images, training=True)
    wanted = sum(
        expected(labels, keras.ops.convert_to_numpy(logits))
        for logits in outputs.values()
    )
    found = model.train_on_batch(images, labels, return_dict=True)["loss"]
    np.testing.assert_allclose(float(found), wanted, rtol=1e-4)

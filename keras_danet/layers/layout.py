"""Where height, width and channels stand in a feature map."""

import keras

from keras_danet.arguments import choice

DATA_FORMATS = ("channels_last", "channels_first")


def standardize_data_format(data_format):
    """`data_format`, or Keras's global one for None; refuses anything else."""
    if data_format is None:
        return keras.config.image_data_format()
    return choice("data_format", data_format, DATA_FORMATS)


def spatial_axes(data_format):
    """The axes of height and width in a batch of feature maps."""
    return (1, 2) if data_format == "channels_last" else (2, 3)

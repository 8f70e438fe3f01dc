"""Where height, width and channels stand in a feature map."""

import keras


def standardize_data_format(data_format):
    """`data_format`, or Keras's global one for None; refuses anything else."""
    if data_format is None:
        return keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            "`data_format` must be 'channels_last' or 'channels_first'. "
            f"Received: data_format={data_format!r}"
        )
    return data_format


def spatial_axes(data_format):
    """The axes of height and width in a batch of feature maps."""
    return (1, 2) if data_format == "channels_last" else (2, 3)

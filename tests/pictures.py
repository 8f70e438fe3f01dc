"""Small pictures for tests, and the bytes of their files."""

import io

import numpy as np
from PIL import Image


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(height=37, width=53, mode="RGB"):
    noise = np.random.default_rng(1).integers(0, 256, (9, 11, 4), np.uint8)
    smooth = Image.fromarray(noise, "RGBA").resize((width, height))
    return smooth.convert(mode)

"""The peer of `data.py`: what `keras_danet.data` does, by albumentations.

The same work on the same files, as one would write it: OpenCV reads, a table
maps the label's numbers, albumentations scales (smoothing what shrinks), pads,
crops and mirrors. Less is done in one respect, and it is not made up for: no
label is checked for values it must not have.
"""

import albumentations as A
import cv2
import numpy as np
import torch

from keras_danet.data.datasets import IGNORE_LABEL
from keras_danet.data.label_values import label_table
from keras_danet.data.plan import NUM_CROPS


def use_one_thread(worker):
    """As PyTorch's and albumentations' own advice for workers."""
    cv2.setNumThreads(0)


class Examples(torch.utils.data.Dataset):
    """Augmented pairs: uint8 (height, width, 3) and (height, width)."""

    def __init__(self, pairs, dataset, augmentation):
        self.pairs = pairs
        self.table = label_table(dataset)
        self.max_class_share = augmentation.max_class_share
        low, high = augmentation.scale_range
        height, width = augmentation.crop_size
        self.scale = A.Compose(
            [
                A.RandomScale(
                    (low - 1, high - 1), area_for_downscale="image", p=1
                ),
                A.PadIfNeeded(
                    height,
                    width,
                    position="top_left",
                    border_mode=cv2.BORDER_CONSTANT,
                    fill=augmentation.mean_pixel,
                    fill_mask=IGNORE_LABEL,
                ),
            ]
        )
        self.crop = A.RandomCrop(height, width, p=1)
        # All four colours for half of the examples is as much work as each of
        # them for half.
        colours = A.ColorJitter(
            brightness=augmentation.brightness / 255,
            contrast=augmentation.contrast,
            saturation=augmentation.saturation,
            hue=augmentation.hue / 360,
            p=0.5,
        )
        self.finish = A.Compose(
            [
                A.HorizontalFlip(p=augmentation.flip),
                *([colours] if augmentation.hue else []),
            ]
        )

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        pair = self.pairs[index]
        image = cv2.imread(pair.image, cv2.IMREAD_COLOR_RGB)
        label = cv2.imread(pair.label, cv2.IMREAD_UNCHANGED)
        scaled = self.scale(image=image, mask=cv2.LUT(label, self.table))
        for _ in range(NUM_CROPS):
            cropped = self.crop(**scaled)
            counts = np.bincount(cropped["mask"].ravel(), minlength=256)[:-1]
            if counts.max() < self.max_class_share * counts.sum():
                break
        example = self.finish(**cropped)
        image, label = (
            torch.from_numpy(np.ascontiguousarray(example[name]))
            for name in ("image", "mask")
        )
        return image, label

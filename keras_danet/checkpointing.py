"""How a run survives: models are written beside, then renamed."""

import csv
import io
import math
import os
import pathlib
import tempfile
import zipfile

import keras


def save_model(model, path):
    """Writes `model` to `path` (`.keras`), whole or not at all."""
    path = pathlib.Path(path)
    partial = path.with_name(f".partial-{path.name}")
    try:
        # Keras would keep the archive's weights in memory, all at once.
        with tempfile.TemporaryDirectory(
            prefix=f"{partial.name}-", dir=path.parent
        ) as folder:
            model.save(folder, zipped=False)
            with zipfile.ZipFile(partial, "w") as archive:
                for file in sorted(pathlib.Path(folder).rglob("*")):
                    if file.is_file():
                        archive.write(file, file.relative_to(folder))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_text(text, path):
    """Writes `text` to `path`, whole or not at all."""
    path = pathlib.Path(path)
    partial = path.with_name(f".partial-{path.name}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class BestModel(keras.callbacks.Callback):
    """Keeps at `path` the model of the epoch with the highest `monitor`.

    An epoch without the monitored value (one that was not validated) is
    passed over; a NaN is never best.

    Args:
        path: path of the `.keras` file.
        monitor: string, key of the logs. Defaults to `"val_mean_iou"`.
    """

    def __init__(self, path, monitor="val_mean_iou"):
        super().__init__()
        self.path = path
        self.monitor = monitor
        self.best = -math.inf

    def on_epoch_end(self, epoch, logs=None):
        value = (logs or {}).get(self.monitor, math.nan)
        if value > self.best:
            self.best = value
            save_model(self.model, self.path)


class HistoryFile(keras.callbacks.Callback):
    """Keeps the epochs' figures at `path` as CSV, one row per epoch.

    Keras's `CSVLogger` leaves its file open where training is broken off.
    """

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.rows = []

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch + 1, **(logs or {})})
        # Epochs without a validation have fewer figures.
        columns = dict.fromkeys(key for row in self.rows for key in row)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        save_text(text.getvalue(), self.path)

"""What the page answers: pictures and texts for its parts. Needs gradio."""

import math
import pathlib
import re
import secrets
from typing import Any
from typing import NamedTuple

import gradio as gr

from keras_danet.data.palettes import display_palette
from keras_danet.explain import page_pictures as pictures
from keras_danet.explain.channels import ChannelClasses
from keras_danet.explain.kept_views import KeptViews
from keras_danet.inference.visualization import add_legend
from keras_danet.inference.visualization import save_png
from keras_danet.text_tables import harmless


class Given(NamedTuple):
    """What every event is told: the visitor's state, and the fields.

    Args:
        state: dict: `"first"` and `"second"`, keys of `KeptViews`; `"name"`
            of the first; `"point"`, (row, column); `"token"`, the visitor's.
        off: list of the attentions that are switched off.
        scales: list of floats.
        mirror: boolean.
        channel_class: integer, the class whose channels are shown.
        sheet: integer from 1 on, which of them.
        strengths: tuple of floats, how strongly each class is drawn.
    """

    state: dict[str, Any]
    off: list[str]
    scales: list[float]
    mirror: bool
    channel_class: int | None
    sheet: int
    strengths: tuple[float, ...]

    @classmethod
    def of(cls, values) -> "Given":
        """From the values in the order of `Page`'s inputs."""
        state, off, scales, mirror, channel_class, sheet, *strengths = values
        return cls(
            dict(state or {}),
            list(off or []),
            sorted(map(float, scales or [1.0])),
            bool(mirror),
            channel_class,
            int(sheet or 1),
            tuple(strengths),
        )

    def saying(self, **changes) -> "Given":
        """The same with changes of the state."""
        return self._replace(state={**self.state, **changes})


class Answers:
    """Each method returns a dict of the names of parts to what they show.

    Args:
        kept: `KeptViews`.
        folder: `pathlib.Path`, where downloads are written.
        channel_classes: `ChannelClasses`, or `None` for those of each image's
            own prediction.
    """

    def __init__(
        self,
        kept: KeptViews,
        folder: pathlib.Path,
        channel_classes: ChannelClasses | None = None,
    ):
        self.kept, self.folder = kept, folder
        self.measured = channel_classes
        self.names = kept.explorer.class_names
        self.palette = display_palette(kept.explorer.palette)
        self.kinds = kept.explorer.attention

    def opened(self, given: Given, key: str, name: str):
        """An image that was chosen, seen from its middle."""
        if given.state.get("first") != key:
            height, width = self.kept.get(key).size
            given = given.saying(
                first=key, name=name, point=(height // 2, width // 2)
            )
        if "token" not in given.state:
            given = given.saying(token=secrets.token_hex(8))
        present = set(self._seen(given).label.ravel().tolist())
        return {
            "state": given.state,
            "strengths": [
                gr.update(visible=index in present)
                for index in range(len(self.names))
            ],
            **self.point(given),
            **self.channel_classes(given),
            **({} if given.off else self.changes(given)),
        }

    def looked(self, given: Given, point):
        """Another point of the image."""
        given = given.saying(point=point)
        return {"state": given.state, **self.point(given)}

    def point(self, given):
        view, point = self._view(given), given.state["point"]
        found = view.at(*point, self._seen(given))
        shown = {
            "row": point[0],
            "column": point[1],
            "facts": pictures.point_text(found, view, self.palette),
            **self.overlay(given),
        }
        if found.attention is not None:
            top = pictures.scale_end(found.attention)
            shown["scale"] = pictures.scale_text(top)
            shown["attention"] = pictures.attention_picture(
                view.image, found.attention, top, point
            )
        if "second" in given.state:
            shown |= self.second(given)
        return shown | (self.changes(given) if given.off else {})

    def overlay(self, given):
        picture = pictures.overlay_picture(
            *(self._view(given), self._seen(given), self.palette),
            *(given.strengths, given.state["point"]),
        )
        return {"overlay": picture}

    def second(self, given):
        """What the point finds in the second image."""
        row, column = given.state["point"]
        other = self.kept.get(given.state["second"])
        [found] = self._view(given).across(other, [(row, column)])
        top = pictures.scale_end(found)
        picture = pictures.attention_picture(other.image, found, top)
        return {
            "second": gr.update(value=picture, visible=True),
            "second_note": pictures.scale_text(top)
            + pictures.sentence(
                f"What row {row}, column {column} of the first image would "
                "take in from this one."
            )
            + pictures.looks_at(
                found.ravel() @ other.shares, other, self.palette
            ),
        }

    def changes(self, given):
        """What switching attentions off changes."""
        if not given.off:
            has = " and ".join(f"{kind} attention" for kind in self.kinds)
            text = (
                f"This model has {has}. One that is switched off adds nothing "
                "to its input."
                if self.kinds
                else "This model has no attention to switch off."
            )
            return {
                "changes": gr.update(visible=False),
                "changes_note": pictures.sentence(text),
            }
        view, point = self._view(given), given.state["point"]
        both = self._seen(given), self._seen(given, given.off)
        picture = pictures.changes_picture(view, *both, self.palette, point)
        return {
            "changes": gr.update(value=picture, visible=True),
            "changes_note": pictures.changes_text(
                view, *both, given.off, point, self.palette
            ),
        }

    def channel_classes(self, given):
        """The classes that channels can be chosen by, and the first ones."""
        if "channel" not in self.kinds:
            return {}
        classes = self._classes(given)
        choices = [
            (f"{harmless(name)} ({count})", index)
            for index, name in enumerate(self.names)
            if (count := int((classes.classes == index).sum()))
        ]
        note = (
            f"Classes measured on {classes.num_images} labelled images "
            "(channels.json)."
            if self.measured
            else "Classes by this image's own prediction; `keras-danet explain "
            "--measure` finds them on labelled images."
        )
        first = choices[0][1]
        return {
            "channel_note": pictures.sentence(
                f"{note} Beside each channel: by how many standard deviations "
                "its mean on the class lies above its mean elsewhere. Each is "
                "drawn from its 1st percentile, dark, to its 99th, bright."
            ),
            "channel_class": gr.update(choices=choices, value=first),
            **self.channels(given._replace(channel_class=first, sheet=1)),
        }

    def channels(self, given):
        """A sheet of the channels of a class."""
        classes, kind = self._classes(given), given.channel_class
        numbers = [
            number
            for number in classes.strongest(kind, len(classes.classes))
            if classes.classes[number] == kind
        ]
        count = max(math.ceil(len(numbers) / pictures.CHANNELS), 1)
        sheet = min(max(given.sheet, 1), count)
        start = (sheet - 1) * pictures.CHANNELS
        numbers = numbers[start : start + pictures.CHANNELS]
        return {
            # A slider of one step has no length.
            "sheet": gr.update(
                value=sheet, maximum=max(count, 2), interactive=count > 1
            ),
            "channels": pictures.channels_picture(
                self._view(given), numbers, classes.responses[numbers, kind]
            ),
        }

    def files(self, given):
        """The label map and the overlay, to download."""
        view = self._view(given)
        found = self._seen(given)
        stem = pathlib.PurePath(given.state["name"]).stem
        stem = re.sub(r"[^\w-]+", "_", stem)[:60].strip("_") or "image"
        folder = self.folder / given.state["token"]
        label, drawn = folder / f"{stem}_label.png", folder / f"{stem}.png"
        save_png(label, found.label, self.kept.explorer.palette)
        picture = pictures.overlay_picture(
            view, found, self.palette, given.strengths
        )
        present = set(found.label.ravel().tolist())
        save_png(drawn, add_legend(picture, self.names, self.palette, present))
        return {"label_file": str(label), "overlay_file": str(drawn)}

    def view_size(self, given):
        return self._view(given).size

    def _view(self, given):
        if "first" not in given.state:
            raise ValueError("Choose an image, or upload one.")
        return self.kept.get(given.state["first"])

    def _seen(self, given, off=()):
        return self._view(given).prediction(off, given.scales, given.mirror)

    def _classes(self, given):
        return self.measured or self._view(given).channel_classes()

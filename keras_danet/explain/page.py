"""A page that shows what a network sees, and where it looks. Needs gradio."""

import functools
import logging
import pathlib
import shutil

import gradio as gr

from keras_danet.explain import page_pictures as pictures
from keras_danet.explain.channels import ChannelClasses
from keras_danet.explain.kept_views import KeptViews
from keras_danet.explain.page_answers import Answers
from keras_danet.explain.page_answers import Given
from keras_danet.explain.page_layout import TITLE
from keras_danet.explain.page_layout import Parts
from keras_danet.inference.report_charts import escaped

_LOGGER = logging.getLogger("keras_danet")
FAULT = (
    "This did not work, by a fault of the program. The terminal that it was "
    "started in says more."
)
# Parts that an event may change, beside the sliders of classes.
CHANGED = (
    *("status", "choice", "overlay", "row", "column", "attention", "scale"),
    *("facts", "channel_class", "sheet", "channel_note", "channels"),
    *("changes", "changes_note", "second", "second_note"),
)


class Page:
    """The page, and what happens when one of its parts is used.

    Args:
        kept: `KeptViews`.
        images: list of `pathlib.Path`, the images that can be chosen.
        folder: `pathlib.Path`, where downloads lie.
        title: string, the model's name.
        channel_classes: `ChannelClasses`, or `None` for those of each image's
            own prediction.
    """

    def __init__(
        self,
        kept: KeptViews,
        images: list[pathlib.Path],
        folder: pathlib.Path,
        title: str,
        channel_classes: ChannelClasses | None = None,
    ):
        self.kept, self.images, self.title = kept, images, title
        self.answers = Answers(kept, folder, channel_classes)
        self.palette = self.answers.palette

    def blocks(self) -> gr.Blocks:
        """The page, for a server."""
        # Uploads and drawn pictures are deleted after an hour.
        with gr.Blocks(
            title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)
        ) as blocks:
            state = gr.State({}, time_to_live=86400, delete_callback=self._end)
            answers = self.answers
            names = [path.name for path in self.images]
            parts = Parts(self.title, answers.names, answers.kinds, names)
            self._connect(blocks, state, parts)
        blocks.queue(default_concurrency_limit=4, max_size=64)
        return blocks

    def _connect(self, blocks, state, parts):
        given = [state, parts.off, parts.scales, parts.mirror]
        given += [parts.channel_class, parts.sheet, *parts.strengths]
        changed = [state, *(getattr(parts, name) for name in CHANGED)]
        changed += parts.strengths

        def placed(shown):
            """Parts, not their names, and what they show."""
            sliders = shown.pop("strengths", [])
            found = dict(zip(parts.strengths, sliders, strict=False))
            for name, value in shown.items():
                found[state if name == "state" else getattr(parts, name)] = (
                    value
                )
            return found

        def on(event, function, *inputs, makes_files=False, **settings):
            done = event(
                _kindly(function, placed),
                [*inputs, *given],
                changed,
                show_progress_on=parts.overlay,
                api_visibility="private",
                **settings,
            )
            if makes_files:
                done.then(
                    write,
                    given,
                    [parts.label_file, parts.overlay_file],
                    show_progress="hidden",
                    api_visibility="private",
                )

        def write(*values):
            try:
                return placed(answers.files(Given.of(values)))
            # Said by the event before.
            except (ValueError, OSError):
                return {parts.label_file: gr.skip()}

        def shows(function):
            return lambda *values: function(Given.of(values))

        answers = self.answers
        # What is asked for last counts, however slow the answers before it.
        last = {"trigger_mode": "always_last"}
        quiet = {**last, "show_progress": "hidden"}
        on(blocks.load, self._choose, parts.choice, makes_files=True)
        on(
            *(parts.choice.input, self._choose, parts.choice),
            makes_files=True,
            **last,
        )
        on(parts.upload.upload, self._receive, parts.upload, makes_files=True)
        on(parts.overlay.select, self._click, **quiet)
        for event in (parts.look.click, parts.row.submit, parts.column.submit):
            on(event, self._type, parts.row, parts.column, **quiet)
        for slider in parts.strengths:
            on(slider.input, shows(answers.overlay), makes_files=True, **quiet)
        on(parts.again.click, self._again, makes_files=True, **last)
        on(parts.channel_class.input, shows(answers.channels), **quiet)
        on(parts.sheet.input, shows(answers.channels), **quiet)
        on(parts.off.input, shows(answers.changes), **last)
        on(
            *(parts.second_choice.input, self._choose_second),
            parts.second_choice,
            **last,
        )
        on(
            *(parts.second_upload.upload, self._receive_second),
            parts.second_upload,
        )

    def _choose(self, index, *values):
        return self.answers.opened(Given.of(values), *self._chosen(index))

    def _receive(self, path, *values):
        found = self.answers.opened(Given.of(values), *self._received(path))
        return {"choice": None, **found}

    def _again(self, *values):
        given = Given.of(values)
        self.answers.view_size(given)
        return self.answers.opened(
            given, given.state["first"], given.state["name"]
        )

    def _click(self, event: gr.SelectData, *values):
        given = Given.of(values)
        column, row = event.index
        size = self.answers.view_size(given)
        point = pictures.point_of((row, column), size)
        return self.answers.looked(given, point)

    def _type(self, row, column, *values):
        if row is None or column is None:
            raise ValueError("Type a row and a column, from 0 at the top left.")
        return self.answers.looked(Given.of(values), (row, column))

    def _choose_second(self, index, *values):
        return self._open_second(self._chosen(index)[0], values)

    def _receive_second(self, path, *values):
        return self._open_second(self._received(path)[0], values)

    def _open_second(self, key, values):
        given = Given.of(values).saying(second=key)
        return {"state": given.state, **self.answers.second(given)}

    def _chosen(self, index):
        if index is None:
            raise ValueError("Choose an image, or upload one.")
        path = self.images[index]
        return self.kept.open(path), path.name

    def _received(self, path):
        if path is None:
            raise ValueError("Choose a file to upload.")
        path = pathlib.Path(path)
        uploads = pathlib.Path(gr.utils.get_upload_folder())
        if not path.resolve().is_relative_to(uploads.resolve()):
            raise ValueError("This file was not uploaded.")
        try:
            return self.kept.open(path), path.name
        finally:
            path.unlink(missing_ok=True)

    def _end(self, state):
        """Deletes the files of a visitor who has left."""
        if token := (state or {}).get("token"):
            shutil.rmtree(self.answers.folder / token, ignore_errors=True)


def _kindly(function, placed):
    """An event whose errors are sentences; the page stays as it was."""

    @functools.wraps(function)
    def call(*values):
        try:
            return placed({"status": "", **function(*values)})
        except MemoryError:
            text = "There is not enough memory for this image."
        except (ValueError, OSError, RuntimeError) as error:
            text = str(error)
        except Exception:
            _LOGGER.exception(FAULT)
            text = FAULT
        text = escaped(text)
        gr.Warning(text)
        return placed({"status": pictures.sentence(text, is_error=True)})

    return call

"""The parts of the page: what it looks like. Needs gradio."""

import gradio as gr

from keras_danet.explain import page_pictures as pictures
from keras_danet.inference.report_charts import escaped
from keras_danet.text_tables import harmless

TITLE = "What a DANet sees"
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
STRENGTH = 0.5


class Parts:
    """The page's parts, laid out within an open `gr.Blocks`.

    Args:
        title: string, the model's name.
        names: sequence of strings, of its classes.
        kinds: sequence of strings, its attentions.
        images: list of the names of images that can be chosen.
    """

    def __init__(self, title, names, kinds, images):
        self.names, self.kinds, self.images = names, kinds, images
        gr.HTML(
            f"<h1>{TITLE}</h1>"
            + pictures.sentence(
                f"{escaped(title)}, {len(names)} classes. Click a "
                "pixel of the image, or type its row and column."
            )
        )
        self.status = gr.HTML(elem_id="status")
        with gr.Row():
            with gr.Column():
                self._lay_image()
            with gr.Column(), gr.Tabs():
                self._lay_attention()
                self._lay_channels()
                self._lay_changes()
                self._lay_second()

    def _lay_choice(self, name, label, value, button):
        with gr.Row(equal_height=True):
            choice = gr.Dropdown(
                [(harmless(n), k) for k, n in enumerate(self.images)],
                value=value,
                label=label,
                elem_id=f"{name}-choice",
                scale=3,
            )
            upload = gr.UploadButton(
                button,
                file_types=["image"],
                elem_id=f"{name}-upload",
                size="sm",
                scale=1,
                min_width=140,
            )
        return choice, upload

    def _lay_image(self):
        self.choice, self.upload = self._lay_choice(
            "first", "Image", 0, "Upload an image"
        )
        self.overlay = _picture("overlay", "Image and classes")
        with gr.Row(equal_height=True):
            self.row, self.column = (
                gr.Number(
                    0, label=label, precision=0, elem_id=name, min_width=80
                )
                for label, name in (("Row", "row"), ("Column", "column"))
            )
            self.look = gr.Button(
                "Look", elem_id="look", size="sm", min_width=80
            )
        with gr.Row():
            self.label_file = gr.DownloadButton(
                "Download the label map",
                elem_id="label-file",
                size="sm",
                min_width=80,
            )
            self.overlay_file = gr.DownloadButton(
                "Download the overlay",
                elem_id="overlay-file",
                size="sm",
                min_width=80,
            )
        with gr.Accordion("Classes: how strongly each is drawn"):
            with gr.Row(elem_classes="kd-sliders"):
                self.strengths = [
                    gr.Slider(
                        *(0, 1, STRENGTH),
                        step=0.05,
                        label=harmless(name),
                        elem_id=f"class-{index}",
                        min_width=200,
                        visible=False,
                        buttons=[],
                    )
                    for index, name in enumerate(self.names)
                ]
        with gr.Accordion("Scales and mirror image", open=False):
            self.scales = gr.CheckboxGroup(
                [(f"{scale:g}", scale) for scale in SCALES],
                value=[1.0],
                label="Scales of the image whose predictions are averaged",
            )
            self.mirror = gr.Checkbox(label="See its mirror image as well")
            self.again = gr.Button("Predict again", elem_id="again")

    def _lay_attention(self):
        with gr.Tab("Attention"):
            self.attention = _picture(
                "attention", "Where the point looks", "position" in self.kinds
            )
            self.scale = gr.HTML()
            self.facts = gr.HTML(elem_id="facts")

    def _lay_channels(self):
        has = "channel" in self.kinds
        with gr.Tab("Channels"):
            self.channel_note = gr.HTML(
                "" if has else _lacking("channel attention", "channels")
            )
            with gr.Row(visible=has):
                self.channel_class = gr.Dropdown(
                    [], label="Channels that answer most to", scale=2
                )
                self.sheet = gr.Slider(
                    *(1, 2, 1), step=1, label="Sheet", buttons=[]
                )
            self.channels = _picture(
                "channels", "Channels after channel attention", has
            )

    def _lay_changes(self):
        with gr.Tab("Without attention"):
            self.off = gr.CheckboxGroup(
                [(f"{kind} attention", kind) for kind in self.kinds],
                label="Switch off",
                elem_id="off",
                visible=bool(self.kinds),
            )
            self.changes = _picture("changes", "What changes", False)
            self.changes_note = gr.HTML(elem_id="changes-note")

    def _lay_second(self):
        has = "position" in self.kinds
        with gr.Tab("Second image"):
            if not has:
                gr.HTML(_lacking("position attention", "a second image"))
            with gr.Group(visible=has):
                self.second_choice, self.second_upload = self._lay_choice(
                    *("second", "What does the point find in", None),
                    "Upload a second image",
                )
            self.second = _picture("second", "Second image", False)
            self.second_note = gr.HTML(elem_id="second-note")


def _picture(name, label, visible=True):
    return gr.Image(
        label=label,
        show_label=False,
        interactive=False,
        # Ten times as fast as PNG, and a click waits for it.
        format="jpeg",
        buttons=[],
        elem_id=name,
        elem_classes="kd-picture",
        alt_text=label,
        visible=visible,
    )


def _lacking(what, whose):
    return pictures.sentence(
        f"This model has no {what}, so there is nothing to show of {whose}."
    )

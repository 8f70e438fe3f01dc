"""`report.html`: a page that needs no other file, network or script."""

import math

from keras_danet.data.palettes import default_palette
from keras_danet.data.palettes import display_palette
from keras_danet.inference.html_pages import page
from keras_danet.inference.html_pages import table
from keras_danet.inference.report import COLUMNS
from keras_danet.inference.report import SUMMARY
from keras_danet.inference.report import percent
from keras_danet.inference.report_charts import confusion_svg
from keras_danet.inference.report_charts import escaped
from keras_danet.inference.report_charts import reliability_svg
from keras_danet.inference.report_pictures import data_url


def html_page(report, samples=(), palette=None):
    """The page of a report, as text.

    Args:
        report: `Report`.
        samples: iterable of `report_pictures.Sample`. Defaults to `()`.
        palette: a colour for each class. Defaults to `None`, colours that
            differ.
    """
    if palette is None:
        palette = default_palette(len(report.class_names))
    title = f"{report.dataset} {report.split}"
    samples = list(samples)
    sections = [
        f"<h1>{escaped(title)}: {percent(report.mean_iou)} mean IoU</h1>",
        f"<p>{escaped(report.num_images)} images; "
        f"{escaped(report.protocol)}.</p>",
        _cards(report),
        "<h2>Classes</h2>",
        _classes(report),
        "<h2>Confusion matrix</h2>",
        "<p>Rows are true classes, columns predicted ones. Colour grows with "
        "the square root of a cell's share of its row, so that small "
        "confusions are seen; those below 0.05 % are left out. The pointer "
        "shows a cell's numbers.</p>",
        f'<div class="wide">{_confusion(report)}</div>',
        "<h2>Reliability</h2>",
        _reliability(report),
    ]
    if samples:
        sections += [
            f"<h2>The {len(samples)} worst images</h2>",
            "<p>By the mean IoU over the classes in their truth. Ignored "
            "pixels are grey.</p>",
            *(_sample(sample, report, palette) for sample in samples),
        ]
    sections += ["<h2>Protocol</h2>", _protocol(report)]
    return page(title, sections)


def _cards(report):
    cards = (
        f'<div class="card"><b>{percent(getattr(report, name))}</b>'
        f"<span>{title}</span></div>"
        for name, title in SUMMARY.items()
    )
    return f'<div class="cards">{"".join(cards)}</div>'


def _classes(report):
    columns = [getattr(report, name) for name in COLUMNS]
    rows = (
        (escaped(name), *(percent(column[name]) for column in columns))
        for name in report.class_names
    )
    return table(("class", *COLUMNS.values()), rows)


def _confusion(report):
    return confusion_svg(report.confusion_matrix, report.class_names)


def _reliability(report):
    if report.calibration_counts is None:
        return (
            "<p>It was not measured: it needs a predictor that tells its "
            "confidence.</p>"
        )
    return (
        "<p>Bars: how many of the pixels of such a confidence are right; the "
        "fuller the colour, the more pixels. Marks: their mean confidence. "
        "Where bars end at their marks, the confidence can be trusted; below "
        "them the network is too sure. Expected calibration error: "
        f"{percent(report.expected_calibration_error)}.</p>"
        f'<div class="wide">{reliability_svg(report.calibration_counts)}</div>'
    )


def _sample(sample, report, palette):
    colors = display_palette(palette)
    panels = "".join(
        f'<div><img alt="{escaped(caption)}" src="{data_url(picture)}">'
        f"<small>{escaped(caption)}</small></div>"
        for caption, picture in sample.panels
    )
    legend = "".join(
        f'<li><i style="background:#{bytes(map(int, colors[index])).hex()}">'
        f"</i>{escaped(report.class_names[index])}</li>"
        for index in sample.classes
        if index < len(report.class_names)
    )
    return (
        f"<figure><figcaption>{escaped(sample.title)}: "
        f"{percent(sample.iou)}</figcaption>"
        f'<div class="panels">{panels}</div>'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _protocol(report):
    facts = {
        "in words": report.protocol,
        "images": report.num_images,
        "image sizes": _sizes(report.image_sizes),
        "classes counted": len(report.class_names),
        "pixels counted": int(report.confusion_matrix.sum()),
        "pixels ignored": report.ignored_pixels,
        "weights": report.weights,
        **(report.settings or {}),
    }
    rows = (
        (escaped(key), escaped(_shown(value)))
        for key, value in facts.items()
        if value is not None
    )
    return table((), rows, "facts")


def _shown(value):
    if isinstance(value, (list, tuple)):
        return ", ".join("own" if v is None else str(v) for v in value)
    return "yes" if value is True else "no" if value is False else value


def _sizes(sizes):
    if not sizes:
        return None
    if len(sizes) == 1:
        return f"{sizes[0][0]} x {sizes[0][1]} (height x width)"
    least, most = (
        end(sizes, key=lambda size: math.prod(size[:2])) for end in (min, max)
    )
    return (
        f"{len(sizes)} sizes, from {least[0]} x {least[1]} to {most[0]} x "
        f"{most[1]} (height x width)"
    )

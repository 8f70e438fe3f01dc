"""`index.html`: what is said of some images, as one page."""

import base64
import io
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from PIL import Image

from keras_danet.explain.explanation import Explanation
from keras_danet.explain.points import RULE
from keras_danet.explain.switching import Contribution
from keras_danet.inference.html_pages import page
from keras_danet.inference.html_pages import table
from keras_danet.inference.report_charts import escaped

# Of the pictures, as WebP, which keeps letters sharp.
WIDTH, QUALITY = 1100, 85
# Classes that a point's row names.
MOST_NAMES = 3
TITLES = {
    "position": "Without and with position attention",
    "channel": "Without and with channel attention",
    "points": "Where points look",
    "channels": "What channels answer to",
    "classes": "Which class gathers from which",
    "uncertainty": "How far to trust it",
}


def explanation_page(
    title: str,
    images: Mapping[str, tuple[Explanation, Mapping[str, bytes]]],
    contributions: Sequence[Contribution] = (),
    num_images: int = 0,
) -> str:
    """The page, as text.

    Args:
        title: string.
        images: dict of an image's name to its `Explanation`, and to a dict
            of the names of its figures to their PNG files.
        contributions: sequence of `Contribution`. Defaults to `()`.
        num_images: integer, on how many images they were measured.
    """
    sections = [f"<h1>{escaped(title)}</h1>"]
    if contributions:
        sections += _contributions(contributions, num_images)
    for name, (explanation, figures) in images.items():
        sections.append(f"<h2>{escaped(name)}</h2>")
        sections.append(_classes(explanation))
        for kind, content in figures.items():
            sections.append(f"<h3>{TITLES[kind]}</h3>")
            sections += _said(kind, explanation)
            alt = f"{TITLES[kind]}: {name}"
            sections.append(
                f'<figure><img alt="{escaped(alt)}" '
                f'style="max-width: 100%; background: #fff" '
                f'src="{_webp(content)}"></figure>'
            )
    return page(title, sections)


def _contributions(contributions, num_images):
    """What each attention adds, on labelled images."""
    yield "<h2>What each attention adds</h2>"
    yield (
        f"<p>Measured on {num_images} labelled images: the network as it is, "
        "and with the attention's <code>gamma</code> set to 0. That is not a "
        "network that was trained without it.</p>"
    )
    for found in contributions:
        gain = 100 * float(np.nanmean(found.gains))
        yield (
            f"<h3>{found.kind} attention: {gain:+.2f} points of mean IoU, "
            f"{found.changed:.1%} of the pixels changed</h3>"
        )
        index = {name: k for k, name in enumerate(found.class_names)}
        rows = (
            (
                escaped(name),
                f"{100 * found.without_it[index[name]]:.2f} %",
                f"{100 * found.with_it[index[name]]:.2f} %",
                f"{100 * found.gains[index[name]]:+.2f}",
            )
            for name in found.classes_by_gain
        )
        yield table(("class", "IoU without", "with", "gain"), rows)


def _classes(explanation):
    shares = explanation.as_dict()["classes"]
    text = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return f"<p>{escaped(text)}</p>"


def _said(kind, explanation) -> Iterable[str]:
    """What is said above a figure."""
    if kind == "points":
        yield (
            "<p>Near is within an eighth of the image's diagonal. What lies "
            f"there, were attention even, stands beside it. {RULE} Points that "
            "were given are as given.</p>"
        )
        yield _points(explanation)
    elif kind == "channels":
        channel = explanation.channel
        where = (
            f"{channel.classes.num_images} labelled images"
            if channel.is_measured
            else "this image alone, by what the network sees in it; --measure "
            "does so on labelled images"
        )
        yield (
            f"<p>The class that a channel answers to most: measured on {where}."
            "</p>"
        )
    elif kind == "classes":
        yield (
            "<p>Brighter than the middle of the scale: more than an even "
            "share. Channels are grouped by the classes that they answer to. "
            "Grey: no channel answers to the class.</p>"
        )


def _points(explanation):
    rows = []
    for number, about in enumerate(explanation.points, 1):
        looks = list(about["attends_to"].items())[:MOST_NAMES]
        text = ", ".join(f"{name} {share:.0%}" for name, share in looks)
        rows.append(
            (
                f"{number} ({about['column']}, {about['row']})",
                escaped(f"{about['class']}, {about['probability']:.0%}"),
                escaped(text),
                f"{about['near']:.0%}, {about['even_near']:.0%}",
            )
        )
    heading = (
        "point (x, y)",
        "is taken for",
        "attends to",
        "near, even share",
    )
    return table(heading, rows)


def _webp(content):
    """A PNG as the address of a smaller picture."""
    with Image.open(io.BytesIO(content)) as picture:
        picture = picture.convert("RGB")
    # Never larger than it is; WebP has a limit for tall ones.
    picture.thumbnail((WIDTH, 8 * WIDTH), Image.Resampling.LANCZOS)
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=QUALITY)
    text = base64.b64encode(small.getvalue()).decode()
    return f"data:image/webp;base64,{text}"

"""`report.html`: a page that needs no other file, network or script."""

import math

from keras_danet.data.palettes import default_palette
from keras_danet.data.palettes import display_palette
from keras_danet.inference.report import COLUMNS
from keras_danet.inference.report import SUMMARY
from keras_danet.inference.report import percent
from keras_danet.inference.report_charts import confusion_svg
from keras_danet.inference.report_charts import escaped
from keras_danet.inference.report_charts import reliability_svg
from keras_danet.inference.report_pictures import data_url

# Even if a name escaped its quotes, nothing would be run or fetched.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5d666f;
  --page: #fff; --card: #f5f7f9; --line: #dde2e7; --hit: #1f6fb2;
  --miss: #c2410c; --on: #fff; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ec;
  --soft: #9aa4ae; --page: #14181c; --card: #1d2329; --line: #323a42;
  --hit: #5aa9e6; --miss: #f0883e; --on: #0b0e11; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem;
  background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
p, figcaption, li { color: var(--soft); } p { max-width: 46rem; }
.cards { display: grid; gap: .75rem; margin: 1.5rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.45rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .92rem; }
th, td { padding: .28rem .8rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); vertical-align: baseline; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child { max-width: 20rem; white-space: normal;
  overflow-wrap: anywhere; }
.facts td { text-align: left; white-space: normal; }
svg { max-width: none; font-family: inherit; }
.hit { fill: var(--hit); } .miss { fill: var(--miss); }
.on { fill: var(--on); } .grid { stroke: var(--line); }
.ideal { stroke: var(--soft); } .mark { stroke: var(--miss); }
figure { margin: 0 0 1.75rem; break-inside: avoid; }
.panels { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); }
.panels img { width: 100%; display: block; border-radius: .25rem; }
.panels small { color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .4rem 0;
  padding: 0; list-style: none; font-size: .85rem; }
.legend i { display: inline-block; width: .8rem; height: .8rem;
  margin-right: .35rem; border: 1px solid var(--line); border-radius: .15rem;
  vertical-align: -.1rem; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
@media print { body { padding: 0; max-width: none; font-size: 11px; }
  h2 { break-after: avoid; } .wide { overflow: visible; }
  svg { max-width: 100%; height: auto; } tr { break-inside: avoid; } }
"""


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
    body = "\n".join(sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"\n<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _cards(report):
    cards = (
        f'<div class="card"><b>{percent(getattr(report, name))}</b>'
        f"<span>{title}</span></div>"
        for name, title in SUMMARY.items()
    )
    return f'<div class="cards">{"".join(cards)}</div>'


def _table(heading, rows, kind=""):
    head = "".join(f"<th>{cell}</th>" for cell in heading)
    lines = (
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if heading else ""
    return (
        f'<div class="wide"><table class="{kind}">{head}<tbody>'
        f"{''.join(lines)}</tbody></table></div>"
    )


def _classes(report):
    columns = [getattr(report, name) for name in COLUMNS]
    rows = (
        (escaped(name), *(percent(column[name]) for column in columns))
        for name in report.class_names
    )
    return _table(("class", *COLUMNS.values()), rows)


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
    return _table((), rows, "facts")


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

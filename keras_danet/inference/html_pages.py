"""Pages that need no other file, network or script."""

from keras_danet.inference.report_charts import escaped

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


def page(title, sections):
    """A page of HTML, as text.

    Args:
        title: string, any text.
        sections: iterable of strings of HTML, in which text is `escaped`.
    """
    title, body = escaped(title), "\n".join(sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def table(heading, rows, kind=""):
    """A table of HTML; cells are HTML already."""
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

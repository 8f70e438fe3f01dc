"""Tables and a plot of what `speed.py` measured.

python benchmarks/report.py     # renders speed.json again
"""

import json
import math
import pathlib
import statistics

BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
MIB = 2**20
GROWTH = {"forward": "forward", "forward-backward": "forward + backward"}


def write(results, folder):
    """Renders `results` into `folder`'s RESULTS.md, and the plot beside it."""
    path = folder / "RESULTS.md"
    text = path.read_text() if path.exists() else f"{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{render(results)}{END}{after}")
    if any(key.startswith("growth-") for key in results):
        plot(results, folder / "growth.png")


def render(results):
    """Markdown, a section for every machine that measured something."""
    lines = []
    for machine in dict.fromkeys(row["machine"] for row in results.values()):
        rows = {k: r for k, r in results.items() if r["machine"] == machine}
        lines += [f"### {machine}", "", *circumstances(rows.values()), ""]
        for key, row in rows.items():
            if not key.startswith("growth-"):
                lines += [*table(row), ""]
        for kind in GROWTH:
            lines += growth_table(kind, rows)
    return "\n".join(lines)


def circumstances(rows):
    versions, settings = {}, set()
    for row in rows:
        for name, version in row["versions"].items():
            versions.setdefault(name, {})[version] = None
        settings |= {f"`{k}={v}`" for k, v in row["settings"].items()}
    listed = ", ".join(f"{name} {'/'.join(v)}" for name, v in versions.items())
    threads = ", ".join(sorted(settings)) or "the libraries' own"
    return [f"Versions: {listed}. Threads and kernels: {threads}."]


def table(row):
    ratios = row["references"]
    head = ["", "s", *(f"/ {name}" for name in ratios), "MiB", "process, MiB"]
    lines = [
        f"**{row['title']}.** {origin(row)}{row['note']}".strip(),
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for name, result in row["contestants"].items():
        shown = f"**{name}**" if name.startswith("keras_danet") else name
        if "error" in result:
            cells = [failure(result), *[""] * (len(head) - 2)]
        else:
            cells = [
                number(statistics.median(result["seconds"])),
                *(f"{ratio(row, name, ratios[r]):.2f}" for r in ratios),
                f"{result['memory'] / MIB:,.0f}",
                f"{result['process'] / MIB:,.0f}",
            ]
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return lines


def origin(row):
    runs = f"{row['runs']} runs" if row["runs"] > 1 else "One run"
    return f"{runs} on {row['date']}, commit {row['commit']}. "


def failure(result):
    text = result["error"].replace("|", "\\|")
    return text if text.startswith("not run") else f"failed: {text}"


def number(seconds):
    """Three digits, and no exponent."""
    digits = max(0, 2 - math.floor(math.log10(seconds)))
    return f"{seconds:.{digits}f}"


def ratio(row, name, reference):
    """The median over the rounds of this time by the reference's.

    The reference is the fastest of those whose names begin so.
    """
    times = {
        other: result["seconds"]
        for other, result in row["contestants"].items()
        if "error" not in result
    }
    candidates = [other for other in times if other.startswith(reference)]
    if not candidates:
        return math.nan
    fastest = min(candidates, key=lambda other: statistics.median(times[other]))
    return statistics.median(
        mine / theirs
        for mine, theirs in zip(times[name], times[fastest], strict=True)
    )


def growth_of(kind, rows):
    """By contestant, its results by number of positions."""
    series = {}
    for key, row in rows.items():
        if key.rpartition("-")[0] != f"growth-{kind}":
            continue
        height, width = map(int, row["title"].split("x"))
        for name, result in row["contestants"].items():
            series.setdefault(name, {})[height * width] = result
    return series


def growth_table(kind, rows):
    series = growth_of(kind, rows)
    if not series:
        return []
    titles = [
        row["title"]
        for key, row in rows.items()
        if key.rpartition("-")[0] == f"growth-{kind}"
    ]
    head = ["s and MiB", *titles, "per doubling of N"]
    lines = [
        f"**Growth of position attention, {GROWTH[kind]}** (the plot: "
        "[growth.png](growth.png)). The last column is by how many times time "
        "and memory grow, over the last two doublings.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for name, results in series.items():
        cells = [
            failure(result)
            if "error" in result
            else f"{number(statistics.median(result['seconds']))}, "
            f"{result['memory'] / MIB:,.0f}"
            for result in results.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {doubling(results)} |")
    return [*lines, ""]


def doubling(results):
    measured = {n: r for n, r in results.items() if "error" not in r}
    last = max(measured, default=0)
    start = max((n for n in measured if 4 * n <= last), default=None)
    if start is None:
        return ""
    power = 1 / math.log2(last / start)
    time, memory = (
        (value(measured[last]) / value(measured[start])) ** power
        for value in (
            lambda result: statistics.median(result["seconds"]),
            lambda result: max(result["memory"], 1),
        )
    )
    return f"{time:.1f}, {memory:.1f}"


def plot(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, 2, figsize=(9, 7), sharex=True, sharey="row", layout="constrained"
    )
    for column, (kind, title) in enumerate(GROWTH.items()):
        for name, series in growth_of(kind, results).items():
            measured = {n: r for n, r in series.items() if "error" not in r}
            seconds = [
                statistics.median(r["seconds"]) for r in measured.values()
            ]
            mebibytes = [max(r["memory"] / MIB, 1) for r in measured.values()]
            style = {"marker": "o", "label": name}
            axes[0, column].loglog(list(measured), seconds, **style)
            axes[1, column].loglog(list(measured), mebibytes, **style)
        axes[0, column].set_title(f"Position attention, {title}")
        axes[1, column].set_xlabel("positions N")
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("memory of a call, MiB")
    for axis in axes.flat:
        axis.grid(alpha=0.3, which="both")
    axes[0, 0].legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    folder = pathlib.Path(__file__).parent
    write(json.loads((folder / "speed.json").read_text()), folder)

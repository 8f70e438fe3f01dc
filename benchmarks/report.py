"""Tables and a plot of what `speed.py` measured.

python benchmarks/report.py     # renders speed.json again
"""

import json
import math
import pathlib
import statistics

BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
MIB = 2**20
GROWTH = {"forward": "forward", "backward": "forward + backward"}


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
    references = row["references"]
    head = ["", "s", *(f"/ {name}" for name in references)]
    head += ["MiB", "process, MiB"]
    lines = [
        f"**{row['title']}.** {origin(row)} {row['note']}".strip(),
        "",
        *table_head(head),
    ]
    for name, result in row["contestants"].items():
        if "error" in result:
            cells = [failure(result)] + [""] * (len(head) - 2)
        else:
            cells = [
                number(seconds(result)),
                *(ratio(row, name, other) for other in references.values()),
                mebibytes(result["memory"]),
                mebibytes(result["process"]),
            ]
        alone = " (not in turn)" if result.get("alone") else ""
        lines.append(f"| {shown(name)}{alone} | {' | '.join(cells)} |")
    return lines


def table_head(cells):
    return [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]


def origin(row):
    runs = f"{row['runs']} runs" if row["runs"] > 1 else "One run"
    return f"{runs} on {row['date']}, commit {row['commit']}."


def shown(name):
    return f"**{name}**" if name.startswith("keras_danet") else name


def failure(result):
    text = result["error"].replace("|", "\\|")
    return text if text.startswith("not run") else f"failed: {text}"


def seconds(result):
    return statistics.median(result["seconds"])


def number(value):
    """Three digits, and no exponent."""
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"


def mebibytes(value):
    return f"{value / MIB:,.0f}"


def ratio(row, name, references):
    """The median over the rounds of this time by the reference's.

    The reference is the fastest of those named.
    """
    measured = successes(row["contestants"])
    candidates = [other for other in references if other in measured]
    if not candidates:
        return ""
    fastest = min(candidates, key=lambda other: seconds(measured[other]))
    pairs = zip(
        measured[name]["seconds"], measured[fastest]["seconds"], strict=True
    )
    return f"{statistics.median(mine / other for mine, other in pairs):.2f}"


def successes(results):
    return {k: result for k, result in results.items() if "error" not in result}


def growth(kind, rows):
    """By contestant, its results by number of positions."""
    series = {}
    for key, row in rows.items():
        if key.startswith(f"growth-{kind}-"):
            height, width = map(int, row["title"].split("x"))
            for name, result in row["contestants"].items():
                series.setdefault(name, {})[height * width] = result
    return series


def growth_table(kind, rows):
    maps = [r for k, r in rows.items() if k.startswith(f"growth-{kind}-")]
    if not maps:
        return []
    titles = [row["title"] for row in maps]
    lines = [
        f"**Growth of position attention, {GROWTH[kind]}, float32.** "
        f"{origin(maps[-1])} Seconds and MiB by the size of the map of 512 "
        "channels, and how many times they grow when N doubles, over the last "
        "two doublings. ![growth](growth.png)",
        "",
        *table_head(["", *titles, "per doubling"]),
    ]
    for name, results in growth(kind, rows).items():
        cells = [
            failure(result)
            if "error" in result
            else f"{number(seconds(result))} s, {mebibytes(result['memory'])}"
            for result in results.values()
        ]
        cells.append(doubling(successes(results)))
        lines.append(f"| {shown(name)} | {' | '.join(cells)} |")
    return [*lines, ""]


def doubling(results):
    """How many times time and memory grow, from a fourth of the largest N."""
    last = max(results, default=0)
    start = max((n for n in results if 4 * n <= last), default=None)
    if start is None:
        return ""
    power = 1 / math.log2(last / start)
    time = (seconds(results[last]) / seconds(results[start])) ** power
    least = max(1, results[start]["memory"])
    memory = (results[last]["memory"] / least) ** power
    return f"x {time:.1f}, x {memory:.1f}"


def plot(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, 2, figsize=(9, 7), sharex=True, sharey="row", layout="constrained"
    )
    for column, (kind, title) in enumerate(GROWTH.items()):
        for name, series in growth(kind, results).items():
            series = successes(series)
            times = [seconds(result) for result in series.values()]
            memory = [result["memory"] / MIB for result in series.values()]
            style = {"marker": "o", "label": name}
            axes[0, column].loglog(list(series), times, **style)
            axes[1, column].loglog(list(series), memory, **style)
        axes[0, column].set_title(f"Position attention, {title}")
        positions = sorted(
            {n for s in growth(kind, results).values() for n in s}
        )
        axes[1, column].set_xticks(positions, positions, minor=False)
        axes[1, column].set_xticks([], minor=True)
        axes[1, column].set_xlabel("positions N")
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("memory of a call, MiB")
    for axis in axes.flat:
        axis.grid(alpha=0.3, which="both")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        ncols=3,
        loc="outside lower center",
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    folder = pathlib.Path(__file__).parent
    write(json.loads((folder / "speed.json").read_text()), folder)

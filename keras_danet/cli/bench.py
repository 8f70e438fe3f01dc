"""`keras-danet bench`: latency and memory of exports side by side."""

import dataclasses
import json

from keras_danet.cli.arguments import positive
from keras_danet.cli.export import add_export_size

DEFAULT_SIZE = (512, 512)


def add(verbs):
    verb = verbs.add_parser(
        "bench",
        help="compare latency and memory of exports",
        description="Runs each export in a process of its own, one after the "
        "other, and shows the median time of an image, the time from opening "
        "to the first result, and the most memory that it took; beside them "
        "how far it was from its model when it was written.",
    )
    verb.add_argument(
        "exports",
        nargs="+",
        metavar="EXPORT",
        help="folders that `export` wrote; times are also shown relative to "
        "the first",
    )
    add_export_size(
        verb,
        "image size for exports of any size (default: that of the first "
        "export that has one, else 512x512)",
    )
    verb.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads of each (default: the runtime's choice)",
    )
    verb.add_argument(
        "--repeats",
        type=positive,
        default=20,
        metavar="N",
        help="results that the median is over (default: 20)",
    )
    verb.add_argument(
        "--json", action="store_true", help="print the figures as JSON"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet.export.contract import Contract
    from keras_danet.export.measuring import measure
    from keras_danet.export.runtimes import read_export
    from keras_danet.text_tables import table_lines

    reports = [read_export(folder) for folder in arguments.exports]
    contracts = [Contract.from_dict(found["contract"]) for found in reports]
    sizes = [contract.size for contract in contracts if contract.size]
    given = None if arguments.size == "any" else arguments.size
    size = given or (sizes[0] if sizes else DEFAULT_SIZE)
    costs = [
        measure(
            folder,
            contract.size or size,
            arguments.threads,
            arguments.repeats,
        )
        for folder, contract in zip(arguments.exports, contracts, strict=True)
    ]
    if arguments.json:
        found = zip(arguments.exports, costs, strict=True)
        print(
            json.dumps(
                {str(f): dataclasses.asdict(c) for f, c in found}, indent=1
            )
        )
        return 0
    rows = [
        (
            *("export", "precision", "size", "ms", "ratio", "first s"),
            *("peak MiB", "MB", "same class", "mIoU lost"),
        )
    ]
    for folder, contract, report, cost in zip(
        arguments.exports, contracts, reports, costs, strict=True
    ):
        rows.append(
            (
                str(folder),
                contract.quantization.replace("none", "float32"),
                "{}x{}".format(*cost.size),
                f"{1e3 * cost.seconds:.1f}",
                f"{cost.seconds / costs[0].seconds:.2f}",
                f"{cost.first_seconds:.2f}",
                f"{cost.peak_bytes / 2**20:.0f}",
                *_when_written(report),
            )
        )
    print("\n".join(table_lines(rows, num_texts=2)))
    return 0


def _when_written(report):
    """Size, agreement and lost mean IoU, as far as a report has them."""
    found = report.get("verification")
    found = found if isinstance(found, dict) else {}
    return (
        _number(report.get("num_bytes"), lambda size: f"{size / 1e6:.1f}"),
        _number(found.get("agreement"), "{:.3%}".format),
        _number(found.get("lost_iou"), "{:+.2%}".format),
    )


def _number(value, write):
    return write(value) if isinstance(value, (int, float)) else "-"

"""`keras-danet compare`: several reports side by side."""


def add(verbs):
    verb = verbs.add_parser(
        "compare",
        help="compare models by their reports, with intervals",
        description="Shows the IoU of every class of several models side by "
        "side, and how they differ from the first, with 95 %% intervals: how "
        "much the difference would vary with other images of the same kind. "
        "The reports must be of the same images.",
    )
    verb.add_argument(
        "reports",
        nargs="+",
        metavar="REPORT",
        help="report.json of `keras-danet evaluate`, or a run's folder; the "
        "others are compared with the first",
    )
    verb.add_argument(
        "--json", action="store_true", help="print the comparison as JSON"
    )
    verb.set_defaults(run_verb=run)


def run(arguments):
    from keras_danet.inference.comparison import compare_reports

    comparison = compare_reports(arguments.reports)
    print(comparison.as_json() if arguments.json else comparison.table())
    return 0

"""What several verbs take."""

import sys


def add_run(verb):
    verb.add_argument("run", metavar="RUN", help="folder of a training run")


def read_config(arguments):
    from keras_danet import runs

    config = runs.read_run_config(arguments.run)
    if arguments.data:
        config = config.replace({"data_root": arguments.data})
    return config


def show_progress(done, count):
    if sys.stderr.isatty():
        end = "\n" if done == count else ""
        print(f"\r{done}/{count} images", end=end, file=sys.stderr, flush=True)


def add_data(verb):
    verb.add_argument(
        "name",
        metavar="NAME",
        help="of the data set, such as cityscapes; 'folder' for your own",
    )
    verb.add_argument("root", metavar="ROOT", help="folder where it lies")
    verb.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="files to read at the same time (default: one for each core)",
    )

"""The command line: one file per verb."""

from keras_danet.cli.commands import main as main

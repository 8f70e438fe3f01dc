"""`python -m keras_danet`: the command line."""

import sys

from keras_danet.cli import main

sys.exit(main())

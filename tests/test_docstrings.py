"""The examples in docstrings run, and give what they say."""

import doctest
import importlib.util
import pkgutil

import keras
import numpy as np
import pytest
from conftest import one_backend

import keras_danet

pytestmark = one_backend

# Modules that need more than a backend are examined where it is installed.
NEEDS = {
    "keras_danet.data.augment": "tensorflow",
    "keras_danet.data.tensorflow_images": "tensorflow",
    "keras_danet.data.tensorflow_batches": "tensorflow",
    "keras_danet.explain.page": "gradio",
    "keras_danet.explain.page_answers": "gradio",
    "keras_danet.explain.page_layout": "gradio",
    "keras_danet.explain.page_server": "gradio",
}
MODULES = [
    module.name
    for module in pkgutil.walk_packages(keras_danet.__path__, "keras_danet.")
    if not module.name.endswith("__main__")
    and importlib.util.find_spec(NEEDS.get(module.name, "keras"))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    names = {"np": np, "keras": keras, "keras_danet": keras_danet}
    result = doctest.testmod(module, extraglobs=names)
    assert result.failed == 0


@pytest.mark.parametrize(
    "public", [n for n in keras_danet.__all__ if n[0].isupper()]
)
def test_public_names_are_documented(public):
    thing = getattr(keras_danet, public)
    assert thing.__doc__
    assert "Args:" in thing.__doc__

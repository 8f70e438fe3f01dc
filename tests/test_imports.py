"""What `import keras_danet` and the command line import, and what they do not.

Fresh processes, as this one has imported everything.
"""

import ast
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import typing

import pytest
from conftest import one_backend

import keras_danet
from keras_danet import DANet
from keras_danet import DilatedResNet

HEAVY = ("keras", "tensorflow", "jax", "torch", "numpy", "PIL")
# Seen while the package is imported; a class that is never registered is not.
REGISTERED = sorted(
    f"keras_danet>{node.name}"
    for path in pathlib.Path(keras_danet.__file__).parent.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(node, ast.ClassDef)
    and any("register_keras" in ast.unparse(d) for d in node.decorator_list)
)
PRINT_REGISTERED = """
import keras
print(*sorted(
    name
    for name in keras.saving.get_custom_objects()
    if name.startswith("keras_danet>")
))
"""


def run(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def heavy_after(code):
    done = run(
        f"import sys\n{code}\n"
        f"print(*[n for n in {HEAVY} if n in sys.modules], sep=',')"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@one_backend
@pytest.mark.parametrize(
    "code",
    [
        "import keras_danet; dir(keras_danet); keras_danet.__version__",
        "import keras_danet.cli",
        *(
            f"from keras_danet import cli\ntry: cli.main({arguments})\n"
            "except SystemExit: pass"
            for arguments in (["--help"], ["--version"], ["predict", "--help"])
        ),
    ],
)
def test_what_needs_nothing_imports_nothing(code):
    assert heavy_after(code) == ""


@one_backend
def test_recipes_and_data_need_no_keras():
    code = "from keras_danet import TrainConfig; import keras_danet.data.folder"
    assert "keras" not in heavy_after(code).split(",")


@pytest.mark.parametrize(
    "code",
    [
        # Of the package only this, which imports Keras in the middle.
        "import keras_danet.layers.attention",
        "import keras_danet.data.folder",
    ],
)
@one_backend
def test_classes_are_registered_however_it_is_imported(code):
    done = run(f"{code}\n{PRINT_REGISTERED}")
    assert done.stdout.split() == REGISTERED, done.stderr
    assert len(REGISTERED) >= 20


def test_a_saved_model_loads_after_a_plain_import(tmp_path):
    model = DANet(3, DilatedResNet(18, filters=8))
    model.compile()
    model.save(tmp_path / "model.keras")
    done = run(
        "import sys, keras, keras_danet\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "print(type(model.optimizer) is keras_danet.SGD)\n"
        "print(type(model) is keras_danet.DANet)",
        tmp_path / "model.keras",
    )
    assert done.stdout.split() == ["True", "True"], done.stderr


@one_backend
def test_names_are_those_that_readers_are_told_of():
    tree = ast.parse(pathlib.Path(keras_danet.__file__).read_text())
    told = {
        alias.asname: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        for alias in node.names
    }
    assert sorted(told) == sorted(keras_danet.__all__)
    for name, module in told.items():
        value = getattr(keras_danet, name)
        assert value is getattr(importlib.import_module(module), name)
        assert name in dir(keras_danet)
    assert keras_danet.trainer is importlib.import_module("keras_danet.trainer")
    with pytest.raises(AttributeError, match="no attribute 'DANEt'"):
        _ = keras_danet.DANEt
    names: dict[str, typing.Any] = {}
    exec("from keras_danet import *", names)
    assert names["DANet"] is DANet


WRONG = {
    "not ours": ("numpy", "not on the backend 'numpy' (KERAS_BACKEND=numpy)"),
    "short": ("tf", "not on the backend 'tf'"),
    "capitals": ("JAX", "type: KERAS_BACKEND=jax"),
    "gone": ("theano", "not on the backend 'theano'"),
}


@one_backend
@pytest.mark.parametrize("backend, message", WRONG.values(), ids=WRONG)
def test_a_wrong_backend_is_told_with_the_line_to_type(backend, message):
    environment = {"KERAS_BACKEND": backend}
    for code in (
        "from keras_danet import DANet",
        "import keras_danet.models",
        "import keras_danet; keras_danet.losses",
        "import keras_danet, keras",
    ):
        done = run(code, **environment)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: keras_danet runs on tensorflow")
        assert message in last
        assert "Installed: " in last and "KERAS_BACKEND=" in last
    assert run("import keras_danet", **environment).returncode == 0


def without(*missing):
    """Code that runs as if some packages were not installed."""
    return (
        "import sys, importlib.machinery as m\n"
        f"missing = {missing!r}\n"
        "find = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = classmethod(\n"
        "    lambda c, name, path=None, target=None: None\n"
        "    if name.split('.')[0] in missing\n"
        "    else find(name, path, target))\n"
    )


@one_backend
@pytest.mark.parametrize(
    "missing, remedy",
    [
        (
            ("tensorflow", "torch"),
            "Installed: jax. On the command line type: "
            "KERAS_BACKEND=jax keras-danet",
        ),
        (("tensorflow", "jax", "torch"), "None of them is installed."),
    ],
)
def test_a_missing_default_backend(missing, remedy, tmp_path):
    # As after `pip install .[jax]`, with nothing set.
    environment = {"KERAS_BACKEND": "", "KERAS_HOME": str(tmp_path)}
    done = run(
        without(*missing) + "from keras_danet import DANet", **environment
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ImportError: The backend tensorflow is not installed (Keras's default"
    )
    assert remedy in last
    command = without(*missing) + (
        "import keras_danet.cli\n"
        "sys.exit(keras_danet.cli.main(['evaluate', 'run']))"
    )
    done = run(command, **environment)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("keras-danet: error: The backend tensorflow is not")
    assert remedy in line


@one_backend
@pytest.mark.parametrize(
    "settings",
    ["no JSON", '{"backend": "torch"}', "[]", '{"floatx": "float99"}'],
)
def test_settings_of_keras(settings, tmp_path):
    """Broken ones Keras passes over, or they are named."""
    (tmp_path / "keras.json").write_text(settings)
    environment = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)}
    done = run("from keras_danet import DANet", **environment)
    if settings in ("[]", '{"floatx": "float99"}'):
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: Keras cannot be imported")
        assert str(tmp_path / "keras.json") in last
    else:
        assert done.returncode == 0, done.stderr
    if settings.startswith('{"backend"'):
        told = without("torch") + "from keras_danet import DANet"
        done = run(told, **{**environment, "KERAS_BACKEND": ""})
        assert f'"backend" in {tmp_path / "keras.json"}' in done.stderr
        assert json.loads(settings)["backend"] == "torch"

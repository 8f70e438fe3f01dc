"""Every line of the documents that can be typed is run, or parsed.

Networks, data and files are small stand-ins; the calls and commands are the
documents' own. A line that no rule below knows fails the test.
"""

import ast
import contextlib
import json
import pathlib
import re
import shlex
import tomllib

import keras
import numpy as np
import PIL
import pytest
from conftest import ROOT
from conftest import one_backend
from PIL import Image

import keras_danet
from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import serving
from keras_danet.cli import commands
from keras_danet.data.folder import read_classes
from keras_danet.recipe import find_recipe
from keras_danet.serving.files import FILES

BACKEND = keras.backend.backend()
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "training").rglob("*.md")),
    ROOT / "saved_models" / "README.md",
]
REMEDY = (
    "Either mend the line, or teach tests/test_documents.py what stands for "
    "what it needs."
)


def blocks(language):
    """(document, code) of every fenced block in a language."""
    return [
        (
            path.name if path.parent == ROOT else str(path.relative_to(ROOT)),
            code,
        )
        for path in DOCUMENTS
        for code in re.findall(
            rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S
        )
    ]


@one_backend
def test_every_block_says_what_it_is():
    for path in DOCUMENTS:
        fences = re.findall(r"^```(.*)$", path.read_text(), re.M)
        assert set(fences[1::2]) <= {""}, path
        assert set(fences[::2]) <= {"python", "sh", "json", "text"}, (
            f"{path} has a block of another language. {REMEDY}"
        )


# Python


def small(depth=18, **arguments):
    """A DANet that is quickly made."""
    return DANet(
        **{
            "num_classes": 3,
            **arguments,
            "backbone": DilatedResNet(depth, filters=8),
        }
    )


class SmallDANet:
    """Stands for `keras_danet.DANet`: what is fetched is small and here."""

    presets = DANet.presets

    def __new__(cls, num_classes, backbone="resnet50", **arguments):
        if not isinstance(backbone, str):
            return DANet(num_classes, backbone, **arguments)
        assert backbone in {"resnet50", *DilatedResNet.presets}
        return small(num_classes=num_classes, **arguments)

    @staticmethod
    def from_preset(name, **arguments):
        assert name in DANet.presets or name.startswith("hf://")
        return small(**arguments)

    @staticmethod
    def from_checkpoint(path, **arguments):
        assert pathlib.Path(path).suffix == ".tar"
        # As many blocks in the last stage as the authors' network has.
        tensors = small(50).to_state_dict()
        return DANet.from_checkpoint(tensors, **arguments)


class SmallResNet:
    @staticmethod
    def from_checkpoint(path):
        assert pathlib.Path(path).suffix == ".safetensors"
        return DilatedResNet(18, filters=8)


class SmallClient:
    """Stands for `keras_danet.serving.Client`: there is no server."""

    def __init__(self, address):
        assert address.startswith("http")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, image):
        return np.zeros((2, 3), "uint8")

    def map(self, images, in_flight):
        return map(self, images)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return np.zeros((2, 32, 32, 3), "uint8"), np.ones((2, 32, 32), "uint8")


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the documents' Python may use without having made it."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (48, 40)).save("street.png")
    monkeypatch.setattr(keras_danet, "DANet", SmallDANet)
    monkeypatch.setattr(keras_danet, "DilatedResNet", SmallResNet)
    monkeypatch.setattr(serving, "Client", SmallClient)
    fetched = keras.applications.ConvNeXtTiny
    monkeypatch.setattr(
        keras.applications,
        "ConvNeXtTiny",
        lambda **arguments: fetched(**arguments, weights=None),
    )
    return {
        "keras": keras,
        "keras_danet": keras_danet,
        "train_dataset": Batches(),
        "val_dataset": Batches(),
        "images": np.zeros((1, 32, 32, 3), "uint8"),
        "photos": ["street.png"],
        "model": small(num_classes=19),
        "np": np,
        "PIL": PIL,
    }


def statements(code):
    """(statement, where it runs) of a block, by what its comment says."""
    lines = code.splitlines()
    for statement in ast.parse(code).body:
        text = "\n".join(lines[statement.lineno - 1 : statement.end_lineno])
        said = re.search(r"# on ((?:\w+|, | and )+)$", text, re.M)
        words = set(re.findall(r"\w+", said[1].lower())) if said else set()
        yield text, (words & {"tensorflow", "jax", "torch"}) or {BACKEND}


PYTHON = [
    pytest.param(
        code,
        marks=()
        if "# on " in code
        else [pytest.mark.slow]
        if BACKEND != "torch"
        else (),
        id=f"{document}-{number}",
    )
    for number, (document, code) in enumerate(blocks("python"))
]


# Exporters and torch warn of their own ways; what is wrong raises.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", PYTHON)
def test_python_runs(code, names):
    for statement, backends in statements(code):
        if BACKEND not in backends:
            continue
        try:
            exec(statement, names)
        except NameError as error:
            pytest.fail(f"{statement}: {error}. {REMEDY}")
    if BACKEND == "torch" and 'format="onnx"' in code:
        _check_onnx(names["model"])


def _check_onnx(model):
    import onnxruntime

    session = onnxruntime.InferenceSession("danet.onnx")
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, logits.name) == ("images", "logits")
    batch = np.random.default_rng(0).uniform(0, 255, (1, 40, 56, 3))
    batch = batch.astype("float32")
    (received,) = session.run(None, {"images": batch})
    expected = model.predict(batch, verbose=0)
    # float32 rounding, in another order.
    atol = 1e-4 * expected.std()
    np.testing.assert_allclose(received, expected, atol=atol)


@one_backend
def test_statements_run_somewhere():
    for _, code in blocks("python"):
        for statement, backends in statements(code):
            assert backends, statement
    code = "f(1)  # on TensorFlow and JAX, once\ng(2)  # on torch\nh(3)"
    assert [found for _, found in statements(code.replace(", once", ""))] == [
        {"tensorflow", "jax"},
        {"torch"},
        {BACKEND},
    ]


@one_backend
@pytest.mark.parametrize("document, code", blocks("json"))
def test_json_names_classes(document, code, tmp_path):
    json.loads(code)
    (tmp_path / "classes.json").write_text(code)
    assert read_classes(tmp_path / "classes.json").class_names


# Shell

COMMANDS = [
    (document, line.strip())
    for document, code in blocks("sh")
    for line in code.replace("\\\n", " ").splitlines()
    if line.partition("#")[0].strip()
]
# What a document leaves open, and what its reader might put there.
OPEN = {
    "RECIPE": "scenes",
    "RECIPE.py": "scenes_danet_resnet18.py",
    "my_recipe.py": "scenes_danet_resnet18.py",
}


def is_keras_danet(words):
    arguments = [
        OPEN.get(word, word).replace("RECIPE.py", OPEN["RECIPE.py"])
        for word in words
        # Of [--set KEY=VALUE ...], which says what else there is.
        if word != "..."
    ]
    if ">" in arguments:
        arguments = arguments[: arguments.index(">")]
    errors = []
    with contextlib.suppress(SystemExit):
        parsed = commands._parser().parse_args(arguments)
        if arguments[0] == "train":
            path = find_recipe(parsed.recipe)
            # As a path it is seen from a checkout.
            if not (ROOT / path).is_file():
                errors.append(f"there is no {path}")
        return errors
    return ["the command line does not take it"]


def is_pip(words):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert words[0] == "install"
    named = re.fullmatch(r"\.\[(.*)\]", words[1])[1].split(",")
    return [f"there is no extra {n}" for n in named if n not in extras]


def is_make(words):
    makefile = (ROOT / "Makefile").read_text()
    return [
        f"there is no target {word}"
        for word in words
        if "=" not in word and not re.search(rf"^{word}\b.*:", makefile, re.M)
    ]


def is_python(words):
    if words[:2] == ["-m", "pytest"]:
        words = words[2:]
    return [] if (ROOT / words[0]).is_file() else [f"there is no {words[0]}"]


def is_sh(words):
    # What `keras-danet serve-files --output serving` writes.
    folder, _, name = words[0].partition("/")
    known = folder == "serving" and name in FILES
    return [] if known else [f"there is no {words[0]}"]


RULES = {
    "sh": is_sh,
    "keras-danet": is_keras_danet,
    "pip": is_pip,
    "make": is_make,
    "python": is_python,
    ".venv/bin/python": is_python,
}


def problems(line):
    words = shlex.split(line.replace("[--", "--"), True)
    words = [word.rstrip("]") if "[" not in word else word for word in words]
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    if words[0] not in RULES:
        return [f"no rule knows {words[0]}"]
    return RULES[words[0]](words[1:])


@one_backend
@pytest.mark.parametrize("document, line", COMMANDS)
def test_commands_are_taken(document, line):
    found = problems(line)
    assert not found, f"{document}: {line}: {'; '.join(found)}. {REMEDY}"


@one_backend
def test_wrong_lines_are_found(capsys):
    for line, problem in (
        ("keras-danet predict run", "does not take it"),
        ("keras-danet train training/none.py", "there is no"),
        ("pip install '.[paint]'", "no extra paint"),
        ("make coffee", "no target coffee"),
        ("KERAS_BACKEND=jax python benchmarks/none.py", "there is no"),
        ("curl something", "no rule knows curl"),
    ):
        assert any(problem in found for found in problems(line)), line
    capsys.readouterr()


@one_backend
def test_verbs_in_sentences_are_there():
    known = set(commands._parser()._subparsers._group_actions[0].choices)
    for path in DOCUMENTS:
        said = re.findall(r"`keras-danet ([a-z][\w-]*)", path.read_text())
        assert set(said) <= known, path


@one_backend
def test_tests_that_are_named_are_there():
    for path in DOCUMENTS:
        for file, name in re.findall(
            r"(tests/[\w/]+\.py)(?:::(\w+))?", path.read_text()
        ):
            assert (ROOT / file).is_file(), f"{path}: {file}"
            text = (ROOT / file).read_text()
            assert not name or f"def {name}(" in text, f"{path}: {name}"


@pytest.mark.skipif(BACKEND != "torch", reason="ONNX is written from torch")
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_was_only_loaded_is_exported(tmp_path):
    small().save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    path = tmp_path / "model.onnx"
    model.export(path, format="onnx", verbose=False)
    import onnx

    graph = onnx.load(path).graph
    assert [value.name for value in graph.output] == ["logits"]
    onnx.checker.check_model(str(path))

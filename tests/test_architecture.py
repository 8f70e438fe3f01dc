"""The house's table of who may import whom, held by `ast`."""

import ast
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import one_backend

import keras_danet

pytestmark = one_backend

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "keras_danet"

# Arrows point downwards: a module imports from rows above its own, and from
# the modules of its own row where that makes no circle.
ROWS = (
    {"import_hooks", "arguments", "lazy_names", "files"},
    {"backends", "text_tables", "waiting"},
    {"layers", "data", "distribution"},
    {"losses", "optimizers", "weights"},
    {"metrics"},
    {"models"},
    {"recipe"},
    {"runs"},
    {"inference"},
    {"export", "explain"},
    {"trainer", "serving"},
    {"ablation"},
    {"", "cli"},
    {"__main__"},
)
TENSORFLOW = {
    "data/augment.py",
    "data/tensorflow_images.py",
    "data/tensorflow_batches.py",
    "export/image_bytes.py",
    "export/tensorflow_graphs.py",
}
TENSORFLOW_LAZILY = {
    "distribution/tensorflow_strategies.py",
    "export/onnx_files.py",
    "export/operators.py",
    "export/runtimes.py",
    "export/tflite.py",
    "serving/client.py",
    "serving/served_model.py",
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield path, name


def row(name):
    for index, names in enumerate(ROWS):
        if name in names or name.split(".")[0] in names - {""}:
            return index
    raise AssertionError(f"{name} has no row in the architecture table")


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                is_module = (ROOT / inside.replace(".", "/")).is_dir() or (
                    ROOT / (inside.replace(".", "/") + ".py")
                ).is_file()
                yield inside if is_module else node.module


@pytest.mark.parametrize(
    "path, name", list(modules()), ids=[n or "init" for _, n in modules()]
)
def test_arrows_point_one_way(path, name):
    if name in ("data",):
        return
    for imported in imports(path):
        if not imported.startswith("keras_danet"):
            continue
        target = imported.removeprefix("keras_danet").lstrip(".")
        if target in ("", "data"):
            assert row(name) >= row(""), f"{name} imports the package"
            continue
        same_folder = name.split(".")[0] == target.split(".")[0]
        assert row(target) < row(name) or (
            row(target) == row(name) and same_folder
        ), f"{name} imports {target}"


def test_the_drawing_is_true():
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawing = page.partition("```text\n")[2].partition("```")[0]
    # What is right of the names says what they are.
    rows = [
        line.strip().split("    ")[0].split() for line in drawing.splitlines()
    ]
    drawn = [set(row) for row in rows if row != ["|"]]
    names = [{name or "__init__" for name in row} for row in ROWS]
    assert drawn == names[::-1]


def test_tensorflow_is_imported_where_it_may_be():
    for path, _ in modules():
        file = path.relative_to(PACKAGE).as_posix()
        at_all = any(i.split(".")[0] == "tensorflow" for i in imports(path))
        first = any(
            i.split(".")[0] == "tensorflow" for i in imports(path, True)
        )
        assert not at_all or file in TENSORFLOW | TENSORFLOW_LAZILY, file
        assert not first or file in TENSORFLOW, file


def test_optional_packages_are_imported_lazily():
    for path, _ in modules():
        optional = {"jax", "torch", "matplotlib", "ai_edge_litert"}
        optional |= {"huggingface_hub", "safetensors", "av"}
        optional |= {"tf2onnx", "onnxruntime", "openvino", "nncf"}
        optional |= {"grpc", "httpx", "tensorflow_serving"}
        at_once = [*imports(path, True)]
        assert "keras_danet.explain.figures" not in at_once, path.name
        # It draws with matplotlib, and is itself imported lazily.
        if path.parts[-2:] == ("explain", "figures.py"):
            optional -= {"matplotlib"}
        found = {i.split(".")[0] for i in at_once} & optional
        assert not found, f"{path.name} imports {found} at once"


def test_private_names_stay_in_their_modules():
    for path, _ in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names} - {"__version__"}
                taken = [name for name in names if name.startswith("_")]
                assert not taken, f"{path.name} imports {taken}"


def test_no_drawers_and_no_unsafe_loading():
    for path, _ in modules():
        assert path.stem not in ("utils", "common", "helpers")
        text = path.read_text()
        for unsafe in (
            "safe_mode=False",
            "allow_pickle=True",
            "weights_only=False",
            "import pickle",
            "Lambda(",
        ):
            assert unsafe not in text, f"{path.name}: {unsafe}"
        assert "keras.src" not in text


def test_layers_are_not_made_in_call():
    for path, _ in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "call":
                made = [
                    ast.unparse(n.func)
                    for n in ast.walk(node)
                    if isinstance(n, ast.Call)
                    and ast.unparse(n.func).startswith(
                        ("layers.", "keras.layers.")
                    )
                ]
                assert not made, f"{path.name} makes {made} in call"


def test_only_the_package_is_packaged(tmp_path):
    # From a copy: a build leaves folders beside its source.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("keras_danet", "training", "tests"):
        shutil.copytree(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "-w", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "keras_danet").rglob("*.py")
    }
    recipes = {
        f"keras_danet/recipes/{path.relative_to(ROOT / 'training')}"
        for path in (ROOT / "training").rglob("*.py")
    }
    info = f"keras_danet-{keras_danet.__version__}.dist-info/"
    others = {"keras_danet/py.typed", "keras_danet/street.jpg"}
    assert modules | recipes | others == {
        name for name in files if not name.startswith(info)
    }
    about = zipfile.ZipFile(wheel).read(f"{info}METADATA").decode()
    assert "\nAuthor: The keras_danet authors\n" in about
    assert "\nProject-URL: Paper, https://arxiv.org/abs/1809.02983\n" in about
    assert 'matplotlib>=3.11; extra == "viz"' in about
    assert 'torch>=2.10; extra == "torch"' in about
    # Installed, where no checkout is.
    target = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(target)
    for code in (
        "from keras_danet import cli, TrainConfig; cli.main(['recipes'])",
        "from keras_danet.recipe import find_recipe, load_recipe\n"
        "print(load_recipe(find_recipe('scenes')).dataset)\n"
        "print(find_recipe('cityscapes_danet_resnet101.py').name)",
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(target)},
        )
        assert done.returncode == 0, done.stderr
        assert "scenes" in done.stdout
        assert "cityscapes_danet_resnet101.py" in done.stdout or (
            "recipes" not in code
        )

"""`export_model`: one network, many formats, each checked when written."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable
from collections.abc import Sequence

from keras_danet import arguments
from keras_danet.data.decoding import read_image
from keras_danet.export import measuring
from keras_danet.export import writing
from keras_danet.export.contract import CALIBRATED
from keras_danet.export.contract import FILE
from keras_danet.export.contract import FORMATS
from keras_danet.export.contract import INPUT_DTYPES
from keras_danet.export.contract import MAX_SIDE
from keras_danet.export.contract import NAME
from keras_danet.export.contract import OUTPUTS
from keras_danet.export.contract import Contract
from keras_danet.export.contract import default_max_pixels
from keras_danet.export.operators import operators_of
from keras_danet.export.runtimes import FILES
from keras_danet.export.runtimes import Export
from keras_danet.export.tflite_metadata import LABELS
from keras_danet.export.verification import Reference
from keras_danet.export.verification import Sample
from keras_danet.export.verification import Verification
from keras_danet.export.verification import noise
from keras_danet.files import make_folder
from keras_danet.files import save_text
from keras_danet.models import DANet
from keras_danet.runs import classes_of
from keras_danet.runs import open_model
from keras_danet.runs import versions
from keras_danet.text_tables import table_lines

# The picture that is compared on where there are no others.
STREET = pathlib.Path(__file__).parents[1] / "street.jpg"
# Of noise, where an export takes any.
NOISE_SIZES = ((64, 48), (97, 65))
MIN_CALIBRATION = 4
# Of a parameter, in the files on the way to an export and in it.
WRITTEN_BYTES = 12
# What the folder of an export holds, if it is no SavedModel.
OWN_FILES = {FILE, *FILES.values(), "model.bin", LABELS}


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with its model.

    Args:
        folder: string, the export; `export.json` in it has this report.
        contract: `Contract`.
        verification: `Verification`.
        num_bytes: integer, of its files together.
        operators: tuple of strings, read from its file.
        opset: integer, ONNX's, for a file of it.
        float_layers: integer, how many layers full int8 left in float so
            that it agrees.
        cost: `measuring.Cost`, or `None` if it was not measured.
        not_measured: string, why the process that measures it failed.
    """

    folder: str
    contract: Contract
    verification: Verification
    num_bytes: int
    operators: tuple[str, ...] = ()
    opset: int | None = None
    float_layers: int = 0
    cost: measuring.Cost | None = None
    not_measured: str | None = None

    @property
    def passed(self) -> bool:
        return self.verification.passed

    def as_dict(self) -> dict:
        return {
            "folder": self.folder,
            "contract": self.contract.as_dict(),
            "verification": self.verification.as_dict(),
            "num_bytes": self.num_bytes,
            "operators": list(self.operators),
            "opset": self.opset,
            "float_layers": self.float_layers,
            "cost": self.cost and dataclasses.asdict(self.cost),
            "not_measured": self.not_measured,
            "versions": versions(),
        }

    def summary(self) -> str:
        """A sentence, and the figures as a table for a terminal."""
        table = "\n".join(table_lines(self._rows(), num_texts=2))
        if self.passed:
            return f"{self.folder} agrees with the model.\n{table}"
        remedy = ""
        if self.contract.quantization != "none":
            remedy = " Try another precision, or more calibration images."
        return (
            f"The export DIFFERS FROM the model and was not kept.\n{table}\n"
            f"{self.folder} is as it was.{remedy}"
        )

    def _rows(self):
        found = self.verification.rows()
        size = f"{self.num_bytes / 1e6:.1f} MB"
        if self.float_layers:
            size += f", {self.float_layers} layers in float"
        found.append(("files", size))
        kinds = f"{len(self.operators)} kinds, listed in {FILE}"
        if self.opset:
            kinds += f"; opset {self.opset}"
        found.append(("operators", kinds))
        if self.cost:
            height, width = self.cost.size
            found += [
                (
                    "time",
                    f"{1e3 * self.cost.seconds:.0f} ms for {height}x{width} "
                    f"(the first: {self.cost.first_seconds:.1f} s)",
                ),
                ("memory", f"{self.cost.peak_bytes / 2**20:.0f} MiB at most"),
            ]
        elif self.not_measured:
            found.append(("time", self.not_measured))
        return found


def export_model(
    model: DANet | str | os.PathLike[str],
    output: str | os.PathLike[str],
    format: str = "saved_model",
    quantization: str = "none",
    size: Sequence[int] | None = None,
    outputs: str = "labels",
    name: str = "danet",
    version: int | None = None,
    samples: Iterable[Sample] = (),
    calibration: Sequence = (),
    test_sides: Sequence | None = None,
    input_dtype: str = "uint8",
    max_pixels: int | None = None,
    measure: bool = True,
) -> ExportReport:
    """Writes `model` for use without Keras, and checks what was written.

    A folder is written beside its place, compared with the model on images,
    and takes the place of an older export only if the two agree.

    Args:
        model: `DANet`, on any backend, or the name of one: a run's folder, a
            `.keras` file, a preset.
        output: path of the folder for exports. A SavedModel becomes
            `OUTPUT/NAME/VERSION`, any other format `OUTPUT/FORMAT`, with what
            was chosen otherwise than by default in its name.
        format: `"saved_model"`, `"tflite"`, `"onnx"`, `"openvino"` or
            `"pt2"`.
        quantization: `"none"`; for TFLite `"float16"`, `"dynamic"`, `"int8"`
            or `"int16x8"`; for OpenVINO `"float16"` or `"int8"`.
        size: (height, width) of every image, `None` for any; `"tflite"` and
            `"pt2"` need one. Defaults to `None`.
        outputs: `"labels"`, uint8 class indices, or `"logits"`, which a
            SavedModel does not have: it has probabilities besides labels.
        name: string, what a server calls the model, and a TFLite file itself.
            Defaults to `"danet"`.
        version: integer, a new one of the SavedModel. Defaults to `None`, one
            more than the last.
        samples: `Sample`s to compare on, besides noise. Defaults to `()`, the
            drawn street that comes with the package.
        calibration: uint8 images `(height, width, 3)`, four or more, for int8
            and int16x8.
        test_sides: (long, short) side that images should have, each `None`
            for their own. Defaults to `None`, the run's, or the model's
            `test_size`.
        input_dtype: `"uint8"` or `"float32"`.
        max_pixels: integer; a SavedModel refuses to compute larger images.
            Defaults to `None`: 8.4 megapixels, or so many that logits take 1
            GiB, if these are fewer.
        measure: boolean, whether latency and memory are measured.

    Returns:
        An `ExportReport`; look at `passed`. If it is false, nothing was kept.

    Raises:
        FileExistsError: if the version exists, or something else lies there.
        ImportError: if a package that the format needs is not installed.
        ValueError: for arguments that the format does not have.
    """
    if isinstance(model, (str, os.PathLike)):
        model, config = open_model(model)
        test_sides = test_sides or (config and config.test_sides)
    _check_model(model)
    if version is not None and format != "saved_model":
        raise ValueError(
            "Only a SavedModel has versions. Received: "
            f"version={version!r} (--version) for the format {format!r}"
        )
    contract = _contract(
        model,
        format,
        quantization,
        size,
        outputs,
        test_sides,
        input_dtype,
        max_pixels,
    )
    if quantization in CALIBRATED and len(calibration) < MIN_CALIBRATION:
        raise ValueError(
            f"{quantization} needs {MIN_CALIBRATION} or more images to "
            "calibrate with. Give `calibration` (--data, of whose training "
            f"images --calibration are taken). Received: {len(calibration)}"
        )
    place = _place(pathlib.Path(output), contract, name, version)
    _check_room(model, place)
    reference = Reference(model, _fitted(samples, contract))
    calibration = [
        Sample(image).fitted(contract).image[None].astype(input_dtype)
        for image in calibration
    ]
    if format == "saved_model":
        _check_pixels(reference.samples, contract)
    make_folder(place.parent)
    with tempfile.TemporaryDirectory(
        dir=place.parent, prefix=".partial-"
    ) as partial:
        folder = pathlib.Path(partial, "export")
        with _explained(format):
            extras = writing.write(
                model, folder, contract, calibration, reference, name
            )
        report = _report(folder, place, contract, reference, extras, measure)
        if report.passed:
            _replace(folder, place, contract)
            return report
    parts_at = writing.first_difference(
        model, contract, calibration, reference.samples[0]
    )
    return dataclasses.replace(
        report,
        verification=dataclasses.replace(
            report.verification, parts_at=parts_at
        ),
    )


def _check_model(model):
    if not isinstance(model, DANet):
        raise ValueError(
            f"Expected a DANet. Received a {type(model).__name__}. Other "
            "models are exported by Keras's `model.export`."
        )


@contextlib.contextmanager
def _explained(format):
    """Converters have errors of their own, of many kinds."""
    try:
        yield
    except (ImportError, MemoryError, OSError, ValueError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:500]
        raise ValueError(
            f"The format {format} could not be written "
            f"({type(error).__name__}: {words}). Nothing was kept. If the disk "
            "is full, make room; else try another format or size."
        ) from error


def _check_pixels(samples, contract):
    """A SavedModel refuses larger images, also those to compare on."""
    largest = max((sample.image.shape[:2] for sample in samples), key=math.prod)
    if math.prod(largest) > contract.max_pixels:
        raise ValueError(
            "An image to compare on has {}x{} pixels, which is more than "
            "`max_pixels` (--max-pixels), {}. Give more, or a smaller `size` "
            "(--size).".format(*largest, contract.max_pixels)
        )


def _fitted(samples, contract):
    """Samples as the network sees them, and noise, which no photo shows."""
    samples = list(samples) or [Sample(read_image(STREET))]
    sizes = [contract.size] if contract.size else NOISE_SIZES
    noises = [noise(size) for size in sizes]
    return [sample.fitted(contract) for sample in (*samples, *noises)]


def _contract(
    model,
    format,
    quantization,
    size,
    outputs,
    test_sides,
    input_dtype,
    max_pixels,
):
    arguments.choice("format", format, FORMATS)
    arguments.choice("quantization", quantization, FORMATS[format])
    arguments.choice("outputs", outputs, OUTPUTS)
    arguments.choice("input_dtype", input_dtype, INPUT_DTYPES)
    if format == "saved_model" and outputs != "labels":
        raise ValueError(
            "A SavedModel has labels and probabilities, and no logits. "
            "Leave `outputs` (--outputs) as it is."
        )
    if size is None and format in ("tflite", "pt2"):
        raise ValueError(
            f"A file of the format {format} is for one image size. Give "
            "`size` (--size HEIGHTxWIDTH)."
        )
    bounds = {"least": 1, "most": MAX_SIDE}
    if size is not None:
        must = f"must be (height, width), each in [1, {MAX_SIDE}]"
        size = arguments.integers("size", size, must, length=2, **bounds)
    if max_pixels is None:
        max_pixels = default_max_pixels(model.num_classes)
    max_pixels = arguments.integer(
        "max_pixels", max_pixels, "must be 1 or more", least=1
    )
    names, palette = classes_of(model)
    if test_sides is None:
        test_sides = getattr(model, "test_size", None) or (None, None)
    return Contract(
        format,
        quantization,
        outputs,
        tuple(names),
        tuple(map(tuple, palette)),
        size,
        tuple(test_sides),
        input_dtype,
        max_pixels,
    )


def _place(output, contract, name, version):
    """The folder that the export will have."""
    if contract.format != "saved_model":
        parts = [contract.format]
        if contract.quantization != "none":
            parts.append(contract.quantization)
        if contract.outputs != "labels":
            parts.append(contract.outputs)
        if contract.input_dtype != "uint8":
            parts.append(contract.input_dtype)
        if contract.size:
            parts.append("{}x{}".format(*contract.size))
        place = output / "_".join(parts)
        _check_own(place)
        return place
    if not NAME.fullmatch(name):
        raise ValueError(
            "`name` (--name) must consist of letters, digits, '_', '-' and "
            f"'.', and not of digits only. Received: {name!r}"
        )
    if version is not None:
        # What TensorFlow Serving can count.
        must, most = "must be 1 or more, and below 2**63", 2**63 - 1
        version = arguments.integer(
            "version", version, must, least=1, most=most
        )
    base = output / name
    if (base / FILE).is_file():
        raise FileExistsError(
            f"{base} is an export of another format. Give another `name` "
            "(--name), or another --output."
        )
    found = [int(p.name) for p in base.glob("*") if p.name.isdecimal()]
    if version is None:
        version = max(found, default=0) + 1
    if version in found:
        raise FileExistsError(
            f"{base / str(version)} exists, and a server may have loaded it. "
            f"Give a version above {max(found)}, or none."
        )
    return base / str(version)


def _check_room(model, place):
    """TensorFlow has no word of its own for a full disk."""
    needed = WRITTEN_BYTES * model.count_params()
    existing = next(p for p in place.parents if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OSError(
            f"{existing} has {free / 1e6:.0f} MB left, and this export needs "
            f"about {needed / 1e6:.0f} MB while it is written. Make room, or "
            "choose another --output."
        )


def _check_own(place):
    """Nothing is replaced but an export of one file."""
    if not place.exists():
        return
    if not (place / FILE).is_file():
        raise FileExistsError(
            f"{place} exists and is not an export (it has no {FILE}), so it "
            "is not replaced. Move it away, or choose another --output."
        )
    others = sorted({p.name for p in place.iterdir()} - OWN_FILES)
    if others:
        raise FileExistsError(
            f"{place} holds an export, and also {others[0]!r}, so it is not "
            "replaced. Move that away, or choose another --output."
        )


def _report(folder, place, contract, reference, extras, measure):
    report = ExportReport(
        str(place),
        contract,
        None,
        _bytes_of(folder),
        tuple(operators_of(contract.format, folder / FILES[contract.format])),
        **extras,
    )
    # What reads it needs the contract.
    save_text(
        json.dumps({"contract": contract.as_dict()}) + "\n", folder / FILE
    )
    verification = _compared(reference, Export(folder))
    report = dataclasses.replace(report, verification=verification)
    if measure and verification.passed:
        size = contract.size or reference.samples[0].image.shape[:2]
        try:
            cost = measuring.measure(folder, size)
        except ChildProcessError as error:
            # Too little memory, say: the file is as good without its figures.
            report = dataclasses.replace(report, not_measured=str(error))
        else:
            report = dataclasses.replace(report, cost=cost)
    save_text(json.dumps(report.as_dict(), indent=1) + "\n", folder / FILE)
    return report


def _compared(reference, export):
    contract = export.contract
    kind = contract.quantization
    from_pixels = reference.compare(export, kind)
    if contract.format != "saved_model":
        return from_pixels
    # Every signature but the overlay; the worst one counts.
    from_files = reference.compare(export.from_files, kind)
    found = reference.compare(export.probabilities, kind, probabilities=True)
    worst = min(
        (found, from_files, from_pixels), key=lambda found: found.margin
    )
    return dataclasses.replace(
        worst,
        largest_difference=found.largest_difference,
        outputs=found.outputs,
    )


def _bytes_of(folder):
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _replace(folder, place, contract):
    """Moves a folder to its place; an older one lasts until then."""
    old = folder.with_name("old")
    # What came there meanwhile is not replaced either.
    if contract.format != "saved_model":
        _check_own(place)
        if place.exists():
            os.rename(place, old)
    try:
        os.rename(folder, place)
    # Also where the process is told to stop in between.
    except BaseException as error:
        if place.exists() and isinstance(error, OSError):
            raise FileExistsError(
                f"{place} was made by another process meanwhile. Export again."
            ) from error
        if old.exists():
            os.rename(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def verify_export(
    folder: str | os.PathLike[str],
    model: DANet,
    samples: Iterable[Sample] = (),
) -> Verification:
    """Compares an export with a model again.

    Args:
        folder: path of what `export_model` wrote.
        model: `DANet`, on any backend.
        samples: `Sample`s to compare on, besides noise. Defaults to `()`, the
            drawn street that comes with the package.

    Returns:
        A `Verification`; look at `passed`.

    Raises:
        FileNotFoundError: if the folder is not an export's.
        ValueError: if it is damaged, or has other classes than the model.
    """
    _check_model(model)
    export = Export(folder)
    theirs, (ours, _) = export.contract.class_names, classes_of(model)
    if theirs != tuple(ours):
        raise ValueError(
            f"{folder} has the classes {', '.join(theirs)}, and the model "
            f"{', '.join(ours)}. Expected the model that it was made from."
        )
    return _compared(
        Reference(model, _fitted(samples, export.contract)), export
    )

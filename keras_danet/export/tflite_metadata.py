"""Metadata inside a TFLite file, for whoever has nothing but the file.

Its form is TFLite's `metadata_schema.fbs`, which TFLite Support and MediaPipe
read: a FlatBuffer in one of the model's buffers, and behind the model a zip
archive with the files that it names.
"""

import io
import zipfile

import numpy as np

LABELS = "labels.txt"
ALIGNMENT = 16
# The fields of the schema's tables that are written, and their numbers.
_FIELDS = {
    "ModelMetadata": {
        "name": 0,
        "description": 1,
        "subgraph_metadata": 3,
        "min_parser_version": 7,
    },
    "SubGraphMetadata": {
        "input_tensor_metadata": 2,
        "output_tensor_metadata": 3,
        "custom_metadata": 9,
    },
    "TensorMetadata": {
        "name": 0,
        "description": 1,
        "content": 3,
        "process_units": 4,
        "stats": 5,
        "associated_files": 6,
    },
    "Content": {"content_properties_type": 0, "content_properties": 1},
    "ImageProperties": {"color_space": 0, "default_size": 1},
    "ImageSize": {"width": 0, "height": 1},
    "ProcessUnit": {"options_type": 0, "options": 1},
    "NormalizationOptions": {"mean": 0, "std": 1},
    "Stats": {"max": 0, "min": 1},
    "AssociatedFile": {"name": 0, "description": 1, "type": 2},
    "CustomMetadata": {"name": 0, "data": 1},
    "ImageSegmenterOptions": {"activation": 0},
}
# Members of its enumerations and unions, one byte each.
_AXIS_LABELS, _VALUE_LABELS = np.int8(2), np.int8(3)
_IMAGE = np.int8(2)
_RGB = np.int8(1)
_NORMALIZATION = np.int8(1)
_NO_ACTIVATION, _SOFTMAX = np.int8(0), np.int8(2)


def labels_text(contract):
    """The classes, one a line."""
    return "\n".join(contract.class_names) + "\n"


def with_metadata(content, contract, name):
    """A TFLite file's bytes, with metadata and labels.

    Args:
        content: bytes of the file.
        contract: `Contract`.
        name: string, the model's.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class Buffer(schema.BufferT):
        def Pack(self, builder):
            # As the schema asks; Python's FlatBuffers do not.
            builder.Prep(ALIGNMENT, 0 if self.data is None else len(self.data))
            return super().Pack(builder)

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"TFLITE_METADATA", len(model.buffers)
    model.metadata = [*(model.metadata or []), entry]
    contents = [buffer.data for buffer in model.buffers]
    model.buffers = []
    for data in (*contents, _metadata(contract, name)):
        buffer = Buffer()
        buffer.data = data
        model.buffers.append(buffer)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        # Of no date: the same model gives the same file.
        files.writestr(zipfile.ZipInfo(LABELS), labels_text(contract))
    return bytes(builder.Output()) + archive.getvalue()


def _metadata(contract, name):
    height, width = contract.size
    is_map = contract.outputs == "labels"
    image = _Table(
        "TensorMetadata",
        name="image",
        description="RGB, 0-255.",
        content=_Table(
            "Content",
            content_properties_type=_IMAGE,
            content_properties=_Table(
                "ImageProperties",
                color_space=_RGB,
                default_size=_Table("ImageSize", width=width, height=height),
            ),
        ),
        # Pixels are normalised in the network.
        process_units=[
            _Table(
                "ProcessUnit",
                options_type=_NORMALIZATION,
                options=_Table(
                    "NormalizationOptions", mean=_floats(0), std=_floats(1)
                ),
            )
        ],
        stats=_Table("Stats", max=_floats(255), min=_floats(0)),
    )
    segmented = _Table(
        "TensorMetadata",
        name=contract.outputs,
        description="A class index per pixel."
        if is_map
        else "A logit per pixel and class.",
        associated_files=[
            _Table(
                "AssociatedFile",
                name=LABELS,
                description="Names of the classes, in their order.",
                type=_VALUE_LABELS if is_map else _AXIS_LABELS,
            )
        ],
    )
    options = _Table(
        "ImageSegmenterOptions",
        activation=_NO_ACTIVATION if is_map else _SOFTMAX,
    )
    return _finished(
        _Table(
            "ModelMetadata",
            name=name,
            description="Semantic segmentation with dual attention (DANet).",
            subgraph_metadata=[
                _Table(
                    "SubGraphMetadata",
                    input_tensor_metadata=[image],
                    output_tensor_metadata=[segmented],
                    custom_metadata=[
                        _Table(
                            "CustomMetadata",
                            name="SEGMENTER_METADATA",
                            data=_finished(options, b"V001"),
                        )
                    ],
                )
            ],
            # The first with custom metadata.
            min_parser_version="1.5.0",
        ),
        b"M001",
    )


def _floats(value):
    return np.full(1, value, "float32")


class _Table:
    """A table of the schema, and what its fields hold.

    Strings, tables, lists of tables and arrays are held by reference, a
    number in place: `np.int8` as one byte, `int` as four.
    """

    def __init__(self, kind, **fields):
        numbers = _FIELDS[kind]
        self.fields = {numbers[key]: value for key, value in fields.items()}

    def write(self, builder):
        # What a table refers to lies in front of it.
        held = {
            number: value
            if isinstance(value, (int, np.int8))
            else _written(builder, value)
            for number, value in self.fields.items()
        }
        builder.StartObject(max(held) + 1)
        for number, value in self.fields.items():
            if isinstance(value, np.int8):
                builder.PrependInt8Slot(number, int(value), 0)
            elif isinstance(value, int):
                builder.PrependUint32Slot(number, value, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(number, held[number], 0)
        return builder.EndObject()


def _written(builder, value):
    """The place of what was written."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, np.ndarray):
        # A FlatBuffer in it needs its alignment.
        builder.Prep(ALIGNMENT, value.nbytes)
        return builder.CreateNumpyVector(value)
    if isinstance(value, _Table):
        return value.write(builder)
    places = [_written(builder, item) for item in value]
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return builder.EndVector()


def _finished(table, identifier):
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(table.write(builder), file_identifier=identifier)
    return np.frombuffer(bytes(builder.Output()), "uint8")

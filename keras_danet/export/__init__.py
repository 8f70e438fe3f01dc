"""How does a model leave? Each format with its check."""

import typing

from keras_danet.lazy_names import lazily

if typing.TYPE_CHECKING:
    from keras_danet.export.contract import Contract as Contract
    from keras_danet.export.exporting import ExportReport as ExportReport
    from keras_danet.export.exporting import export_model as export_model
    from keras_danet.export.exporting import verify_export as verify_export
    from keras_danet.export.runtimes import Export as Export
    from keras_danet.export.verification import Sample as Sample
    from keras_danet.export.verification import Verification as Verification

_HOMES = {
    "Contract": "contract",
    "Export": "runtimes",
    "ExportReport": "exporting",
    "Sample": "verification",
    "Verification": "verification",
    "export_model": "exporting",
    "verify_export": "exporting",
}
__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)

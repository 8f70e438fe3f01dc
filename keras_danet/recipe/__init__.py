"""What a training is decided by: `TrainConfig`, and recipes as files."""

from keras_danet.lazy_names import lazily

_HOMES = {
    "ModelConfig": "model_config",
    "ObjectiveConfig": "config",
    "OptimizationConfig": "config",
    "TrainConfig": "config",
    "find_recipe": "files",
    "load_recipe": "files",
    "recipes_folder": "files",
}
__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)

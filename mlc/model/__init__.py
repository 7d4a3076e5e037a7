"""The model: the GLM, any encoder of transformers, pooling, heads, and their file format.

In:  a recipe's `ModelSection`, or a saved model folder. Out: a `TrainingModel`. See docs/architecture.md.
"""

from mlc.model.build import build_training_model
from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.initialise import initialise
from mlc.model.modeling_glm import MlcGlmModel
from mlc.model.registration import register_auto_classes
from mlc.model.training_model import TrainingModel

__all__ = [
    "MlcGlmConfig",
    "MlcGlmModel",
    "TrainingModel",
    "build_training_model",
    "initialise",
    "register_auto_classes",
]

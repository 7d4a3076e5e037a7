"""Make the GLM known to transformers' Auto classes.

In:  nothing. Out: `AutoConfig` and `AutoModel` know the model type "mlc_glm".
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.modeling_glm import MlcGlmModel


def register_auto_classes() -> None:
    """Register the GLM; calling it again does no harm. Whoever loads through an Auto class calls it first."""
    AutoConfig.register(MlcGlmConfig.model_type, MlcGlmConfig, exist_ok=True)
    AutoModel.register(MlcGlmConfig, MlcGlmModel, exist_ok=True)

"""Make the GLM known to transformers' Auto classes.

In:  nothing. Out: `AutoConfig`, `AutoModel` and `AutoModelFor...` of the tasks know the model type "mlc_glm".
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.model.modeling_glm import MlcGlmModel
from mlc.model.modeling_glm_tasks import (
    MlcGlmForMaskedLM,
    MlcGlmForQuestionAnswering,
    MlcGlmForSequenceClassification,
    MlcGlmForTokenClassification,
)


def register_auto_classes() -> None:
    """Register the GLM; calling it again does no harm. Whoever loads through an Auto class calls it first."""
    AutoConfig.register(MlcGlmConfig.model_type, MlcGlmConfig, exist_ok=True)
    AutoModel.register(MlcGlmConfig, MlcGlmModel, exist_ok=True)
    AutoModelForSequenceClassification.register(MlcGlmConfig, MlcGlmForSequenceClassification, exist_ok=True)
    AutoModelForTokenClassification.register(MlcGlmConfig, MlcGlmForTokenClassification, exist_ok=True)
    AutoModelForQuestionAnswering.register(MlcGlmConfig, MlcGlmForQuestionAnswering, exist_ok=True)
    AutoModelForSeq2SeqLM.register(MlcGlmConfig, MlcGlmForBlankInfilling, exist_ok=True)  # Part A, then Part B
    AutoModelForMaskedLM.register(MlcGlmConfig, MlcGlmForMaskedLM, exist_ok=True)

"""Tells lmms-eval of the model `mm1`: a folder that `mm1-lab export` wrote."""

from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    return ModelManifest(model_id="mm1", simple_class_path="lmms_eval_mm1.model.ExportedMM1")

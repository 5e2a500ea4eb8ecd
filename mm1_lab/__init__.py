"""mm1-lab: ablations of multimodal language models, one YAML file a question."""

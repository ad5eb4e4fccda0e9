"""Hyperparameter search: Optuna behind the `Sampler` port, and the study that a coordinator keeps of its trials."""

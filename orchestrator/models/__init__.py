"""KERAS: building, compiling, checking, loading weights, predicting. TensorFlow is imported here and in `training/` only."""

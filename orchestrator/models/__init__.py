"""KERAS: building, compiling, loading weights, predicting. Only `training/` imports TensorFlow besides."""

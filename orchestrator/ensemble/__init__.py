"""The science, in NumPy alone: combining predictions, weights, metrics. Pure functions; nothing trains or stores."""

"""The science, in NumPy, SciPy and scikit-learn: combining, weights, metrics, intervals. Nothing trains or stores."""

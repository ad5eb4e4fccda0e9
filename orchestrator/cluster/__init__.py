"""RAY, and nothing else knows it: a thin actor around training's program, placement, job submission."""

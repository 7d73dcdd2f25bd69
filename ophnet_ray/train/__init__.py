"""A training run on Ray Train: driver, workers, run directory."""

"""A search over training runs on Ray Tune."""

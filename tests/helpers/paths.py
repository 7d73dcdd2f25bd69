"""Paths of the repository that tests use."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAIN_PY = ROOT / "train.py"
TUNE_PY = ROOT / "tune.py"
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Real videos and annotations beside the repository; not everybody has them."""

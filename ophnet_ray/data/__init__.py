"""From an annotation CSV and videos to batches of windows."""

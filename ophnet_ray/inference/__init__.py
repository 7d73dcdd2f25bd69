"""What is done with a trained checkpoint: predict, smooth, evaluate, audit, export."""

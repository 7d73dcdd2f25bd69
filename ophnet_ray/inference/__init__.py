"""From a trained checkpoint on, without Ray: predict, smooth, evaluate, audit, export."""

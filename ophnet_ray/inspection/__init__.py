"""Everything that can be known of a data set before a GPU hour is spent; no torch, no Ray."""

"""The content-addressed store of decoded blocks, on disk or in a bucket."""

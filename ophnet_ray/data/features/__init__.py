"""The content-addressed store of what an encoder sees in whole videos, on disk or in a bucket."""

"""Files on disk and in buckets: paths, atomic writes, locks, node-local copies."""

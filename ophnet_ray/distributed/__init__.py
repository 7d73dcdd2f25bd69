"""Everything that touches a Ray cluster, apart from Ray Train and Ray Tune."""

"""Counts to scores, in numpy, each under a named convention."""

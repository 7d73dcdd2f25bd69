"""Command lines: argument parsing, exit codes, the sub-commands."""

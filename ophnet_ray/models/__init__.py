"""The network, its loss, the Lightning module and checkpoints."""

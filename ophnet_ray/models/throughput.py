"""Throughput of training as a share of what the GPU can do: model FLOPs utilisation (MFU)."""

import re

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PEAKS_TFLOP_S = {
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "H200": 989.4,
    "GH200": 989.4,
    "A100": 311.9,
    "A10G": 70.0,
    "A40": 149.7,
    "L40S": 362.1,
    "L4": 121.0,
}
"""TFLOP/s of dense bfloat16 products, from the data sheets, by a part of the GPU's name. The table
of Lightning has rates with sparsity for some, and does not know the name of an H200."""


def find_peak(device: str) -> float | None:
    """Return the peak rate of a GPU by its name, FLOP/s; None for one that is not in the table."""
    for part, peak in PEAKS_TFLOP_S.items():
        if re.search(rf"\b{part}\b", device):
            return peak * 1e12
    return None


def count_training_flops(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Count the operations of a training step: three times those of a forward pass.

    That is the convention of "PaLM" (arXiv:2204.02311, appendix B): the backward pass takes twice
    those of the forward pass; what activation checkpointing computes again does not count. Torch's
    counter takes a depthwise convolution of a backward pass for a full one, so that is not asked.

    Args:
        network: Network on the device ``meta``; it is left in evaluation mode, and frozen.
        inputs: Its inputs, on the same device.
    """
    network.eval().requires_grad_(False)
    # the counter knows no fused attention without a device
    math_only = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math_only, torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return 3 * int(counter.get_total_flops())

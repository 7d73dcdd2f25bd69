"""Throughput of training as a share of what the GPU can do: model FLOPs utilisation (MFU)."""

import math
import re
from collections.abc import Sequence

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
    """Count the operations of a training step; what checkpointing computes again is no part of it.

    Where all parameters are trained, three times those of a forward pass: the convention of "PaLM"
    (arXiv:2204.02311, appendix B). Where some are frozen, those of a forward pass and of the
    gradients that are needed: none below the first trained layer, and none of frozen weights.

    Args:
        network: Network on the device ``meta``, without activation checkpointing; it is left in
            evaluation mode.
        inputs: Its inputs, on the same device.
    """
    network.eval()
    trains_all = all(parameter.requires_grad for parameter in network.parameters())
    if trains_all:
        # some networks are counted only where nothing asks for a gradient
        network.requires_grad_(False)
    # the counter knows no fused attention without a device
    math_only = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    gradients = torch.set_grad_enabled(not trains_all)
    counter = FlopCounterMode(display=False, custom_mapping=_CORRECTED)
    with math_only, gradients, counter:
        outputs = network(*inputs)
        if outputs.requires_grad:
            outputs.sum().backward()
    if trains_all:
        network.requires_grad_(True)
    return int(counter.get_total_flops()) * (3 if trains_all else 1)


def _count_convolution_backward(
    out_gradient: Sequence[int],
    inputs: Sequence[int],
    weight: Sequence[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: int,
    output_mask: Sequence[bool],
    **_: object,
) -> int:
    """Count the gradients of inputs and weight, each as many operations as the forward pass.

    Torch's own formula takes a depthwise convolution for a full one.
    """
    spatial = (inputs if transposed else out_gradient)[2:]
    forward = 2 * inputs[0] * math.prod(spatial) * math.prod(weight)
    return forward * sum(output_mask[:2])


_CORRECTED = {torch.ops.aten.convolution_backward: _count_convolution_backward}

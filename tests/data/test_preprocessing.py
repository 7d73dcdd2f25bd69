"""Mean images become normalised images and masks, each moved by its own offset."""

import pytest
import torch

from ophnet_ray.data.preprocessing import (
    extract_masks,
    prepare_batch,
    shift_images,
    to_unit,
)

pytestmark = pytest.mark.unit


def test_masks_are_the_red_and_green_of_the_image_before_normalisation():
    pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    pixels[0, 0], pixels[0, 1] = 255, 51
    image, mask = prepare_batch(to_unit(pixels), torch.full((3,), 0.5), torch.full((3,), 0.5), "rg")
    assert mask[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.2])
    assert image[0, :, 0, 0].tolist() == pytest.approx([1.0, -0.6, -1.0])


def test_chroma_masks_tell_red_from_steel():
    values = torch.tensor([[0.8, 0.1, 0.1], [0.7, 0.7, 0.7], [0.0, 0.0, 0.0]])[:, :, None, None]
    mask = extract_masks(values, "chroma")[:, :, 0, 0]
    torch.testing.assert_close(mask[:, 0], torch.tensor([0.8, 1 / 3, 0.0]))
    torch.testing.assert_close(mask[:, 1], torch.tensor([0.1, 0.7, 0.0]))


def test_each_image_is_shifted_by_its_own_offset():
    pixels = torch.arange(2 * 3 * 6 * 6, dtype=torch.uint8).view(2, 3, 6, 6)
    shifted = shift_images(pixels, torch.tensor([[0, 0], [2, -1]]))
    assert torch.equal(shifted[0], pixels[0])
    assert torch.equal(shifted[1, :, 2:, :5], pixels[1, :, :4, 1:])

"""Random numbers of windows: functions of their draws alone, uniform, normal, independent."""

import pytest
import torch

from ophnet_ray.data.window_draws import draw_normals, draw_numbers

pytestmark = pytest.mark.unit

DRAWS = torch.rand(2000, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_numbers_are_uniform_and_independent():
    numbers = torch.cat(list(draw_numbers(DRAWS)), dim=1)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    together = torch.cat([DRAWS, numbers], dim=1)
    torch.testing.assert_close(numbers.mean(0), torch.full_like(numbers[0], 0.5), atol=0.03, rtol=0)
    torch.testing.assert_close(
        numbers.std(0), torch.full_like(numbers[0], 12**-0.5), atol=0.02, rtol=0
    )
    # the largest of 1500 correlations of 2000 windows; 5 deviations are 0.11
    correlations = torch.corrcoef(together.T) - torch.eye(together.shape[1])
    assert correlations.abs().max() < 0.11


def test_a_window_has_the_same_numbers_in_any_batch():
    alone, together = draw_numbers(DRAWS[7:8]), draw_numbers(DRAWS)
    for one, many in zip(alone, together, strict=True):
        assert torch.equal(one[0], many[7])
    assert torch.equal(draw_normals(DRAWS[7:8], 4, 5)[0], draw_normals(DRAWS[:9], 4, 5)[7])


def test_one_bit_of_a_draw_changes_all_numbers():
    other = DRAWS[:1].clone()
    other[0, 3] = torch.nextafter(other[0, 3], torch.tensor(1.0))
    before, after = (torch.cat(list(draw_numbers(each)), dim=1) for each in (DRAWS[:1], other))
    assert (before != after).all()


def test_noise_is_normal_and_independent_of_pixel_channel_and_window():
    normals = draw_normals(DRAWS[:6], 100, 100).flatten(0, 1).flatten(1)  # 18 planes
    torch.testing.assert_close(normals.mean(1), torch.zeros(18), atol=0.05, rtol=0)
    torch.testing.assert_close(normals.std(1), torch.ones(18), atol=0.04, rtol=0)
    assert normals.isfinite().all()
    shares = [(normals.abs() > limit).float().mean().item() for limit in (1, 2, 3)]
    assert shares == pytest.approx([0.3173, 0.0455, 0.0027], rel=0.08)
    correlations = torch.corrcoef(torch.cat([normals, normals.roll(1, 1)])) - torch.eye(36)
    assert correlations.abs().max() < 0.05

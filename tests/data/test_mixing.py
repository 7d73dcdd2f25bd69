"""Mixed windows: images and shares of the labels agree, and partners depend on the draws alone."""

import pytest
import torch

from ophnet_ray.augmentation_config import AugmentationConfig
from ophnet_ray.data.mixing import mix_images
from tests.helpers.torch_operations import WAITING, OperationRecorder

pytestmark = pytest.mark.unit

SIZE, NUM = 16, 400
GENERATOR = torch.Generator().manual_seed(0)
VALUES = torch.rand(NUM, 3, SIZE, SIZE, generator=GENERATOR)
DRAWS = torch.rand(NUM, 5, generator=GENERATOR) * 2 - 1


def mix(values=VALUES, draws=DRAWS, **settings):
    return mix_images(values, draws, AugmentationConfig(**settings))


def test_windows_that_are_not_chosen_are_the_same_to_the_bit():
    mixed = mix(mixup=0.4, cutmix=1.0, mixup_prob=0.25)
    is_same = (mixed.values == VALUES).flatten(1).all(1)
    assert torch.equal(is_same, mixed.own_share == 1)
    assert 0.65 < is_same.float().mean() < 0.85


def test_each_window_is_the_other_of_one():
    others = mix(mixup=1.0).others
    assert sorted(others.tolist()) == list(range(NUM))
    assert (others != torch.arange(NUM)).all()


def test_the_others_depend_on_the_draws_not_on_the_order():
    order = torch.randperm(NUM, generator=torch.Generator().manual_seed(1))
    first, second = (
        mix(mixup=0.4, cutmix=1.0),
        mix(VALUES[order], DRAWS[order], mixup=0.4, cutmix=1.0),
    )
    assert torch.equal(order[second.others], first.others[order])
    assert torch.equal(second.own_share, first.own_share[order])
    assert torch.equal(second.values, first.values[order])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_is_the_weighted_mean_with_weights_of_the_beta_distribution(alpha):
    mixed = mix(mixup=alpha)
    share = mixed.own_share[:, None, None, None]
    torch.testing.assert_close(mixed.values, share * VALUES + (1 - share) * VALUES[mixed.others])
    assert mixed.own_share.mean().item() == pytest.approx(0.5, abs=0.06)
    variance = 1 / (4 * (2 * alpha + 1))
    assert mixed.own_share.var().item() == pytest.approx(variance, rel=0.15)


def test_cutmix_pastes_one_rectangle_and_the_share_is_that_of_its_area():
    mixed = mix(cutmix=1.0)
    is_other = (mixed.values != VALUES).all(1)
    expected = torch.where(is_other[:, None], VALUES[mixed.others], VALUES)
    assert torch.equal(mixed.values, expected)
    rows, columns = is_other.any(2), is_other.any(1)
    assert torch.equal(is_other, rows[:, :, None] & columns[:, None, :])
    torch.testing.assert_close(1 - is_other.float().mean((1, 2)), mixed.own_share)
    assert 0.1 < mixed.own_share.std() < 0.4


def test_mixup_and_cutmix_take_half_of_the_mixed_windows_each():
    mixed = mix(mixup=1.0, cutmix=1.0)
    is_own = (mixed.values == VALUES).flatten(1).float().mean(1)
    assert 0.4 < (is_own == 0).float().mean() < 0.65, "some rectangles are of no pixel or of all"


def test_a_window_alone_stays_as_it_is():
    mixed = mix(VALUES[:1], DRAWS[:1], mixup=1.0)
    assert mixed.others.tolist() == [0]
    torch.testing.assert_close(mixed.values, VALUES[:1])


def test_nothing_waits_for_the_device():
    mix(mixup=0.3, cutmix=0.9)  # quantiles are copied once
    with OperationRecorder() as recorder:
        mix(mixup=0.3, cutmix=0.9)
    assert "lerp" in recorder.names
    assert recorder.names & WAITING == set()

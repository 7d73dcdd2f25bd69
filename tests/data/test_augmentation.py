"""Augmented images: each ingredient changes what it should, by numbers of the window alone."""

import math

import pytest
import torch

from ophnet_ray.augmentation_config import AugmentationConfig
from ophnet_ray.data.augmentation import ERASED_AREAS, NOISE_DEVIATION, augment_images
from ophnet_ray.data.preprocessing import prepare_batch, to_unit
from ophnet_ray.data.samplers import TrainingSampler
from tests.helpers.torch_operations import WAITING, OperationRecorder

pytestmark = pytest.mark.unit

SIZE, NUM = 32, 64
GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (NUM, 3, SIZE, SIZE), dtype=torch.uint8, generator=GENERATOR)
DRAWS = torch.rand(NUM, 5, generator=GENERATOR) * 2 - 1
EVERYTHING = AugmentationConfig(
    scale=0.5,
    rotate=20,
    hflip=0.5,
    vflip=0.5,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue=0.1,
    white_balance=0.2,
    blur=0.5,
    noise=0.5,
    glare=0.5,
    reprob=0.5,
)
LUMA = torch.tensor([0.213, 0.715, 0.072])


def augment(pixels=PIXELS, random_shift=0.0, color_jitter=0.0, **settings):
    return augment_images(
        pixels, DRAWS[: len(pixels)], random_shift, color_jitter, AugmentationConfig(**settings)
    )


def grey_of(values):
    return (values * LUMA.view(3, 1, 1)).sum(1)


def positions():
    """Images whose red is the column and whose green is the row of each pixel, in [0, 1]."""
    steps = ((torch.arange(SIZE) + 0.5) / SIZE * 255).round().to(torch.uint8)
    image = torch.stack([steps.expand(SIZE, SIZE), steps[:, None].expand(SIZE, SIZE)])
    return torch.cat([image, image[:1]])[None].repeat(NUM, 1, 1, 1)


def test_augmentation_by_nothing_changes_nothing():
    assert torch.equal(augment(), to_unit(PIXELS))
    assert torch.equal(augment(rotate=0.0, scale=1.0, reprob=0.0), to_unit(PIXELS))


def test_shift_and_gains_are_those_of_earlier_versions():
    """Numbers of commit 15deeaf: a change would alter the rest of every run that is resumed."""
    pixels = torch.arange(3 * SIZE * SIZE).view(1, 3, SIZE, SIZE).to(torch.uint8)
    values = augment_images(pixels, torch.tensor([[0.5, -0.9, 0.3, -0.4, 1.0]]), 0.1, 0.2)
    assert values.stride()[1] == 1, "channels last"
    expected = [0.44062742590904236, 0.38243138790130615, 0.4988235533237457]
    assert values[0, :, 5, 7].tolist() == expected
    assert values.double().sum().item() == pytest.approx(1493.0640286887065, abs=1e-9)


def test_motion_follows_the_picture_and_has_no_colour():
    """A fourth channel: it moves and is erased as the colours are, and nothing else."""
    motion = PIXELS[:, :1].roll(1, 0)
    moves = {"scale": 0.5, "rotate": 20, "hflip": 0.5, "vflip": 0.5, "reprob": 0.5}
    for own in ({}, {"hflip": 0.5}, moves):
        everything = vars(EVERYTHING) | {name: own.get(name, 0.0) for name in moves}
        everything |= {"scale": own.get("scale", 1.0)}
        both = augment(torch.cat([PIXELS, motion], 1), 0.1, 0.3, **everything)
        assert torch.equal(both[:, 3:], augment(motion.expand(-1, 3, -1, -1), 0.1, **own)[:, :1])
        assert torch.equal(both[:, :3], augment(PIXELS, 0.1, 0.3, **everything))
        assert both.stride()[1] == 1, "channels last"


def test_mirrors_are_exact():
    values = to_unit(PIXELS)
    assert torch.equal(augment(hflip=1.0), values.flip(3))
    assert torch.equal(augment(vflip=1.0), values.flip(2))
    assert torch.equal(augment(vflip=1.0, hflip=1.0), values.flip(2, 3))
    is_flipped = (augment(hflip=0.25) == values.flip(3)).flatten(1).all(1)
    assert 6 <= is_flipped.sum() <= 26
    assert torch.equal(augment(hflip=0.25)[~is_flipped], values[~is_flipped])


def test_a_mirror_shifts_as_far_as_without():
    shifted, mirrored = augment(random_shift=0.2), augment(random_shift=0.2, hflip=1.0)
    assert torch.equal(mirrored, shifted.flip(3))


def test_crops_lie_inside_the_image_and_show_at_least_the_share():
    values = augment(positions(), scale=0.4)
    sides = [
        values[:, 0].mean(1)[:, -1] - values[:, 0].mean(1)[:, 0],
        values[:, 1].mean(2)[:, -1] - values[:, 1].mean(2)[:, 0],
    ]
    width, height = (side * SIZE / (SIZE - 1) for side in sides)
    area, ratio = width * height, width / height
    assert area.min() > 0.37
    assert area.max() > 0.9
    assert 0.6 < area.mean() < 0.8
    assert ratio.max() < 4 / 3 * 1.06
    assert ratio.min() > 3 / 4 * 0.94
    rising = values[:, 0, 0].diff(dim=1)
    torch.testing.assert_close(
        rising, rising.mean(1, keepdim=True).expand_as(rising), atol=0.01, rtol=0
    )


def test_rotations_are_about_the_center_by_at_most_the_angle():
    values = augment(positions(), rotate=30)
    middle = slice(SIZE // 2 - 4, SIZE // 2 + 4)
    core = values[:, :2, middle, middle]
    torch.testing.assert_close(core.mean((2, 3)), torch.full((NUM, 2), 0.5), atol=0.01, rtol=0)
    along, across = (core[:, channel].diff(dim=2).mean((1, 2)) for channel in (0, 1))
    angles = torch.rad2deg(torch.atan2(across, along))
    assert angles.abs().max() < 31
    assert angles.min() < -20
    assert angles.max() > 20
    torch.testing.assert_close(
        torch.hypot(along, across) * SIZE, torch.ones(NUM), atol=0.06, rtol=0
    )


def test_an_angle_near_zero_moves_no_pixel():
    torch.testing.assert_close(augment(rotate=1e-7), to_unit(PIXELS), atol=1e-3, rtol=0)


def test_shifts_are_the_same_with_and_without_sampling_between_pixels():
    smooth = positions()  # whole pixels are half a pixel off at most
    whole = augment(smooth, random_shift=0.25, hflip=0.5)
    between = augment(smooth, random_shift=0.25, hflip=0.5, rotate=1e-7)
    assert (whole - between).abs().max() < 1 / SIZE


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "white_balance"])
def test_a_colour_change_near_zero_changes_nothing(name):
    torch.testing.assert_close(augment(**{name: 1e-7}), to_unit(PIXELS), atol=1e-5, rtol=0)


def muted():
    """Images without dark and bright values, which no change of colour cuts off."""
    return (PIXELS // 4 + 96).to(torch.uint8)


def test_brightness_is_one_factor_per_image():
    factors = augment(muted(), brightness=0.3) / to_unit(muted())
    torch.testing.assert_close(factors, factors[:, :1, :1, :1].expand_as(factors))
    assert 0.7 <= factors.min() < 0.8
    assert 1.2 < factors.max() <= 1.3


def test_contrast_is_about_the_mean_grey():
    values, before = augment(muted(), contrast=0.3), to_unit(muted())
    mean = grey_of(before).mean((1, 2))
    torch.testing.assert_close(grey_of(values).mean((1, 2)), mean)
    factors = (values - mean[:, None, None, None]) / (before - mean[:, None, None, None])
    assert 0.7 <= factors.median(dim=3).values.min() < 0.8
    assert 1.2 < factors.median(dim=3).values.max() <= 1.3001


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_saturation_and_hue_keep_the_grey_of_each_pixel(name):
    values = augment(muted(), **{name: 0.3})
    torch.testing.assert_close(grey_of(values), grey_of(to_unit(muted())), atol=2e-3, rtol=0)
    assert (values - to_unit(muted())).abs().max() > 0.05
    grey = muted()[:, :1].repeat(1, 3, 1, 1)
    torch.testing.assert_close(augment(grey, **{name: 0.3}), to_unit(grey), atol=2e-3, rtol=0)


def test_white_balance_warms_or_cools():
    factors = (augment(muted(), white_balance=0.2) / to_unit(muted())).mean((2, 3))
    torch.testing.assert_close(factors[:, 1], torch.ones(NUM))
    torch.testing.assert_close(factors[:, 0] - 1, 1 - factors[:, 2])
    assert factors[:, 0].min() < 0.85
    assert factors[:, 0].max() > 1.15


def changed_images(values):
    return (values != to_unit(PIXELS)).flatten(1).any(1)


@pytest.mark.parametrize("name", ["blur", "noise", "glare", "reprob"])
def test_a_share_of_the_images_is_changed_and_the_others_are_the_same_to_the_bit(name):
    assert 20 <= changed_images(augment(**{name: 0.5})).sum() <= 44
    assert changed_images(augment(**{name: 1.0})).sum() >= NUM * 3 // 4


def test_blur_smooths_and_keeps_flat_images():
    flat = torch.full((NUM, 3, SIZE, SIZE), 77, dtype=torch.uint8)
    torch.testing.assert_close(augment(flat, blur=1.0), to_unit(flat))
    large = PIXELS.repeat(1, 1, 7, 7)  # 224 pixels, with a standard deviation of 2 at most
    shrink = augment(large[:8], blur=1.0).std((2, 3)) / to_unit(large[:8]).std((2, 3))
    assert shrink.max() <= 1
    assert shrink.min() < 0.3
    spread = shrink.amax(1) - shrink.amin(1)
    assert spread.max() < 0.1, "the channels alike"


def test_noise_has_mean_zero_and_the_deviation_of_its_window():
    added = augment(muted(), noise=1.0) - to_unit(muted())
    deviation = added.std((1, 2, 3))
    assert deviation.max() <= NOISE_DEVIATION * 1.03
    assert deviation.max() > NOISE_DEVIATION * 0.8
    assert deviation.min() < NOISE_DEVIATION * 0.2
    assert (added.mean((1, 2, 3)).abs() < 0.003).all()


def test_glare_brightens_some_places_to_white():
    values = augment(muted(), glare=1.0)
    added = values - to_unit(muted())
    assert added.min() >= 0
    assert (values > 0.999).float().mean() > 0.002
    assert (added > 0.01).float().mean() < 0.3


def test_erasing_fills_one_rectangle_with_the_mean_colour():
    values = augment(reprob=1.0)
    mean = to_unit(PIXELS).mean((2, 3), keepdim=True)
    is_erased = values.isclose(mean).all(1)
    torch.testing.assert_close(
        torch.where(is_erased[:, None], mean, values),
        torch.where(is_erased[:, None], mean, to_unit(PIXELS)),
    )
    rows, columns = is_erased.any(2), is_erased.any(1)
    assert torch.equal(is_erased, rows[:, :, None] & columns[:, None, :])
    areas = is_erased.float().mean((1, 2))
    assert areas.min() > 0.0
    assert areas.max() < ERASED_AREAS[1] * 1.2
    assert 0.12 < areas.mean() < 0.22


def test_all_together_stay_in_range_and_masks_follow_the_image():
    values = augment_images(PIXELS, DRAWS, 0.1, 0.2, EVERYTHING)
    assert values.dtype == torch.float32
    assert values.min() >= 0
    assert values.max() <= 1
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    image, mask = prepare_batch(values, mean, std, "rg")
    shown = image * std.view(3, 1, 1) + mean.view(3, 1, 1)
    torch.testing.assert_close(mask, shown[:, :2])
    plain = prepare_batch(to_unit(PIXELS), mean, std, "chroma")[1]
    mirrored = prepare_batch(augment(hflip=1.0), mean, std, "chroma")[1]
    assert torch.equal(mirrored, plain.flip(3))


def test_one_and_two_workers_augment_each_segment_alike():
    ids = [f"segment {i}" for i in range(NUM)]

    def augmented(num_replicas):
        found = {}
        for rank in range(num_replicas):
            sampler = TrainingSampler(
                ids, [[4]] * NUM, 2, 8 // num_replicas, 7, rank=rank, num_replicas=num_replicas
            )
            sampler.set_epoch(2)
            for step in sampler:
                rows = torch.from_numpy(step.windows[:, 0])
                draws = torch.from_numpy(step.draws)
                values = augment_images(PIXELS[rows], draws, 0.1, 0.2, EVERYTHING)
                found |= dict(zip(rows.tolist(), values, strict=True))
        return torch.stack([found[row] for row in range(NUM)])

    torch.testing.assert_close(augmented(2), augmented(1), atol=1e-6, rtol=0)


def test_nothing_waits_for_the_device():
    """A GPU would stop for numbers of its tensors, for sizes that depend on them, for copies."""
    augment_images(PIXELS[:2], DRAWS[:2], 0.1, 0.2, EVERYTHING)  # constants are copied once
    with OperationRecorder() as recorder:
        augment_images(PIXELS[:2], DRAWS[:2], 0.1, 0.2, EVERYTHING)
    assert "grid_sampler_2d" in recorder.names
    assert recorder.names & WAITING == set()


@pytest.mark.parametrize("angle", [0.0, math.pi])
def test_draws_of_any_value_give_finite_images(angle):
    draws = torch.full((4, 5), math.cos(angle))
    assert augment_images(PIXELS[:4], draws, 0.49, 0.99, EVERYTHING).isfinite().all()

"""Examples of the training windows, by phase."""

import numpy as np
import pytest

from ophnet_ray import OphNetDataModule
from ophnet_ray.data.examples import choose_examples, read_examples
from ophnet_ray.data.manifest_columns import ManifestColumns
from tests.helpers.videos import COLORS

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("cases", "chosen"),
    [
        pytest.param("aabbccdd", [0, 2, 4, 6], id="the first of each case"),
        pytest.param("aaaaaaaa", [0, 2, 4, 6], id="one case"),
        pytest.param("abcdefgh", [0, 2, 4, 6], id="many cases"),
        pytest.param("ab", [0, 1], id="few segments"),
        pytest.param("", [], id="no segment"),
    ],
)
def test_examples_are_of_different_cases_where_there_are_as_many(cases, chosen):
    numbers = np.asarray([ord(case) for case in cases], dtype=np.int64)
    assert choose_examples(numbers, 4).tolist() == chosen


@pytest.mark.parametrize("window_image", ["mean", "mean+motion"])
def test_each_phase_shows_its_own_training_windows(color_csv, color_cache, window_image):
    data = OphNetDataModule(
        color_csv, image_size=32, cache_dir=color_cache, window_image=window_image
    )
    data.setup()
    examples = read_examples(ManifestColumns.of_manifest(data.manifest), 3)
    assert list(examples) == list(data.manifest.phases)
    for phase, pictures in examples.items():
        assert len(pictures) == 3
        for picture in pictures:
            assert picture.shape == (32, 32, 3)
            np.testing.assert_allclose(picture.mean((0, 1)), COLORS[phase], atol=20)

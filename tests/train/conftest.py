"""Fixtures: two whole runs, on one train worker and on two, that many tests look at."""

import pytest

from tests.helpers.runs import run, tiny_config


@pytest.fixture(scope="session")
def first_run(ray_session, color_csv, color_cache, tmp_path_factory):
    """The settings and the result of a run of six epochs, of fifteen steps each."""
    config = tiny_config(
        color_csv,
        tmp_path_factory.mktemp("first"),
        max_epochs=6,
        batch_size=1,
        image_size=64,  # batch norms of 32 pixels see one value per window
        class_weights="inverse_sqrt",
        cache_dir=color_cache,
    )
    return config, run(config)


@pytest.fixture(scope="session")
def two_workers(ray_session, color_csv, color_cache, tmp_path_factory):
    """The settings and the result of a run of three epochs on two train workers."""
    config = tiny_config(
        color_csv,
        tmp_path_factory.mktemp("two"),
        train_workers=2,
        max_epochs=3,
        batch_size=1,
        image_size=64,  # batch norms of 32 pixels see one value per window
        every_n_train_steps=2,
        cache_dir=color_cache,
        deterministic=True,
        private=True,
    )
    return config, run(config)

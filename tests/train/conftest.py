"""Fixtures: two whole runs that many tests look at, and runs in this process, without Ray."""

import pytest

from ophnet_ray import OphNetDataModule
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.train.lone_worker import fit_once
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.stored_manifest import store_manifest
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
def two_workers(ray_session, first_run, color_csv, color_cache, tmp_path_factory):
    """The settings and the result of a run of three epochs on two train workers.

    It starts from the weights of ``first_run``, with the ingredients of the recipe: the average of
    the weights has batch-norm statistics of its own on each worker, and frozen layers give no
    gradient for which others wait.
    """
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
        init_checkpoint=str(first_run[1].checkpoint),
        allow_seen_cases=True,
        opt="adamw",
        weight_decay=0.05,
        layer_decay=0.9,
        lr_schedule="cosine",
        gradient_clip_val=1.0,
        label_smoothing=0.1,
        model_ema_decay=0.9,
        freeze="stages:1",
        sampler="balanced",
        windows_per_segment=2,
        mixup=0.2,
        hflip=0.5,
        checkpoint_metric="val_frame_macro_f1",
    )
    return config, run(config)


@pytest.fixture
def plan(color_csv, color_cache, tmp_path):
    """Return the task of a training in the folder of a name."""
    data = OphNetDataModule(color_csv, image_size=32, cache_dir=color_cache)
    data.setup()

    def build(name, *, keeps_counts=False, **settings):
        config = tiny_config(color_csv, tmp_path, **settings)
        directory = RunDirectory(tmp_path / name)
        directory.create()
        resources = Resources(1, use_gpu=False, decode_workers=1, threads_per_worker=1)
        stored = store_manifest(data.manifest, directory.manifest)
        return TrainLoopConfig(config, stored, resources, directory, "0", keeps_counts=keeps_counts)

    return build


@pytest.fixture
def start(plan):
    """Train in the folder of a name; a report may raise what stops it."""

    def fit(name, report=lambda record: None, **settings):
        loop = plan(name, **settings)
        return loop.run, fit_once(loop, report)

    return fit

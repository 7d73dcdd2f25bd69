"""Settings: what each affects, names of runs and keys of the cache, limits, YAML."""

import math
import os
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from ophnet_ray.augmentation_config import AugmentationConfig
from ophnet_ray.config import (
    Config,
    DataConfig,
    RunConfig,
    WindowConfig,
    late_settings,
    path_settings,
    settings_that_affect,
)
from ophnet_ray.data.cache.fill import decode_in_threads
from ophnet_ray.data.cache.segment_keys import sampling_of
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.recipe_config import RECIPES, RecipeConfig
from ophnet_ray.sampling_config import SamplingConfig
from ophnet_ray.settings_file import dump_config, read_config
from ophnet_ray.speed_config import SpeedConfig
from ophnet_ray.temporal_config import TemporalConfig
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.directory import search_identity
from ophnet_ray.tune.space import parse_search_space
from tests.helpers.entries import fill_by_id

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("config", "data_hash", "digits"),
    [
        pytest.param(Config(), "0", "e6af239f", id="defaults"),
        pytest.param(
            Config().replace_flat(
                image_size=128,
                backbone="test_efficientnet",
                pretrained=False,
                lr=2e-3,
                lr_schedule="one_cycle",
                max_epochs=24,
            ),
            "0",
            "9ada9a5a",
            id="the first demo",
        ),
        pytest.param(
            Config().replace_flat(lr=3e-4, name="x", train_workers=2, num_workers=9),
            "abc",
            "154c286d",
            id="other settings",
        ),
    ],
)
def test_a_run_keeps_the_name_it_had_in_earlier_versions(config, data_hash, digits):
    """Values computed by commit 8e23bbc: another name would train a complete run again."""
    assert config.identity_hash(data_hash) == digits


@pytest.fixture
def video(monkeypatch, tmp_path):
    """A file of fixed name, size and time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.mp4").write_bytes(b"0123456789")
    os.utime("v.mp4", ns=(0, 1_700_000_000_000_000_000))
    return "v.mp4"


@pytest.mark.parametrize(
    ("windows", "start_s", "end_s", "key"),
    [
        (WindowConfig(), 0.0, 2.5, "48572d1b7a69d138800e8908d616ee69"),
        (WindowConfig(), 1.25, float("inf"), "7e1a1a128ef2b535ae63264ddfb244ee"),
        (
            WindowConfig(window_size=32, stride=4, coverage="head"),
            0.0,
            2.5,
            "c5af5d12ea559a968618e68ff96016e4",
        ),
    ],
)
def test_a_cache_filled_by_earlier_versions_is_found(video, windows, start_s, end_s, key):
    """Values computed by commit 8e23bbc, which knew a video by its path, size and time."""
    cache = BlockCache("cache", windows)
    cache.reject([key], video, "a mark", is_permanent=True)
    segment = Segment("s", "c", video, start_s, end_s, "a")

    def find(segment):
        filled = fill_by_id(BlockCache("cache", windows), [segment], 1, decode_in_threads(1))
        return filled.missing_videos, filled.entries["s"].reason

    assert find(segment) == (0, "a mark")
    # once the content of the file is known, it may move
    Path(video).rename("moved.mp4")
    assert find(replace(segment, video="moved.mp4")) == (0, "a mark")


def test_a_search_of_earlier_versions_is_resumed():
    """``search.yaml`` as commit 8e23bbc wrote it."""
    config = TuneConfig()
    space = parse_search_space(config.search.search, config.base())
    identity = search_identity(config, space, "d")
    assert list(identity) == [
        "search",
        "searcher",
        "scheduler",
        "grace_period",
        "metric",
        "data_hash",
        "val_fraction",
        "missing_videos",
        "max_rejected",
        "stride",
        "max_frames",
        "coverage",
        "image_size",
        "backbone",
        "pretrained",
        "backbone_weights",
        "mask",
        "batch_size",
        "lr_schedule",
        "max_epochs",
        "accumulate_grad_batches",
        "random_shift",
        "color_jitter",
        "precision",
        "strategy",
        "train_workers",
        "use_gpu",
        "seed",
    ]
    assert identity["search"]["lr"] == "loguniform(1e-05,0.01)"


OTHER = {
    "window_size": 64,
    "stride": 4,
    "max_frames": 128,
    "coverage": "head",
    "image_size": 64,
    "window_image": "center",
}


@pytest.mark.parametrize("name", [field.name for field in fields(WindowConfig)])
def test_a_setting_of_the_windows_affects_the_decoding_and_so_the_cache(name):
    assert name in settings_that_affect("decoding")
    changed = replace(WindowConfig(), **{name: OTHER[name]})
    assert sampling_of(changed) != sampling_of(WindowConfig())


def test_where_a_run_is_kept_does_not_change_its_name():
    config = Config().replace_flat(csv_path="a.csv")
    same = config.replace_flat(storage_path="/x", num_workers=9, cache_dir="/y", csv_path="/b.csv")
    assert config.identity_hash("d") == same.identity_hash("d")
    assert config.identity_hash("d") != config.replace_flat(lr=1.0).identity_hash("d")
    assert config.identity_hash("d") != config.identity_hash("e")


def test_nothing_but_the_windows_affects_the_decoding():
    assert set(settings_that_affect("decoding")) == {field.name for field in fields(WindowConfig)}


def test_no_setting_of_the_run_affects_a_result():
    places = {field.name for field in fields(RunConfig)}
    # the values of a recipe's settings count, not its name
    leaves = {"allow_noncommercial", "allow_seen_cases"}
    assert set(settings_that_affect("nothing")) == places | leaves | {"recipe"}


def test_the_identity_holds_all_settings_that_affect_a_result():
    # the data, and the encoder whose features a temporal model reads, have hashes of their own
    rows = {"csv_path", "demo", "video_dir", "allow_outside", "case_from", "encoder"}
    left_out = {*rows, *settings_that_affect("nothing")}
    assert set(Config().identity()) == set(Config().to_flat()) - left_out - set(late_settings())
    temporal = {name: value for name, value in asdict(TemporalConfig()).items() if name not in rows}
    recipe = {name: value for name, value in asdict(RecipeConfig()).items() if name != "recipe"}
    single = {"deterministic": False, "on_nan": "stop", "init_checkpoint": None, "phase_map": None}
    single |= {"checkpoint_metric": None}
    windows, augmentation = {"window_image": "mean"}, asdict(AugmentationConfig())
    windows |= asdict(SamplingConfig())
    speed, folds = asdict(SpeedConfig()), {"folds": None, "fold": None}
    assert late_settings() == windows | single | recipe | augmentation | speed | temporal | folds
    repeatable = Config().replace_flat(deterministic=True)
    assert repeatable.identity() == Config().identity() | {"deterministic": True}
    data = {field.name for field in fields(DataConfig)}
    assert set(settings_that_affect("data", "location")) == data | {"encoder"}


@pytest.mark.parametrize("name", RECIPES)
def test_the_values_of_a_recipe_are_those_of_settings_within_their_limits(name):
    config = Config().replace_flat(**RECIPES[name])
    config.validate()
    assert all(config.to_flat()[setting] == value for setting, value in RECIPES[name].items())


def test_a_search_takes_the_settings_of_the_recipe():
    items = {
        "opt": "choice(adam,adamw)",
        "weight_decay": "loguniform(0.0001,0.1)",
        "layer_decay": "uniform(0.6,1)",
        "lr_schedule": "choice(constant,cosine)",
        "gradient_clip_val": "choice(0.5,1.0)",
        "drop_path_rate": "uniform(0,0.3)",
        "model_ema_decay": "choice(0.99,0.9998)",
        "freeze": "choice(none,bn,stages:2)",
        "patience": "randint(3,9)",
    }
    texts = [f"{name}={domain}" for name, domain in items.items()]
    space = parse_search_space(texts, Config().replace_flat(patience=5))
    assert {name: str(domain) for name, domain in space.items()} == items


def test_every_path_is_checked_for_credentials():
    assert set(path_settings()) == {
        "csv_path",
        "video_dir",
        "backbone_weights",
        "init_checkpoint",
        "phase_map",
        "encoder",
        "output_pth",
        "storage_path",
        "cache_dir",
        "local_cache_dir",
    }
    for name in path_settings():
        config = Config().replace_flat(**{name: "s3://key:secret@bucket/folder"})
        with pytest.raises(UserError, match=f"^--{name}") as refused:
            config.validate()
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stride": 0}, "--stride 0: must be 1 to 256"),
        (
            {"local_cache_bytes": "200 lbs"},
            "--local_cache_bytes '200 lbs': give a size such as 200GB",
        ),
        ({"local_cache_bytes": "0"}, "--local_cache_bytes '0': give a size"),
        ({"window_size": 20}, "--window_size 20 is not a multiple of --stride 8"),
        (
            {"window_image": "mean+motion", "window_size": 8},
            "--window_image mean+motion: give --window_size 16 or a lower --stride",
        ),
        ({"max_frames": 8}, "--max_frames 8 is less than --window_size 16"),
        ({"image_size": 100}, "--image_size 100 is not a multiple of 32"),
        (
            {"init_checkpoint": "a", "backbone_weights": "b"},
            "--init_checkpoint, --backbone_weights",
        ),
        ({"phase_map": "a"}, "--phase_map: needs --init_checkpoint"),
        ({"batch_size": 0}, "--batch_size 0: must be at least 1"),
        ({"lr": 0.0}, "--lr 0.0: must be more than 0"),
        ({"max_epochs": 0}, "--max_epochs 0: must be at least 1"),
        ({"accumulate_grad_batches": 0}, "--accumulate_grad_batches 0: must be at least 1"),
        ({"random_shift": 0.5}, "--random_shift 0.5: must be 0 or more, and less than 0.5"),
        ({"color_jitter": 1.0}, "--color_jitter 1.0: must be 0 or more, and less than 1"),
        ({"train_workers": 0}, "--train_workers 0: must be at least 1"),
        ({"train_workers": "1-4"}, "--train_workers '1-4': give a number, or a range such as 1:4"),
        ({"train_workers": "0:4"}, "--train_workers 0: must be at least 1"),
        ({"train_workers": "4:2"}, "--train_workers 4:2: the smaller number comes first"),
        ({"collective_timeout_s": 0}, "--collective_timeout_s 0: must be at least 1"),
        ({"threads_per_worker": 0}, "--threads_per_worker 0: must be at least 1"),
        ({"seed": -1}, "--seed -1: must be 0 or more"),
        ({"seed": 10**20}, "--seed 100000000000000000000: must be 0 or more, and less than 2^63"),
        ({"lr": float("inf")}, "--lr inf: must be more than 0, and finite"),
        ({"lr": float("nan")}, "--lr nan: must be more than 0, and finite"),
        ({"val_fraction": 1.0}, "--val_fraction 1.0: must be between 0 and 1"),
        ({"max_rejected": 1.5}, "--max_rejected 1.5: must be 0 to 1"),
        ({"every_n_train_steps": 0}, "--every_n_train_steps 0: must be at least 1"),
        ({"logger": "paper"}, "--logger paper: choose from tensorboard, mlflow, wandb"),
        ({"wait_for_nodes_s": -1}, "--wait_for_nodes_s -1: must not be negative"),
        ({"weight_decay": -0.1}, "--weight_decay -0.1: must be 0 or more, and finite"),
        ({"layer_decay": 0.0}, "--layer_decay 0.0: must be more than 0, and at most 1"),
        ({"head_lr_scale": 0.0}, "--head_lr_scale 0.0: must be more than 0, and finite"),
        ({"warmup_ratio": 1.0}, "--warmup_ratio 1.0: must be 0 or more, and less than 1"),
        ({"scale": 0.0}, "--scale 0.0: must be more than 0, and at most 1"),
        ({"rotate": 181.0}, "--rotate 181.0: must be 0 to 180"),
        ({"hflip": 1.5}, "--hflip 1.5: must be 0 to 1"),
        ({"contrast": 1.0}, "--contrast 1.0: must be 0 or more, and less than 1"),
        ({"hue": math.nan}, "--hue nan: must be 0 to 0.5"),
        ({"label_smoothing": 1.0}, "--label_smoothing 1.0: must be 0 or more, and less than 1"),
        ({"model_ema_decay": 1.0}, "--model_ema_decay 1.0: must be 0 or more, and less than 1"),
        ({"gradient_clip_val": 0.0}, "--gradient_clip_val 0.0: must be more than 0, and finite"),
        ({"freeze": "stages:0"}, "--freeze 'stages:0': give none, encoder, bn, or stages:N"),
        ({"lora_rank": 0}, "--lora_rank 0: must be 1 to 256"),
        ({"lora_rank": 4, "freeze": "bn"}, "leave --freeze bn out"),
        ({"patience": 0}, "--patience 0: must be at least 1"),
        ({"lora_rank": 4, "strategy": "fsdp"}, "--lora_rank: not with --strategy fsdp"),
        (
            {**RECIPES["modern"], "strategy": "fsdp"},
            "--gradient_clip_val None --model_ema_decay None",
        ),
        ({"num_workers": 0}, "--num_workers 0: must be at least 1"),
        ({"name": "a/b"}, "--name a/b: must be a plain folder name"),
        ({"name": ".."}, "--name ..: must be a plain folder name"),
        ({"name": "cache"}, "--name cache: must be a plain folder name"),
        ({"name": "ü" * 150}, f"--name {'ü' * 20}… is too long for a folder"),
        ({"local_cache_dir": "s3://b/c"}, "--local_cache_dir: must be a folder of this machine"),
    ],
)
def test_a_value_outside_its_limits_is_refused_with_flag_and_value(settings, says):
    with pytest.raises(UserError) as refused:
        Config().replace_flat(**settings).validate()
    assert says in str(refused.value)


def test_a_run_whose_long_name_an_earlier_version_took_can_be_resumed(tmp_path):
    config = Config().replace_flat(storage_path=str(tmp_path), name="a" * 250)
    with pytest.raises(UserError, match=r"^--name a{20}… is too long for a folder"):
        config.validate()
    (tmp_path / config.run.name).mkdir()
    config.validate()


def test_settings_come_back_from_yaml(tmp_path):
    config = Config().replace_flat(
        train_workers="1:4", lr=1e-5, backbone_weights="/w.pt", use_gpu="true", name="007"
    )
    (tmp_path / "run.yaml").write_text(dump_config(config))
    assert read_config(str(tmp_path / "run.yaml"), Config()) == config


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("lr: 1e-4", "lr", 1e-4),
        ("lr: 1", "lr", 1.0),
        ("use_gpu: true", "use_gpu", "true"),
        ("name: 7", "name", "7"),
        ("train_workers: null", "train_workers", None),
        ("train_workers: 2", "train_workers", 2),
        ("train_workers: '1:4'", "train_workers", "1:4"),
    ],
)
def test_yaml_values_take_the_type_of_their_setting(tmp_path, text, name, value):
    (tmp_path / "run.yaml").write_text(text)
    read = read_config(str(tmp_path / "run.yaml"), Config()).to_flat()[name]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learning_rate: 1", "unknown setting learning_rate"),
        ("batch_size: many", "batch_size: 'many' is not int"),
        ("lr: fast", "lr: 'fast' is not float"),
        ("mask: blue", "mask: 'blue' is not one of rg, chroma, none"),
        ("batch_size: 1.5", "batch_size: 1.5 is not int"),
        ("!!python/object:os.system {}", "not a YAML file"),
        ("- lr", "expected lines of `flag: value`"),
        ("lr: [", "not a YAML file"),
    ],
)
def test_a_wrong_settings_file_is_refused_with_its_name(tmp_path, text, says):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        read_config(str(tmp_path / "run.yaml"), Config())
    assert str(refused.value).startswith(f"--config {tmp_path}/run.yaml: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr: 0x_", "not a YAML file"),
        pytest.param("lr: " + "9" * 5000, "not a YAML file", id="5000 digits"),
        ("seed: 2020-13-45", "not a YAML file"),
        ("name: !!timestamp x", "not a YAML file"),
        ("self: 1", "unknown setting self"),
        pytest.param("lr: 1" + "0" * 400, "lr: .* is too large", id="400 digits"),
        pytest.param("lr: 0x" + "f" * 5000, "lr: .*thousands of digits is too large", id="hex"),
        pytest.param(
            "? 0x" + "f" * 5000 + "\n: 1",
            "unknown setting a number with thousands of digits",
            id="hex as a name",
        ),
        pytest.param("lr: " + "[" * 1000, "not a YAML file", id="1000 brackets"),
        pytest.param(
            "lr: [" + "x, " * 10**5 + "x]", r"lr: \['x', .*\.\.\.\] is not float", id="long list"
        ),
        ("lr: .inf", "--lr inf: must be more than 0, and finite"),
        (
            "batch_size: 1000000000000",
            "--batch_size 1000000000000: must be at least 1, and at most",
        ),
        ("image_size: 32000000", "--image_size 32000000 is not a multiple of 32; try"),
        ("max_frames: 1000000000000", "--max_frames 1000000000000: must be .* at most 1000000"),
        ("max_epochs: 1000000000000", "--max_epochs 1000000000000: must be .* at most 1000000"),
    ],
)
def test_a_file_of_settings_that_cannot_be_is_refused_in_one_line(tmp_path, text, says):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as refused:
        read_config(str(path), Config()).validate()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


def test_a_choice_that_may_be_left_open_is_read_back_from_a_file():
    for value in (None, "val_frame_acc"):
        read = Config().replace_flat(checkpoint_metric=value)
        assert read.training.checkpoint_metric == value
    with pytest.raises(UserError, match="checkpoint_metric: 'f1' is not one of val_macro_f1"):
        Config().replace_flat(checkpoint_metric="f1")


def test_the_default_that_is_spelled_out_is_the_same_run():
    spelled = Config().replace_flat(checkpoint_metric="val_macro_f1")
    assert spelled.identity() == Config().identity()
    assert spelled.training.epoch_metric == Config().training.epoch_metric == "val_macro_f1"
    assert Config().replace_flat(checkpoint_metric="val_acc").training.epoch_metric == "val_acc"

"""A command goes on with the run in its folder only if settings, data and devices are the same."""

import pytest

from ophnet_ray.config import Config
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.passport import build_passport
from ophnet_ray.data.run_data import RunData
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.errors import UserError
from ophnet_ray.settings_file import dump_config
from ophnet_ray.storage.records import dump_yaml_record
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.same_run import check_passport, check_same

pytestmark = pytest.mark.unit

RESOURCES = {"train_workers": 1, "device": "CPU", "threads_per_worker": 2}


def passport(data_hash="d", **resources):
    config = Config()
    data = RunData(as_table(()), as_table(()), data_hash)
    manifest = Manifest(("a", "b"), config.windows, ())
    return build_passport(data, manifest, [], RESOURCES | resources)


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "demo")
    run.create()
    return run


def test_a_run_is_the_same_with_its_settings_and_data_wherever_these_lie(run):
    config = Config().replace_flat(csv_path="/a.csv")
    check_same(run, config, "d")  # a new folder takes any run
    run.write_config(config)
    run.write_passport(passport("d"))
    check_same(run, config.replace_flat(csv_path="/b.csv", num_workers=9), "d")
    with pytest.raises(UserError, match=r"\(lr 0\.0001 -> 0\.5\); resume it with the settings of"):
        check_same(run, config.replace_flat(lr=0.5), "d")
    with pytest.raises(UserError, match="the rows of the CSV, their split or the videos"):
        check_same(run, config, "e")


def test_a_run_takes_more_epochs_where_its_learning_rate_does_not_depend_on_their_number(run):
    config = Config().replace_flat(csv_path="/a.csv", max_epochs=4)
    run.write_config(config)
    run.write_passport(passport("d"))
    check_same(run, config.replace_flat(max_epochs=6), "d")
    with pytest.raises(UserError, match="max_epochs 4 -> 3"):
        check_same(run, config.replace_flat(max_epochs=3), "d")
    with pytest.raises(UserError, match=r"\(lr 0.0001 -> 0.5\)"):
        check_same(run, config.replace_flat(max_epochs=6, lr=0.5), "d")
    for changed in ({"lr_schedule": "cosine"}, {"temporal": "gru"}):
        run.write_config(config.replace_flat(**changed))
        with pytest.raises(UserError, match="max_epochs 4 -> 6"):
            check_same(run, config.replace_flat(max_epochs=6, **changed), "d")


def test_a_file_of_weights_is_known_by_its_content(run, tmp_path):
    weights, copy = tmp_path / "w.pt", tmp_path / "elsewhere.pt"
    weights.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    config = Config().replace_flat(backbone_weights=str(weights))
    moved = config.replace_flat(backbone_weights=str(copy))
    assert config.identity_hash("d") == moved.identity_hash("d")
    before = config.identity_hash("d")
    run.write_config(config)
    run.write_passport(passport("d"))
    check_same(run, moved, "d")
    weights.write_bytes(b"better weights")
    assert config.identity_hash("d") != before
    with pytest.raises(UserError, match=r"backbone_weights sha256:\w+ -> sha256:\w+"):
        check_same(run, config, "d")
    with pytest.raises(UserError, match=r"backbone_weights sha256:\w+ -> None"):
        check_same(run, Config(), "d")
    copy.unlink()
    with pytest.raises(UserError, match=r"--backbone_weights .* does not exist"):
        moved.identity()


@pytest.mark.parametrize("name", ["init_checkpoint", "phase_map"])
def test_a_checkpoint_to_start_from_and_its_map_are_known_by_their_content(run, tmp_path, name):
    files = {each: tmp_path / each for each in ("init_checkpoint", "phase_map")}
    for file in files.values():
        file.write_bytes(b"content")
    config = Config().replace_flat(**{each: str(file) for each, file in files.items()})
    run.write_config(config)
    run.write_passport(passport("d"))
    moved = files[name].rename(tmp_path / "elsewhere")
    check_same(run, config.replace_flat(**{name: str(moved)}), "d")
    moved.write_bytes(b"another")
    with pytest.raises(UserError, match=rf"\({name} sha256:\w+ -> sha256:\w+\); resume it with"):
        check_same(run, config.replace_flat(**{name: str(moved)}), "d")


def test_a_run_that_began_without_a_late_setting_is_found_at_its_default_only(run):
    """Versions without ``deterministic`` wrote no such line."""
    config = Config()
    run.write_config(config)
    run.write_passport(passport("d"))
    lines = dump_config(config).splitlines(keepends=True)
    run.config.write_text("".join(line for line in lines if "deterministic" not in line))
    check_same(run, config, "d")
    repeatable = config.replace_flat(deterministic=True)
    with pytest.raises(UserError, match="deterministic False -> True"):
        check_same(run, repeatable, "d")
    run.write_config(repeatable)
    check_same(run, repeatable, "d")
    with pytest.raises(UserError, match="deterministic True -> False"):
        check_same(run, config, "d")


def test_a_resumed_run_needs_the_devices_it_began_with(run):
    assert run.read_resources() == {}
    check_passport(run, passport())
    run.write_passport(passport())
    assert run.read_resources() == RESOURCES
    check_passport(run, passport())
    with pytest.raises(UserError, match=r"\(device CPU -> GPU\).* give --use_gpu false to resume"):
        check_passport(run, passport(device="GPU"))


def test_other_threads_change_sums_on_a_cpu_only(run):
    run.write_passport(passport(threads_per_worker=16))
    with pytest.raises(UserError, match=r"16 -> 32\).* give --threads_per_worker 16 to resume"):
        check_passport(run, passport(threads_per_worker=32))
    run.write_passport(passport(device="GPU", threads_per_worker=16, train_workers=8))
    check_passport(run, passport(device="GPU", threads_per_worker=32, train_workers=8))
    with pytest.raises(UserError, match="give --train_workers 8 to resume it"):
        check_passport(run, passport(device="GPU", threads_per_worker=32, train_workers=7))


def test_a_run_of_an_earlier_version_with_the_default_spelled_out_goes_on(tmp_path):
    run, config = RunDirectory(tmp_path), Config()
    text = dump_config(config).replace("checkpoint_metric: null", "checkpoint_metric: val_macro_f1")
    assert "val_macro_f1" in text
    run.config.write_bytes(dump_yaml_record(text))
    check_same(run, config.replace_flat(checkpoint_metric="val_macro_f1"), "d")
    with pytest.raises(UserError, match="checkpoint_metric None -> val_acc"):
        check_same(run, config.replace_flat(checkpoint_metric="val_acc"), "d")

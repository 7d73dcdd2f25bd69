"""Checks before a run uses the cluster: settings, paths, CSV, workers. Imports nothing heavy."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from ophnet_ray.config import CONTENT_SETTINGS, AnyConfig, Config
from ophnet_ray.console import Console
from ophnet_ray.data.demo_world import LONG, SHORT, DemoWorld
from ophnet_ray.data.run_data import RunData, read_run_data
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.splits import FITTED_SPLITS
from ophnet_ray.errors import UserError
from ophnet_ray.inspection.table_checks import check_spellings
from ophnet_ray.settings import check_rules
from ophnet_ray.storage.access import check_readable, check_writable
from ophnet_ray.storage.files import list_objects, upload
from ophnet_ray.storage.local_copies import default_local_dir, local_folder
from ophnet_ray.storage.paths import absolute, is_remote, join, parent_of
from ophnet_ray.storage.replacement import PYTORCH_FILE, check_inputs_stay, check_kind
from ophnet_ray.temporal_config import CHECKPOINT_SUFFIX

if TYPE_CHECKING:
    from ophnet_ray.distributed.cluster_check import SharedPaths

MAX_SPELLINGS = 3


@dataclass(frozen=True)
class CheckedInput(Generic[AnyConfig]):
    """Input of a run that was found right.

    Attributes:
        config: Settings with absolute paths; ``csv_path`` is set.
        output: Absolute path or URI for the best checkpoint.
        data: Rows of the CSV, or of the demo.
    """

    config: AnyConfig
    output: str
    data: RunData


def check_input(config: AnyConfig, console: Console) -> CheckedInput[AnyConfig]:
    """Check settings, paths and CSV: all that needs neither torch nor a cluster.

    Raises:
        UserError: Naming the flag, or the line of the CSV, and the cure.
    """
    config.validate()
    if config.data.num_folds is not None:
        raise UserError(
            f"--folds {config.data.folds}: only train.py and tune.py take all folds; give one of "
            "them, too, e.g. --fold 1"
        )
    check_loggers(config)
    output = check_output(config.run.output_pth)
    resolved = resolve_paths(config, console.say)
    inputs = {
        "--csv_path": resolved.data.csv_path,
        "--encoder": resolved.temporal.encoder,
        "--init_checkpoint": resolved.model.init_checkpoint,
        "--phase_map": resolved.model.phase_map,
        "--backbone_weights": resolved.model.backbone_weights,
    }
    check_inputs_stay("--output_pth", output, inputs)
    csv_path = resolved.data.csv_path or _provide_demo(resolved, console)
    resolved = replace(resolved, data=replace(resolved.data, csv_path=csv_path))
    data = read_run_data(csv_path, resolved.data, resolved.training.seed, console.say)
    _warn_of_spellings(data, console)
    return CheckedInput(resolved, output, data)


def _warn_of_spellings(data: RunData, console: Console) -> None:
    """Warn of names that may mean the same: the data passport knows nothing of them."""
    findings = list(check_spellings(data.all_rows))
    for finding in findings[:MAX_SPELLINGS]:
        console.warn(f"{finding.text}; {finding.repair}")
    if len(findings) > MAX_SPELLINGS:
        more = len(findings) - MAX_SPELLINGS
        console.warn(f"{more} more such names: `python -m ophnet_ray check` lists all")


def check_loggers(config: Config) -> None:
    """Make sure that the loggers are installed and can write.

    Raises:
        UserError: Naming the logger and the cure.
    """
    has_server = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    if "mlflow" in config.run.loggers and is_remote(config.run.storage_path) and not has_server:
        raise UserError(
            "--logger mlflow: its database cannot lie in a bucket; set MLFLOW_TRACKING_URI"
        )
    for name in config.run.loggers:
        if name != "tensorboard" and find_spec(name) is None:
            raise UserError(
                f"--logger {name}: it is not installed; pip install 'ophnet-ray[{name}]'"
            )


def check_output(path: str) -> str:
    """Return the absolute path of the output, after a test that it can be written.

    Raises:
        UserError: It is a folder or no checkpoint, or its folder cannot be written.
    """
    output = absolute(path)
    if is_remote(output):
        check_writable("--output_pth", parent_of(output))
        return output
    file = Path(output)
    if file.is_dir():
        raise UserError(f"--output_pth {path} is a folder; name a file, e.g. {path}/model.ckpt")
    check_kind("--output_pth", file, PYTORCH_FILE)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        probe = file.with_name(f".{file.name}.probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--output_pth {path} cannot be written: {error.strerror}") from error
    return output


def resolve_paths(config: AnyConfig, say: Callable[[str], None]) -> AnyConfig:
    """Return the settings with absolute paths, since workers run elsewhere.

    Args:
        config: Settings as the user gave them.
        say: Receives a line per run directory that stands for a checkpoint.

    Raises:
        UserError: A bucket does not answer, or does not exist; or a run has no checkpoint to start
            from.
    """
    # its modules know the codec, which --help of `check` does not need
    from ophnet_ray.train.trained_models import find_source

    storage = absolute(config.run.storage_path)
    cache = absolute(config.run.cache_dir or join(storage, "cache"))
    local = str(Path(config.run.local_cache_dir or default_local_dir()).absolute())
    data, model = config.data, config.model
    files = {name: path for name in CONTENT_SETTINGS if (path := getattr(model, name)) is not None}
    if model.init_checkpoint is not None:
        files["init_checkpoint"] = find_source("--init_checkpoint", model.init_checkpoint, say)
    encoder = config.temporal.encoder
    if encoder is not None:
        encoder = find_source("--encoder", encoder, say, may_be_model=True)
    if encoder is not None and encoder.endswith(CHECKPOINT_SUFFIX):
        encoder = absolute(encoder)
    resolved = replace(
        config.replace_flat(**{name: absolute(path) for name, path in files.items()}),
        temporal=replace(config.temporal, encoder=encoder),
        data=replace(
            data,
            csv_path=absolute(data.csv_path) if data.csv_path else None,
            video_dir=absolute(data.video_dir) if data.video_dir else None,
        ),
        run=replace(config.run, storage_path=storage, cache_dir=cache, local_cache_dir=local),
    )
    _check_buckets(resolved)
    return resolved


def _check_buckets(config: Config) -> None:
    """Ask each bucket once, at the start: within seconds, not after an hour of work."""
    locations = {"--csv_path": config.data.csv_path, "--video_dir": config.data.video_dir}
    for flag, path in locations.items():
        if path and is_remote(path):
            check_readable(flag, path if flag == "--video_dir" else parent_of(path))
    if is_remote(config.run.storage_path):
        check_writable("--storage_path", config.run.storage_path)


def _provide_demo(config: Config, console: Console) -> str:
    """Return the demo's CSV beside the cache, so that every node reads its videos."""
    from ophnet_ray.data.demo import DEMO_CSV

    console.say("no --csv_path: the built-in demo data set, with settings to match")
    cache = config.run.cache_dir or ""
    world = {"short": SHORT, "long": LONG}[config.data.demo]
    if not is_remote(cache):
        return str(_draw_demo(Path(cache), world, console))
    folder = join(cache, world.folder)
    if DEMO_CSV not in list_objects(folder):
        csv_path = _draw_demo(local_folder(cache, config.run.local_cache_dir), world, console)
        # the CSV last: with it, the demo is whole
        for file in sorted(csv_path.parent.iterdir(), key=lambda file: file == csv_path):
            upload(file, join(folder, file.name))
    return join(folder, DEMO_CSV)


def _draw_demo(folder: Path, world: DemoWorld, console: Console) -> Path:
    """Return the demo's CSV in a folder of this machine; draw the videos unless they exist."""
    from ophnet_ray.data.demo import demo_csv, make_demo

    if demo_csv(folder, world).exists():
        return demo_csv(folder, world)
    with console.stage("draw", world.num_cases) as stage:
        return make_demo(folder, lambda num: stage.update(num, "demo videos"), world)


def check_speed(config: Config, num_workers: int, use_gpu: bool) -> None:
    """Make sure that the workers of a run can take the steps that its flags ask for.

    Raises:
        UserError: They cannot; the flags are named.
    """
    strategy = config.training.strategy
    check_rules(config.speed.rules_of_workers(num_workers, use_gpu, strategy))


def check_num_segments(num_workers: int, num_train: int) -> None:
    """Make sure that each train worker gets a training segment.

    Raises:
        UserError: There are more workers than segments.
    """
    if num_train < num_workers:
        raise UserError(f"--train_workers {num_workers}: only {num_train} training segments")


def check_cluster(config: Config, segments: Iterable[Segment]) -> None:
    """Make sure that the nodes of the connected cluster are alike and see the files of the run.

    One video of training or validation stands for all.

    Raises:
        UserError: Naming the first node that differs, and the cure.
    """
    from ophnet_ray.distributed.cluster_check import check_nodes

    video = as_table(segments).of_splits(FITTED_SPLITS).videos[0]
    check_nodes(find_shared_paths(config, [video]))


def find_shared_paths(config: Config, videos: Sequence[str]) -> "SharedPaths":
    """Return what every node of a cluster must see of a run; buckets are seen from everywhere."""
    from ophnet_ray.distributed.cluster_check import SharedPaths

    files = dict.fromkeys(videos, "the video")
    for name in CONTENT_SETTINGS:
        if (path := getattr(config.model, name)) is not None:
            files[path] = f"--{name}"
    if config.temporal.encoder and config.temporal.encoder.endswith(CHECKPOINT_SUFFIX):
        files[config.temporal.encoder] = "--encoder"
    folders = {
        "--storage_path": config.run.storage_path,
        "--cache_dir": config.run.cache_dir or "",
    }
    return SharedPaths(
        {flag: path for flag, path in folders.items() if not is_remote(path)},
        {path: what for path, what in files.items() if not is_remote(path)},
    )

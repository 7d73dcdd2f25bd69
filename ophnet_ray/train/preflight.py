"""The paths of a run: the same for all its processes, and buckets that answer."""

from dataclasses import replace
from pathlib import Path

from ophnet_ray.config import AnyConfig, Config
from ophnet_ray.console import Console
from ophnet_ray.data.demo import DEMO_CSV, DEMO_FOLDER, make_demo
from ophnet_ray.errors import UserError
from ophnet_ray.storage.atomic import copy_atomically
from ophnet_ray.storage.files import check_readable, check_writable, list_files, upload
from ophnet_ray.storage.local_copies import default_local_dir, local_folder
from ophnet_ray.storage.paths import absolute, is_remote, join, parent_of


def resolve_paths(config: AnyConfig, console: Console) -> AnyConfig:
    """Absolute paths, since workers run elsewhere; the demo data when no CSV is given.

    Raises:
        UserError: A bucket does not answer, or is not there.
    """
    storage = absolute(config.run.storage_path)
    cache = absolute(config.run.cache_dir or join(storage, "cache"))
    local = str(Path(config.run.local_cache_dir or default_local_dir()).absolute())
    data, weights = config.data, config.model.backbone_weights
    resolved = replace(
        config,
        model=replace(config.model, backbone_weights=absolute(weights) if weights else None),
        data=replace(
            data,
            csv_path=absolute(data.csv_path) if data.csv_path else None,
            video_dir=absolute(data.video_dir) if data.video_dir else None,
        ),
        run=replace(config.run, storage_path=storage, cache_dir=cache, local_cache_dir=local),
    )
    _check_buckets(resolved)
    if data.csv_path is None:
        console.say("no --csv_path: the built-in demo data set, with settings to match")
        csv_path = _provide_demo(cache, local, console)
        resolved = replace(resolved, data=replace(resolved.data, csv_path=csv_path))
    return resolved


def _check_buckets(config: Config) -> None:
    """Ask each bucket once, at the start: within seconds, not after an hour of work."""
    places = {"--csv_path": config.data.csv_path, "--video_dir": config.data.video_dir}
    for flag, path in places.items():
        if path and is_remote(path):
            check_readable(flag, path if flag == "--video_dir" else parent_of(path))
    if is_remote(config.run.storage_path):
        check_writable("--storage_path", config.run.storage_path)


def _provide_demo(cache: str, local: str, console: Console) -> str:
    """The demo's CSV beside the cache, so that every machine of a cluster reads its videos."""
    if not is_remote(cache):
        return str(make_demo(Path(cache), console))
    folder = join(cache, DEMO_FOLDER)
    if DEMO_CSV not in list_files(folder):
        csv_path = make_demo(local_folder(cache, local), console)
        # the CSV last: with it, the demo is whole
        for file in sorted(csv_path.parent.iterdir(), key=lambda file: file == csv_path):
            upload(file, join(folder, file.name))
    return join(folder, DEMO_CSV)


def hand_out(file: Path, output: str) -> None:
    """Copy a file to where the user wants it.

    Raises:
        OSError: It cannot be written.
    """
    if is_remote(output):
        upload(file, output)
    else:
        copy_atomically(file, Path(output))


def check_output(path: str) -> str:
    """The absolute output path, once it is known that it can be written.

    Raises:
        UserError: It is a folder, or its folder cannot be written.
    """
    output = absolute(path)
    if is_remote(output):
        check_writable("--output_pth", parent_of(output))
        return output
    file = Path(output)
    if file.is_dir():
        raise UserError(f"--output_pth {path} is a folder; name a file, e.g. {path}/model.ckpt")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        probe = file.with_name(f".{file.name}.probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--output_pth {path} cannot be written: {error.strerror}") from error
    return output

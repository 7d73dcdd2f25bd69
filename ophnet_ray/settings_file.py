"""Settings as a YAML file: one line ``flag: value`` each."""

import yaml

from ophnet_ray.config import AnyConfig, Config
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.storage.files import read_bytes
from ophnet_ray.storage.paths import absolute, check_location


def read_config(path: str, base: AnyConfig) -> AnyConfig:
    """Read settings, by flag name, from a YAML file over ``base``.

    Raises:
        UserError: The file is missing, is no YAML mapping, or holds an unknown setting.
    """
    check_location("--config", path)
    try:
        values = yaml.safe_load(read_bytes(absolute(path)).decode())
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise UserError(f"--config {path}: not a YAML file ({reason})") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected lines of `flag: value`")
    try:
        return base.replace_flat(**{str(name): value for name, value in values.items()})
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from error


def dump_config(config: Config) -> str:
    """Return the settings as YAML that ``read_config`` reads back."""
    flat = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.to_flat().items()
    }
    return yaml.safe_dump(flat, sort_keys=False)

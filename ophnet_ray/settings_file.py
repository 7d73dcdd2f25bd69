"""Settings as a YAML file: one line ``flag: value`` each."""

from typing import Any

import yaml

from ophnet_ray.config import AnyConfig, Config, path_settings
from ophnet_ray.errors import UserError
from ophnet_ray.settings import parse_yaml, show
from ophnet_ray.storage.files import read_bytes
from ophnet_ray.storage.paths import absolute, check_location, expand_home


def read_config(path: str, base: AnyConfig) -> AnyConfig:
    """Read settings, by flag name, from a YAML file over ``base``.

    Raises:
        UserError: The file is missing, is no YAML mapping, or holds an unknown setting.
    """
    check_location("--config", path)
    try:
        values = parse_yaml(read_bytes(absolute(path)))
        if not isinstance(values, dict):
            raise UserError("expected lines of `flag: value`")
        named = {_flag_name(name): value for name, value in values.items()}
        for name in named.keys() & set(path_settings()):
            if isinstance(named[name], str):
                named[name] = expand_home(named[name])
        return base.replace_flat(**named)
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror or error}") from error
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from error


def _flag_name(key: Any) -> str:
    """Return the key of a YAML mapping as text; one that is none names no setting."""
    return key if isinstance(key, str) else show(key)


def dump_config(config: Config) -> str:
    """Return the settings as YAML that ``read_config`` reads back."""
    flat = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.to_flat().items()
    }
    return yaml.safe_dump(flat, sort_keys=False)

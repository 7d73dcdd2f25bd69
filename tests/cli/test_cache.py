"""Refusals of ``cache``."""

import pytest

from ophnet_ray.__main__ import COMMANDS
from ophnet_ray.cli.arguments import parse_command
from ophnet_ray.errors import UserError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("days", ["nan", "inf", "-1"])
def test_days_that_are_no_number_prune_nothing(tmp_path, days):
    command = f"cache --prune --days {days} --cache_dir {tmp_path}"
    with pytest.raises(UserError, match="must be a number of days from 0 on"):
        parse_command(COMMANDS, command.split(), "ophnet_ray").run()

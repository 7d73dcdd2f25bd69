"""Writers of unfinished files, dead or alive: told from the name and the age of a file."""

import subprocess
import sys
import time

import pytest

from ophnet_ray.storage import unfinished
from ophnet_ray.storage.unfinished import LEFTOVER_AGE_S, is_abandoned

pytestmark = pytest.mark.unit

NAME = "from ophnet_ray.storage.unfinished import unfinished_name; print(unfinished_name())"
PATCH = "from ophnet_ray.storage import unfinished; unfinished.this_machine = str; "


def name_of_a_gone_writer(code=""):
    done = subprocess.run(
        [sys.executable, "-c", code + NAME], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_only_the_writer_of_a_machine_that_is_surely_this_one_is_known_to_be_gone(monkeypatch):
    now_s = time.time()
    here = name_of_a_gone_writer()
    assert is_abandoned(here, now_s)
    with monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "another-host")
        assert not is_abandoned(here, now_s)
        assert is_abandoned(here, now_s - LEFTOVER_AGE_S - 1)
    # outside Linux no machine has an identity
    without_identity = name_of_a_gone_writer(PATCH)
    assert not is_abandoned(without_identity, now_s)
    monkeypatch.setattr(unfinished, "this_machine", str)
    assert not is_abandoned(without_identity, now_s)
    assert is_abandoned(without_identity, now_s - LEFTOVER_AGE_S - 1)

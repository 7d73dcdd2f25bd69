"""Trials whose process does not answer, and those whose process was killed."""

import os
import signal
import subprocess
import sys

import pytest

from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.trial_pulse import PULSE_FILE, SILENT_S, SilentTrials, keep_pulse
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.unit

TRAIN = """
import sys, time
from pathlib import Path
from ophnet_ray.tune.trial_pulse import keep_pulse
with keep_pulse(Path(sys.argv[1])):
    time.sleep(600)
"""


class Watch:
    """The watch over the trials of a search, at a time that the test chooses."""

    def __init__(self, search):
        self.now_s, self._search = 0.0, search
        self._silent = SilentTrials(lambda: self.now_s)

    def tell(self, later_s=0.0):
        self.now_s += later_s
        return list(self._silent.name_new(self._search.trials()))


def test_a_trial_whose_process_is_stopped_is_named_once_until_it_goes_on(tmp_path):
    search = SearchDirectory(tmp_path)
    pulse = search.start_trial(0, {"lr": 0.1}).path / PULSE_FILE
    watch = Watch(search)
    process = subprocess.Popen([sys.executable, "-c", TRAIN, str(pulse.parent)])

    def wait_for_beat():
        before = pulse.stat().st_mtime_ns
        wait_until(lambda: pulse.stat().st_mtime_ns != before, "another beat")

    try:
        wait_until(pulse.exists, "the process has a pulse")
        assert watch.tell() == []
        wait_for_beat()
        assert watch.tell(2 * SILENT_S) == []
        os.kill(process.pid, signal.SIGSTOP)
        assert watch.tell() == []
        (line,) = watch.tell(SILENT_S + 1)
        assert line.startswith(f"trial 0000: process {process.pid} on ")
        assert watch.tell(SILENT_S + 1) == []
        os.kill(process.pid, signal.SIGCONT)
        wait_for_beat()
        assert watch.tell() == []
        assert len(watch.tell(SILENT_S + 1)) == 1
    finally:
        process.kill()
        process.wait()
    # the next call finds what a killed process has left, and waits for a process of its own
    again = Watch(search)
    assert again.tell() == again.tell(SILENT_S + 1) == []


def test_a_disk_that_refuses_the_pulse_ends_neither_the_trial_nor_the_search(tmp_path, caplog):
    """As a network's file system does with ESTALE or EACCES; a folder stands in for the file."""
    search = SearchDirectory(tmp_path)
    trial = search.start_trial(0, {"lr": 0.1})
    (trial.path / PULSE_FILE).mkdir()
    watch = Watch(search)
    with keep_pulse(trial.path):
        assert watch.tell() == watch.tell(SILENT_S + 1) == []
    assert [record.message[:8] for record in caplog.records] == ["no pulse"] * 2

"""Watch of the driver over its workers: progress, warnings, silence, and requests to stop."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from ophnet_ray.console import Stage, run_watched
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.signals import StopRequest
from ophnet_ray.train.heartbeat import name_silence

T = TypeVar("T")

REFRESH_S = 0.5
SILENT_S = 55.0
"""Seconds without a step, or before the workers start, after which the user learns why."""
REPEAT_FACTOR = 4
"""The next line about the same silence comes after so many times the seconds of the one before."""


class TrainingWatch:
    """Progress of the workers on a console stage.

    Args:
        status: A ``TrainingStatus`` or ``RemoteStatus``.
        stage: Counts epochs.
        warn: Prints a warning.
        resources: What the run asks the cluster for.
        request: Signals to this process; the first one asks the workers to stop.
        clock: Returns seconds.
    """

    def __init__(
        self,
        status: Any,
        stage: Stage,
        *,
        warn: Callable[[str], None],
        resources: Resources,
        request: StopRequest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status, self._stage = status, stage
        self._warn, self._num_warned, self._life = warn, 0, ""
        self._request, self._is_stopping = request, False
        self._resources = resources
        self._clock = clock
        self._alone_since_s = clock()  # without workers: they have not started, or failed
        self._patience_s = SILENT_S
        self._has_workers, self._had_workers = False, False

    def run(self, fit: Callable[[], T]) -> T:
        """Call ``fit`` and show the status until it returns."""
        return run_watched(fit, self._show, REFRESH_S)

    def _show(self) -> None:
        self._pass_on_request()
        status = self._status.get()
        if status is None:
            return
        self._catch_up(status)
        for warning in status["warnings"][self._num_warned :]:
            self._warn(warning)
        self._num_warned = len(status["warnings"])
        self._name_silence(status)
        text = "epochs"
        detail = f", step {status['step']}/{status['num_steps']}" if status["step"] else ""
        if metrics := status["metrics"]:
            text += (
                f", loss {metrics['train_loss']:.3f}, val_acc {metrics['val_acc']:.3f}, "
                f"val_macro_f1 {metrics['val_macro_f1']:.3f}"
            )
            if "val_frame_macro_f1" in metrics:
                text += f", val_frame_macro_f1 {metrics['val_frame_macro_f1']:.3f}"
        self._stage.update(status["epoch"], text, detail)

    def _pass_on_request(self) -> None:
        if self._request.signal_name and not self._is_stopping:
            self._is_stopping = True
            self._warn(
                f"{self._request.signal_name}: training writes a checkpoint and stops; a second "
                "signal ends it at once"
            )
            self._status.stop()

    def _catch_up(self, status: dict[str, Any]) -> None:
        """Begin with the first line of a status that has restarted, and ask it again to stop."""
        if status["life"] != self._life:
            self._life, self._num_warned = status["life"], 0
        if self._is_stopping and not status["stop"]:
            self._status.stop()

    def _name_silence(self, status: dict[str, Any]) -> None:
        """Say why nothing moves, at growing intervals."""
        pulses = status["pulses"]
        now_s = self._clock()
        if self._has_workers and not pulses:
            self._patience_s = SILENT_S  # they have failed: another silence than theirs begins
        self._has_workers = bool(pulses)
        self._had_workers = self._had_workers or self._has_workers
        if pulses:
            self._alone_since_s = now_s
            text = name_silence(pulses, self._patience_s)
        elif now_s - self._alone_since_s > self._patience_s:
            text = self._name_missing_resources()
        else:
            text = ""
        if text:
            self._warn(text)
            self._patience_s *= REPEAT_FACTOR
        elif pulses and min(pulse.moved_s for pulse in pulses.values()) < SILENT_S:
            self._patience_s = SILENT_S

    def _name_missing_resources(self) -> str:
        waited_s = self._clock() - self._alone_since_s
        if not ray.is_initialized():
            cause = "begins again" if self._had_workers else "still loads its libraries"
            return f"no step for {waited_s:.0f} s: this process {cause}"
        free = ray.available_resources()
        wanted = min(self._resources.sizes, default=self._resources.train_workers)
        device = "GPU" if self._resources.use_gpu else "CPU"
        text = f"no train worker has started for {waited_s:.0f} s: "
        if free.get(device, 0) < wanted:
            return (
                f"{text}{wanted} {device}s are wanted, {free.get(device, 0):g} of "
                f"{ray.cluster_resources().get(device, 0):g} are free"
            )
        return f"{text}the resources are free; the start may be slow, see the logs"

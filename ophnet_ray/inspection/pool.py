"""Videos looked at in parallel on this machine, in processes: a codec may crash."""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from ophnet_ray.data.video.hang_guard import DECODER_CRASHED
from ophnet_ray.inspection.video_facts import InspectAll, VideoFacts, VideoTask, inspect_in_worker


def inspect_in_processes(num_workers: int) -> InspectAll:
    """Return a function that looks at videos in processes of this machine.

    A video whose decoder crashes, or does not return (see ``hang_guard``), twice, the second time
    alone, is reported; it costs no other.
    """

    def inspect_all(tasks: Sequence[VideoTask]) -> Iterator[VideoFacts]:
        waiting, workers = list(tasks), min(num_workers, len(tasks))
        while waiting:
            suspects: list[VideoTask] = []
            yield from _inspect_until_crash(waiting, workers, suspects)
            for task in suspects:
                yield from _inspect_alone(task)

    return inspect_all


def crashed(task: VideoTask) -> VideoFacts:
    """Return the facts of a video at which the decoder crashes."""
    return VideoFacts(video=task.video, reason=DECODER_CRASHED, kind="unreadable")


def _inspect_until_crash(
    waiting: list[VideoTask], num_workers: int, suspects: list[VideoTask]
) -> Iterator[VideoFacts]:
    """Take tasks from ``waiting`` until it is empty or a process dies.

    Those that were being worked on at that moment are appended to ``suspects``.
    """
    running: dict[Future[VideoFacts], VideoTask] = {}
    # not fork: this process has threads
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < num_workers:
                    future = pool.submit(inspect_in_worker, waiting[0])  # raises in a broken pool
                    running[future] = waiting.pop(0)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del running[future]
        except BrokenProcessPool:
            suspects += running.values()


def _inspect_alone(task: VideoTask) -> Iterator[VideoFacts]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            yield pool.submit(inspect_in_worker, task).result()
        except BrokenProcessPool:
            yield crashed(task)

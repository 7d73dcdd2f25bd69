"""A codec that crashes: each process of the test cluster dies when it opens such a video.

Python runs this module at its start in the processes whose ``PYTHONPATH`` names this folder and the
root of the repository.
"""

import os
import signal

from tests.helpers.import_hook import after_import

CRASHING_VIDEO = "crashes-the-codec.mp4"


def crash_at_open(av):
    """Replace ``av.open``."""
    open_video = av.open

    def open_or_crash(file, *args, **options):
        if str(file).endswith(f"{os.sep}{CRASHING_VIDEO}"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return open_video(file, *args, **options)

    av.open = open_or_crash


after_import("av", crash_at_open)

"""Files and folders that this process opens."""

import sys
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def recorded_reads(folder):
    """Yield a list that receives each file that is opened, and each folder that is listed."""
    reads = []
    is_recording = True

    def record(event, args):
        if is_recording and event in ("open", "os.scandir", "os.listdir"):
            path = str(args[0])
            if path.startswith(str(folder)):
                reads.append(Path(path))

    sys.addaudithook(record)  # stays until the process ends
    try:
        yield reads
    finally:
        is_recording = False

"""A codec that crashes: each process of the test cluster dies when it opens such a video.

Python runs this module at its start in the processes whose ``PYTHONPATH`` names this folder.
"""

import importlib.util
import os
import signal
import sys

CRASHING_VIDEO = "crashes-the-codec.mp4"


class CrashingCodec:
    """Finder of ``av``: replaces its ``open`` once the module is loaded."""

    def find_spec(self, name, _path=None, _target=None):
        if name != "av":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_replace(module):
            load(module)
            open_video = module.open

            def open_or_crash(file, *args, **options):
                if str(file).endswith(f"{os.sep}{CRASHING_VIDEO}"):
                    os.kill(os.getpid(), signal.SIGSEGV)
                return open_video(file, *args, **options)

            module.open = open_or_crash

        spec.loader.exec_module = load_and_replace
        return spec


sys.meta_path.insert(0, CrashingCodec())

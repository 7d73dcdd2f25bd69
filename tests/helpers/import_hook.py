"""Change a module as soon as a process has loaded it: for modules that Python runs at its start."""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType


def after_import(name: str, change: Callable[[ModuleType], None]) -> None:
    """Call ``change`` with the module of this name, once, when it is loaded."""
    sys.meta_path.insert(0, _Hook(name, change))


class _Hook:
    """A finder that steps aside once it has found its module."""

    def __init__(self, name, change):
        self.name, self.change = name, change

    def find_spec(self, name, _path=None, _target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_change(module):
            load(module)
            self.change(module)

        spec.loader.exec_module = load_and_change
        return spec

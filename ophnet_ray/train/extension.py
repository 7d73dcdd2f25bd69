"""Extension of a run by epochs: the same settings with a larger ``--max_epochs``."""

from collections.abc import Mapping
from typing import Any


def may_extend(identity: Mapping[str, Any]) -> bool:
    """Return True if the epochs of a run do not depend on how many follow.

    ``one_cycle`` and ``cosine`` lower the learning rate towards the last epoch, and a temporal
    model needs another one for another frame model.

    Args:
        identity: Settings of the run by flag name, those of earlier versions included.
    """
    return (identity["lr_schedule"], identity.get("temporal", "none")) == ("constant", "none")


def extended_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the settings in which a run may differ from its folder: none, or ``max_epochs``.

    Args:
        before: Settings in the folder, by flag name.
        now: Settings of the command.
    """
    is_longer = now["max_epochs"] > before["max_epochs"]
    return ("max_epochs",) if is_longer and may_extend(before) and may_extend(now) else ()

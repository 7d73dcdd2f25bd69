"""Notice that the node of this process leaves the cluster soon, e.g. a preempted machine.

Ray Train tells its workers of it; this is for processes that train outside of a group of them.

Uses an undocumented part of Ray, as Ray Train itself does: check it when Ray is updated.
"""

import logging

import ray
from ray._private.state import state
from ray.exceptions import RayError

logger = logging.getLogger(__name__)


def read_leaving_notice() -> int | None:
    """Return the time at which this process's node is drained, in ms since 1970; 0 if unknown.

    None while the node stays, or while nobody can be asked.
    """
    try:
        leaving: dict[str, int] = state.get_draining_nodes()
    except RayError as error:
        logger.warning("the cluster does not say which nodes leave: %s", error)
        return None
    return leaving.get(ray.get_runtime_context().get_node_id())

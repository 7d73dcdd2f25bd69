"""Environment in which a Ray of the tests spends less CPU on watching itself.

By default its log monitor, dashboard and agents take an eighth of a core while nothing runs. No
test looks at what they collect, besides ``tests/cluster/test_watched_run.py``, whose Ray has the
intervals that a user's has.
"""

QUIET_RAY = {
    "EVENT_AGENT_REPORT_INTERVAL_SECONDS": "5",
    "LOG_NAME_UPDATE_INTERVAL_S": "600",
    "NODE_STATS_UPDATE_INTERVAL_SECONDS": "600",
    "RAY_DASHBOARD_AGENT_POLL_INTERVAL_S": "10",
    "RAY_DASHBOARD_STATS_UPDATING_INTERVAL": "600",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    "SCAN_EVENT_DIR_INTERVAL_SECONDS": "60",
}
"""Intervals of Ray 2.60, most of them undocumented; one that Ray no longer knows does no harm."""

"""Pages in a real browser: Debian's Chromium, driven over its debugging protocol."""

import asyncio
import base64
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

CHROMIUM = Path("/usr/bin/chromium")
# CI and containers run as root, where Chromium has no sandbox
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-port=0",
)
_COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


@dataclass
class Visit:
    """A page as the browser showed it.

    Attributes:
        overflow_px: Pixels by which the page scrolls sideways.
        pdf: The page printed on A4.
        requests: URLs that the page asked for, its own first.
        complaints: Errors and console messages, as JSON.
    """

    overflow_px: int
    pdf: bytes
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def visit_pages(pages: list[Path], width: int) -> list[Visit]:
    """Open each page in one browser, in a window of this width in pixels, and print it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as browser:
            try:
                # the browser chooses a free port of the loopback and prints it
                line = next(line for line in browser.stderr if "DevTools listening" in line)
                port = re.search(r":(\d+)/", line)[1]
                return asyncio.run(asyncio.wait_for(_visit_all(port, pages, width), 60))
            finally:
                browser.terminate()


async def _visit_all(port: str, pages: list[Path], width: int) -> list[Visit]:
    origin = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{origin}/json") as reply:
            tabs = await reply.json()
        url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        async with session.ws_connect(url, max_msg_size=0) as socket:
            tab = _Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.call(f"{domain}.enable")
            await tab.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=780,
                deviceScaleFactor=1,
                mobile=width < 500,
            )
            return [await tab.visit(page) for page in pages]


class _Tab:
    def __init__(self, socket) -> None:
        self._socket = socket
        self._calls = 0
        self._events: list[dict] = []

    async def call(self, method: str, **params) -> dict:
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": params})
        while (message := await self._receive()).get("id") != self._calls:
            pass
        assert "error" not in message, message
        return message["result"]

    async def visit(self, page: Path) -> Visit:
        self._events.clear()
        await self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            await self._receive()
        # not innerWidth: on a phone it grows with content that is too wide
        script = "document.scrollingElement.scrollWidth - screen.width"
        overflow = await self.call("Runtime.evaluate", expression=script)
        printed = await self.call(
            "Page.printToPDF", printBackground=True, preferCSSPageSize=True, paperWidth=8.27
        )
        visit = Visit(overflow["result"]["value"], base64.b64decode(printed["data"]))
        for event in self._events:
            if event["method"] == "Network.requestWillBeSent":
                visit.requests.append(event["params"]["request"]["url"])
            elif event["method"] in _COMPLAINTS:
                visit.complaints.append(json.dumps(event["params"])[:300])
        return visit

    async def _receive(self) -> dict:
        message = await self._socket.receive_json()
        if "method" in message:
            self._events.append(message)
        return message

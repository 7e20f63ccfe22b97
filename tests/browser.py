"""A headless Chromium for tests of pages, driven through its DevTools pipe, so that no driver is to be installed."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PHONE, LAPTOP = (390, 844), (1366, 768)


class Browser:
    """One page in a browser of its own: `evaluate` runs JavaScript in it, `errors` is what it complained about."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="chromium")
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()

        def pipes() -> None:  # DevTools reads file descriptor 3 and writes 4
            high_in, high_out = os.dup2(theirs_in, 100), os.dup2(theirs_out, 101)
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        self.process = subprocess.Popen(
            [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
             "--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={self.folder}", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self.ids, self.buffer, self.session = itertools.count(1), b"", ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.seen: set[str] = set()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.session = ""
            self.call("Browser.close")
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.out)
            os.close(self.into)
            shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; the events that come before its answer are noted."""
        number = next(self.ids)
        asked = {"id": number, "method": method, "params": arguments}
        os.write(self.out, json.dumps(asked | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while True:
            said = self.read()
            if said.get("id") == number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return said["result"]
            self.note(said)

    def read(self, seconds: float = 60) -> dict[str, Any]:
        """The next message of the browser."""
        while b"\0" not in self.buffer:
            if not select.select([self.into], [], [], seconds)[0]:
                raise TimeoutError("the browser says nothing")
            self.buffer += os.read(self.into, 1 << 20)
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def note(self, event: dict[str, Any]) -> None:
        """Keeps errors, requests and names of events."""
        what, told = event.get("method", ""), event.get("params", {})
        self.seen.add(what)
        if what == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"].get("exception", told["exceptionDetails"])))
        elif what == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(told["args"]))
        elif what == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(told["entry"]["text"])
        elif what == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def open(self, path: Path, size: tuple[int, int] = LAPTOP, dark: bool = False, touch: bool = False) -> None:
        """Loads a file at the size of a screen, and waits until it has loaded."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.seen.discard("Page.loadEventFired")
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self.seen:
            self.note(self.read())

    def paper(self) -> None:
        """Shows the page as A4 would have it: print media, as wide as there is room between Chromium's margins."""
        size = {"width": 718, "height": 1047, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", media="print")

    def evaluate(self, text: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=text, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"]))
        return found["result"].get("value")

    def until(self, text: str, seconds: float = 20) -> bool:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(f"!!({text})")):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {text}; errors: {self.errors}")
            time.sleep(0.05)
        return value

    def key(self, name: str, text: str = "") -> None:
        """Presses a key."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "ArrowUp": 38}
        told = {"key": name, "windowsVirtualKeyCode": codes.get(name, 0)} | ({"text": text} if text else {})
        self.call("Input.dispatchKeyEvent", type="keyDown", **told)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def move(self, x: float, y: float) -> None:
        """Moves the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path, whole: bool = True) -> None:
        """Writes a picture of the page, or of what its window shows."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self.clip(whole))
        path.write_bytes(base64.b64decode(shot["data"]))

    def clip(self, whole: bool) -> dict[str, Any]:
        """What of the page a picture shows."""
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def printed(self, path: Path) -> None:
        """Writes the page as a PDF, as it would be printed on A4."""
        told = self.call("Page.printToPDF", printBackground=False, paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(told["data"]))

"""A headless Chromium, driven through the W3C WebDriver protocol by the standard library alone.

Source: https://www.w3.org/TR/webdriver2/ for the routes, chromedriver's documentation for ``goog/cdp`` and the log.
"""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id, by the standard
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
CONTROL, ENTER, TAB, DOWN = "\ue009", "\ue007", "\ue004", "\ue015"


def missing() -> str:
    """What is not installed of that which a browser needs; empty where nothing is."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {' and '.join(absent)} (Debian: chromium, chromium-driver)" if absent else ""


class Browser:
    """One window. Every method waits for the browser's answer; an error of the protocol raises RuntimeError."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._base = f"http://127.0.0.1:{port}"
        self._session = ""
        try:
            wait_for(self._answers, 10)
            chrome = {"binary": shutil.which("chromium"), "args": list(ARGUMENTS)}
            asked = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
            made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": asked}})
            self._session = f"/session/{made['sessionId']}"
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._session:
            self._ask("DELETE", self._session)
        self._driver.terminate()
        self._driver.wait(10)

    def open(self, address: str) -> None:
        """Load a page anew, also where only what follows ``#`` differs."""
        self._post("/url", url="about:blank")
        self._post("/url", url=address)

    def run(self, script: str, *arguments: object) -> Any:
        """What ``script``, the body of a function, returns; a promise is waited for."""
        return self._post("/execute/sync", script=script, args=list(arguments))

    def text(self, selector: str) -> str:
        """What a reader sees there; empty where it is hidden."""
        script = (
            "const it = document.querySelector(arguments[0]); return it.checkVisibility() ? it.innerText.trim() : ''"
        )
        return str(self.run(script, selector))

    def click(self, selector: str) -> None:
        self._post(f"/element/{self._find(selector)}/click")

    def type(self, selector: str, keys: str) -> None:
        self._post(f"/element/{self._find(selector)}/value", text=keys)

    def press(self, keys: str) -> None:
        """Type where the focus is, as somebody without a mouse."""
        focus = self._ask("GET", f"{self._session}/element/active")[ELEMENT]
        self._post(f"/element/{focus}/value", text=keys)

    def log(self, kind: str) -> list[Any]:
        """Entries since the last call: "performance" (devtools events, decoded) or "browser" (the console)."""
        entries = self._post("/se/log", type=kind)
        return [json.loads(one["message"])["message"] if kind == "performance" else one for one in entries]

    def devtools(self, command: str, **parameters: object) -> Any:
        return self._post("/goog/cdp/execute", cmd=command, params=parameters)

    def look(self, width: int, height: int = 800, dark: bool = False) -> None:
        """The window's size in CSS pixels, and which colours its user prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file: Path) -> None:
        """The whole page, also what lies below the window's edge."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _find(self, selector: str) -> str:
        found = self._post("/element", using="css selector", value=selector)
        return str(found[ELEMENT])

    def _answers(self) -> bool:
        try:
            return bool(self._ask("GET", "/status")["ready"])
        except OSError:
            return False

    def _post(self, path: str, **body: object) -> Any:
        return self._ask("POST", self._session + path, body)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            fault = json.load(error)["value"]
            raise RuntimeError(f"{fault['error']}: {fault['message']}") from None


def wait_for(true: Callable[[], object], seconds: float = 10) -> None:
    """Return once ``true()`` is; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {seconds:g} s")
        time.sleep(0.05)

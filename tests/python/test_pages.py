"""Report pages as a browser shows them: on a phone and on a screen, by day and by night.

    CUREC_PAGES=<page>[:<page>...] python tests/python/test_pages.py

Without CUREC_PAGES the tests are skipped; tests/cli/report.rs sets it after nights of its own. Without Chromium (CUREC_CHROMIUM,
or `chromium`, `chromium-browser`, `google-chrome` on the path) they are skipped too and say so. CUREC_SCREENSHOTS names a
folder for pictures of what was seen.

What must hold of each page, 360 and 1280 pixels wide, light and dark: nothing is wider than the window, no error or warning in
the console, no request but for the page itself, every text stands out from what is behind it (4.5 to 1, as WCAG AA asks), every
header cell says what it heads, and the two colour schemes differ.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

PAGES = [Path(page) for page in os.environ.get("CUREC_PAGES", "").split(os.pathsep) if page]
NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
CHROMIUM = os.environ.get("CUREC_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
PATIENCE = 60

# What a page tells of itself. A text's background is that of the nearest ancestor that has one.
LOOK = """
(() => {
  const parse = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.getClientRects().length || element.closest("title")) continue;
    const style = getComputedStyle(element);
    const color = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [luminance(parse(color)), luminance(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(`${texts.currentNode.data.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  const wide = [...document.querySelectorAll("body *")]
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".wide"))
    .map((e) => e.outerHTML.slice(0, 80));
  return {
    width: innerWidth,
    scrollWidth: document.documentElement.scrollWidth,
    wide: wide.slice(0, 5),
    faint: faint.slice(0, 10),
    headers: document.querySelectorAll("th:not([scope])").length,
    language: document.documentElement.lang,
    title: document.title,
    background: getComputedStyle(document.body).backgroundColor,
    texts: document.body.innerText.length,
  };
})()
"""


class Browser:
    """Chromium, spoken to by the DevTools protocol over two pipes: JSON messages with a null byte behind each."""

    def __init__(self, profile):
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()

        def pipes():
            # The protocol's own numbers; copies first, since one of the pipes may have such a number.
            copies = [os.dup(to_browser), os.dup(from_browser)]
            os.dup2(copies[0], 3)
            os.dup2(copies[1], 4)

        # Pipes are closed on exec unless they are copies of these numbers.
        self.process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
            + ["--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=pipes,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.number = 0
        self.waiting = b""
        self.events = []
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")

    def message(self, until):
        while b"\0" not in self.waiting:
            if not select.select([self.read], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            read = os.read(self.read, 1 << 20)
            if not read:
                raise ConnectionError("Chromium has ended")
            self.waiting += read
        message, _, self.waiting = self.waiting.partition(b"\0")
        return json.loads(message)

    def call(self, method, params=None):
        """The result of a command; events that come meanwhile are kept."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": params or {}}
        if hasattr(self, "session"):
            command["sessionId"] = self.session
        os.write(self.write, json.dumps(command).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            message = self.message(until)
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def wait(self, event):
        until = time.monotonic() + PATIENCE
        while not any(e.get("method") == event for e in self.events):
            self.events.append(self.message(until))

    def close(self):
        try:
            del self.session
            self.call("Browser.close")
        except (OSError, TimeoutError, AttributeError):
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.write)
        os.close(self.read)

    def look(self, page, width, scheme):
        """What a page shows, and the events of loading it."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", {"features": features})
        self.events.clear()
        self.call("Page.navigate", {"url": page.resolve().as_uri()})
        self.wait("Page.loadEventFired")
        found = self.call("Runtime.evaluate", {"expression": LOOK, "returnByValue": True})
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"]["value"], list(self.events)

    def picture(self, to):
        shot = self.call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        to.write_bytes(base64.b64decode(shot["data"]))


@unittest.skipUnless(PAGES, "CUREC_PAGES names no page")
@unittest.skipUnless(CHROMIUM, "no Chromium (CUREC_CHROMIUM, or chromium on the path)")
class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        cls.addClassCleanup(cls.profile.cleanup)
        cls.browser = Browser(cls.profile.name)
        cls.addClassCleanup(cls.browser.close)

    def test_pages_are_readable_everywhere(self):
        pictures = os.environ.get("CUREC_SCREENSHOTS")
        for page in PAGES:
            backgrounds = set()
            for width in [360, 1280]:
                for scheme in ["light", "dark"]:
                    with self.subTest(page=str(page), width=width, scheme=scheme):
                        found, events = self.browser.look(page, width, scheme)
                        if pictures:
                            self.browser.picture(Path(pictures, f"{page.stem}-{width}-{scheme}.png"))
                        self.assertEqual(found["width"], width)
                        self.assertLessEqual(found["scrollWidth"], width, found["wide"])
                        self.assertEqual(found["wide"], [])
                        self.assertEqual(found["faint"], [])
                        self.assertEqual(found["headers"], 0)
                        self.assertEqual(found["language"], "en")
                        self.assertTrue(found["title"] and found["texts"] > 20, found)
                        backgrounds.add(found["background"])
                        self.held_to_itself(page, events)
            self.assertEqual(len(backgrounds), 2, "day and night look alike")

    def held_to_itself(self, page, events):
        own = page.resolve().as_uri()
        of = lambda method: [e["params"] for e in events if e.get("method") == method]
        asked = [e["request"]["url"] for e in of("Network.requestWillBeSent")]
        self.assertEqual([url for url in asked if url != own], [])
        self.assertEqual(of("Runtime.exceptionThrown") + of("Runtime.consoleAPICalled"), [])
        self.assertEqual([e["entry"]["text"] for e in of("Log.entryAdded")], [])


if __name__ == "__main__":
    unittest.main()

"""Headless Chromium for tests: opens files, evaluates scripts, and tells what the console said."""

from __future__ import annotations

import importlib.resources
import shutil
from pathlib import Path
from typing import Any

MISSING = (
    "these tests need Debian's chromium and chromium-driver: `make browser` installs them "
    "(apt install chromium chromium-driver)"
)


class Browser:
    """One window. Every page is a file; what would come from the network is an error."""

    def __init__(self) -> None:
        from selenium import webdriver

        paths = shutil.which("chromium"), shutil.which("chromedriver")
        if None in paths:
            raise RuntimeError(MISSING)
        options = webdriver.ChromeOptions()
        options.binary_location = paths[0]
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
            options.add_argument(f"--{flag}")
        options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(executable_path=paths[1])
        self._driver = webdriver.Chrome(options=options, service=service)

    def open(self, path: Path, anchor: str = "") -> None:
        self._driver.get_log("browser")
        self._driver.get(path.resolve().as_uri() + anchor)
        self._driver.execute_async_script(
            "const done = arguments[0];"
            "if (document.readyState === 'complete') done();"
            "else addEventListener('load', () => done());"
        )

    def evaluate(self, script: str, *arguments: Any) -> Any:
        """The value of an expression; ``arguments[0]`` and so on are given."""
        return self._driver.execute_script(f"return ({script});", *arguments)

    def errors(self) -> list[str]:
        """What the console holds since the page was opened, from warnings up."""
        kept = {"SEVERE", "WARNING"}
        return [row["message"] for row in self._driver.get_log("browser") if row["level"] in kept]

    def violations(self) -> list[str]:
        """What axe-core finds against WCAG 2, levels A and AA: rule and the first places."""
        package = importlib.resources.files("axe_core_python")
        self._driver.execute_script((package / "axe.min.js").read_text())
        return self._driver.execute_async_script(
            "const done = arguments[0];"
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa']}).then((found) => done("
            "found.violations.map((v) => v.id + ': ' + v.nodes.slice(0, 4).map("
            "(n) => n.target + ' ' + (n.any[0] ? n.any[0].message : '')).join(' | '))));"
        )

    def press(self, *names: str) -> None:
        """Keys by Selenium's names, wherever the focus is."""
        from selenium.webdriver import ActionChains, Keys

        for name in names:
            ActionChains(self._driver).send_keys(getattr(Keys, name)).perform()

    def resize(self, width: int, height: int) -> None:
        self._driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    def prefer(self, scheme: str) -> None:
        """``light`` or ``dark``, as the reader's system would."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        frames = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        self._driver.execute_async_script(frames)  # the page hears of it with its next frame

    def close(self) -> None:
        self._driver.quit()

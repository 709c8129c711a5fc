"""The picture of the server's page in README, docs/pictures/serve.png: `python -m bench.serving_picture URL`.

In: the address of a running `lmfast serve`. Out: its completion tab with a continued prompt and the alternatives of one
token, taken by Debian's chromium through playwright. Look at it before you commit it.
"""

import argparse
import shutil

from bench.pictures import PICTURES

PROMPT = "Once upon a time"
TOKENS = 40
CHOSEN = 4  # the token whose alternatives are shown
WINDOW = {"width": 1000, "height": 700}


def take(url: str, prompt: str) -> bytes:
    """PNG, greedy."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=WINDOW, device_scale_factor=1.5)
        page.goto(url)
        page.get_by_role("tab", name="Completion").click()
        page.get_by_role("button", name="Settings").click()
        page.fill("#max_tokens", str(TOKENS))
        page.fill("#seed", "1")
        page.locator("#temperature").fill("0.8")
        page.keyboard.press("Escape")
        page.fill("#prompt", prompt)
        page.press("#prompt", "Control+Enter")
        page.locator("#stats").get_by_text("tokens/s").wait_for()
        page.locator("#tokens > [role=option]").nth(CHOSEN).click()
        page.locator("#alternatives").wait_for()
        data = page.screenshot()
        browser.close()
    return data


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serving_picture", description=__doc__)
    parser.add_argument("url", help="of a running lmfast serve")
    parser.add_argument("--prompt", default=PROMPT, help=f"default: {PROMPT}")
    arguments = parser.parse_args()
    path = PICTURES / "serve.png"
    path.write_bytes(take(arguments.url, arguments.prompt))
    print(path)


if __name__ == "__main__":
    main()

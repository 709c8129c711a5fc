"""A server with prescribed answers, and an open page, for the tests of page.html."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def stub_server() -> Iterator:
    pytest.importorskip("starlette", reason="needs the extra serve")
    from tests.serving.stub_api import StubApi

    server = StubApi()
    yield server
    server.close()


@pytest.fixture
def stub(stub_server):
    stub_server.reset()
    return stub_server


@pytest.fixture
def new_page(browser) -> Iterator:
    """Opens pages, each in a fresh profile. Afterwards none may have had an uncaught error or broken its policy."""
    contexts, problems = [], []

    def open_page(**options):
        context = browser.new_context(**options)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if "Policy" in line.text else None)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def page(new_page, stub):
    """The page of a chat model, in a window of 1280 × 800."""
    page = new_page(viewport={"width": 1280, "height": 800})
    page.goto(stub.address)
    return page

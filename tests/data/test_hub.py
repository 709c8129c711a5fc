"""hub.py against a local server: complete files or none; resumed, verified; errors are one line."""

import doctest
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from lmfast.data import hub
from lmfast.errors import UserError
from tests.data.hub_server import COMMIT, HubServer, blob_sha1, sha256
from tests.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
LARGE = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
FILES = {"data/large.bin": LARGE, "small.txt": b"small\n", "empty.txt": b"", "data/other.txt": b"x" * 2000}


@pytest.fixture
def server(monkeypatch):
    with HubServer({"owner/set": FILES}, gated={"owner/gated"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "DOWNLOAD_CHUNK_SIZE", 10_000
        )  # the most that a lost connection may lose
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        yield server


def listing() -> hub.Listing:
    return hub.list_files("owner/set", "main", "do without")


def file(name: str = "data/large.bin") -> hub.RemoteFile:
    return listing().matching([name])[0]


def test_only_the_folder_of_the_patterns_is_listed(server):
    listed = {}
    for patterns in (["data/*.bin"], ["data/*", "small.txt"], ["none/*"]):
        server.requests.clear()
        found = hub.list_files("owner/set", "main", "do without", patterns=patterns)
        assert found.commit == COMMIT
        listed[tuple(patterns)] = {file.path for file in found.files}
        assert any("/tree/" in path for _, path, _ in server.requests) == (len(patterns) == 1)
    of_data, both, none = listed.values()
    assert of_data == {"data/large.bin", "data/other.txt"} and both == none == FILES.keys()
    whole = {file.path: file for file in listing().files}
    for file in hub.list_files("owner/set", "main", "do without", patterns=["data/*"]).files:
        assert file == whole[file.path]
    assert doctest.testmod(hub).failed == 0


def test_listing_and_patterns(server):
    found = listing()
    assert found.commit == COMMIT
    assert found.matching(["data/*", "small.*"]) == [
        hub.RemoteFile("data/large.bin", len(LARGE), sha256(LARGE)),
        hub.RemoteFile("data/other.txt", 2000, sha256(b"x" * 2000)),
        hub.RemoteFile("small.txt", 6, blob_sha1(b"small\n")),
    ]
    with pytest.raises(UserError, match=r"owner/set: no file matches \*.parquet; it contains data/large.bin"):
        found.matching(["*.parquet"])


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_are_downloaded_completely_and_only_once(server, tmp_path, name):
    path = hub.fetch(listing(), file(name), tmp_path, "", report=lambda line: pytest.fail(line))
    assert path == tmp_path / name and path.read_bytes() == FILES[name]
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]
    server.requests.clear()
    remote = hub.RemoteFile(name, len(FILES[name]), hub.file_digest(path, file(name)))
    assert hub.fetch(hub.Listing("owner/set", COMMIT, []), remote, tmp_path, "") == path
    assert not server.transfers()


def test_a_broken_connection_resumes_where_it_stopped(server, tmp_path):
    server.breaks, server.break_at = 3, 55_000
    path = hub.fetch(listing(), file(), tmp_path, "")
    assert path.read_bytes() == LARGE
    ranges = server.transfers()
    assert ranges == [None, "bytes=50000-", "bytes=100000-", "bytes=150000-"]


def test_partial_downloads_are_kept_for_the_next_call(server, tmp_path):
    messages = []
    found, wanted = listing(), file()
    server.breaks, server.break_at, server.then_unavailable = 1, 120_000, 1000
    with pytest.raises(UserError) as caught:
        hub.fetch(found, wanted, tmp_path, "come back later", report=messages.append)
    line = str(caught.value)
    assert "data/large.bin: cannot be downloaded from http://127" in line and "HTTP status 503" in line
    assert line.endswith("kept 0.1 MB of 0.3 MB for the next try; come back later") and "\n" not in line
    kept = list((tmp_path / "data").iterdir())
    assert [path.name for path in kept] == [f"large.bin.{sha256(LARGE)[:12]}.partial"]
    assert kept[0].read_bytes() == LARGE[:120_000]

    server.unavailable = 0
    server.requests.clear()
    path = hub.fetch(found, wanted, tmp_path, "", report=messages.append)
    assert path.read_bytes() == LARGE and not kept[0].exists()
    assert server.transfers() == ["bytes=120000-"]
    assert messages[-1] == "data/large.bin: resuming at 0.1 MB of 0.3 MB"


def test_a_damaged_file_is_fetched_again_and_never_kept(server, tmp_path):
    messages = []
    server.corrupt = 1
    path = hub.fetch(listing(), file(), tmp_path, "", report=messages.append)
    assert path.read_bytes() == LARGE
    assert len(messages) == 1 and messages[0].startswith("data/large.bin: corrupt download (sha256 ")
    path.unlink()
    server.corrupt = 2
    with pytest.raises(
        UserError, match=r"owner/set/data/large.bin: corrupt download, twice .*; try again later"
    ):
        hub.fetch(listing(), file(), tmp_path, "", report=messages.append)
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


def test_a_damaged_small_file_is_detected(server, tmp_path):
    server.corrupt = 2
    with pytest.raises(UserError, match=r"small.txt: corrupt download, twice \(git blob sha1"):
        hub.fetch(listing(), file("small.txt"), tmp_path, "", report=lambda line: None)


def test_a_partial_download_of_another_version_is_not_resumed(server, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "large.bin.000000000000.partial").write_bytes(b"other")
    (tmp_path / f"data/large.bin.{sha256(LARGE)[:12]}.partial").write_bytes(
        b"x" * (len(LARGE) + 1)
    )  # too long
    assert hub.fetch(listing(), file(), tmp_path, "").read_bytes() == LARGE
    assert server.transfers() == [None]


@pytest.mark.parametrize(
    ("repo", "revision", "match"),
    [
        ("owner/none", "main", "owner/none: no such dataset at http://127.*; check the name"),
        (
            "owner/gated",
            "main",
            "owner/gated: access must be requested; accept the terms at http://127.*/datasets/owner/gated",
        ),
        ("owner/set", "v9", "owner/set: has no revision 'v9'; remove --revision"),
    ],
)
def test_a_missing_file_is_one_line(server, repo, revision, match):
    with pytest.raises(UserError, match=match) as caught:
        hub.list_files(repo, revision, "do without")
    assert "\n" not in str(caught.value)


def test_no_network_is_one_line_with_a_remedy(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"owner/set: cannot be downloaded from http://127.0.0.1:9 \(.*\); do without$"
    ):
        listing()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"\(HF_HUB_OFFLINE is set\); do without$"):
        listing()


def test_paths_outside_the_folder(monkeypatch):
    with HubServer({"owner/set": {"../../evil.txt": b"x"}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(UserError, match=r"evil.txt would be written outside the output folder"):
            listing()


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        UserError, match="downloads need huggingface_hub, which is not installed; run `pip install"
    ):
        listing()


def test_a_killed_download_resumes(tmp_path):
    """With the library's own pieces of 10 MB, and kill -9 while the server is silent in the middle."""
    text = b"<|endoftext|>".join(b"story %d " % i * 1000 for i in range(2000))
    assert len(text) > 20_000_000
    files = {"TinyStoriesV2-GPT4-train.txt": text, "TinyStoriesV2-GPT4-valid.txt": b"a<|endoftext|>b" * 100}
    with HubServer({"roneneldan/TinyStories": files}) as server:
        server.stall, server.break_at = threading.Event(), 15_000_000
        command = [
            sys.executable,
            "-m",
            "lmfast.data",
            "download",
            "tinystories",
            "--output",
            str(tmp_path / "t"),
        ]
        environment = os.environ | {"HF_ENDPOINT": server.url}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        wait_until(
            lambda: any(path.stat().st_size >= 10_000_000 for path in tmp_path.rglob("*.partial")),
            lambda: process.poll() is None,
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "t" / "train.txt").exists()
        server.stall.set()
        server.stall = None
        server.requests.clear()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "t" / "train.txt").read_bytes() == text
        assert int(server.transfers()[0].removeprefix("bytes=").rstrip("-")) >= 10_000_000
        assert sorted(os.listdir(tmp_path / "t")) == ["source.json", "train.txt", "valid.txt"]

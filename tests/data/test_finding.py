"""finding.py: names resolve to the intended files, and nothing is skipped silently."""

import gzip
import os

import pytest

from lmfast.data import finding
from lmfast.data.finding import files_under, find_sources, matching
from lmfast.errors import UserError


def test_folders_globs_and_names(tmp_path):
    for name in (
        "b.txt",
        "a.md",
        "sub/c.jsonl",
        "sub/d.parquet",
        "e.txt.gz",
        ".hidden.txt",
        ".git/f.txt",
        "x.npy",
        "y.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [path.relative_to(tmp_path).as_posix() for path in find_sources([tmp_path])]
    assert names == ["a.md", "b.txt", "e.txt.gz", "sub/c.jsonl", "sub/d.parquet"]
    assert [path.name for path in find_sources([f"{tmp_path}/*.txt", tmp_path / "a.md", tmp_path])] == [
        "b.txt", "a.md", "e.txt.gz", "c.jsonl", "d.parquet",
    ]  # fmt: skip
    assert [path.name for path in find_sources([f"{tmp_path}/**/*.jsonl"])] == ["c.jsonl"]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("no.txt", r"no.txt: no such file, and no file matches this pattern"),
        ("*.csv", r"\*.csv: no such file, and no file matches this pattern"),
        ("void", r"void: contains no text \(.txt, "),
        ("empty.txt", r"empty.txt: is empty"),
        ("*.txt", r"no file matches this pattern"),
        ("list.json", r"list.json: is JSON, but not one record per line; convert it to .jsonl"),
        ("object.JSON.gz", r"object.JSON.gz: is JSON, but not one record per line"),
        ("a.parquet.gz", r"a.parquet.gz: Parquet inside .*is not supported"),
        ("pipe.md", r"pipe.md: is a pipe or a device; give a regular file"),
        (
            "gone.md",
            r"gone.md: links to nowhere, which cannot be read \(No such file or directory\); fix or remove it",
        ),
        ("gone*", r"gone.md: links to nowhere"),
    ],
)
def test_names_without_files(tmp_path, name, match):
    (tmp_path / "void").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "list.json").write_text('[{"text": "a"}, {"text": "b"}]\n')
    (tmp_path / "object.JSON.gz").write_bytes(gzip.compress(b'{\n "text": "a"\n}\n'))
    (tmp_path / "gone.md").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "a.parquet.gz").write_text("x")
    with pytest.raises(UserError, match=match) as caught:
        find_sources([tmp_path / name])
    assert "\n" not in str(caught.value)


def test_empty_files_of_a_folder_or_glob_are_skipped_and_an_empty_name_is_not_a_folder(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").write_text("b")
    for name in (tmp_path, f"{tmp_path}/*.txt"):
        assert find_sources([name]) == [tmp_path / "b.txt"]
    with pytest.raises(UserError, match="--input is empty"):
        find_sources([""])


def test_cyclic_links_and_other_names_give_each_file_once(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    for name in ("a/x.txt", "a/b/y.txt"):
        (tmp_path / name).write_text(name)
    for name in ("a/up", "a/here", "a/b/again"):
        (tmp_path / name).symlink_to(tmp_path / "a")
    (tmp_path / "a/z.txt").symlink_to("x.txt")
    wanted = ["a/b/y.txt", "a/x.txt"]

    def found(*patterns):
        return [
            str(path.relative_to(tmp_path)) for path in find_sources([tmp_path / name for name in patterns])
        ]

    for pattern in ("a", "**/*.txt", "**", "a/**/*.txt", "a/**/**/*.txt", "**/b/**/y.txt"):
        assert found(pattern) == (wanted if "y" not in pattern else wanted[:1]), pattern
    assert found("a/z.txt", "a/here/x.txt", "a") == ["a/z.txt", "a/b/y.txt"]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (
            "a.txt.xz",
            "a.txt.xz: .xz files are not text; decompress or convert it to text, .jsonl or .parquet",
        ),
        ("a.zip", "a.zip: .zip files are not text"),
        ("a.tar.gz", "a.tar.gz: .tar files are not text"),
        ("train.NPY", "train.NPY: .npy files are not text"),
        ("train.npy.gz", "train.npy.gz: .npy files are not text"),
        ("a.ZIP.Zst", "a.ZIP.Zst: .zip files are not text"),
        ("a.txt.gz.gz", "a.txt.gz.gz: is compressed twice"),
    ],
)
def test_files_of_unsupported_formats_are_rejected(tmp_path, name, match):
    (tmp_path / name).write_bytes(b"x")
    for source in (tmp_path / name, tmp_path / "*"):
        with pytest.raises(UserError, match=match):
            find_sources([source])


def test_text_that_begins_like_another_format_is_rejected(tmp_path):
    for data, format in ((gzip.compress(b"text"), "gzip"), ("text".encode("utf-16"), "UTF-16 or UTF-32")):
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(UserError, match=f"a.txt: is {format}, not UTF-8 text, by its first bytes"):
            find_sources([tmp_path])


def test_compressed_or_named_json_has_records_and_a_folder_reports_what_it_skips(tmp_path, caplog):
    """C4's files are c4-train.00000-of-01024.json.gz; unpacked, their names look like those of metadata files."""
    record = b'{"text": "a"}\n'
    for name in ("c4.001.json.gz", "c4.002.JSON.GZ"):
        (tmp_path / name).write_bytes(gzip.compress(record))
    for name in ("c4.003.json", "b.jl", "c.JSONL"):
        (tmp_path / name).write_bytes(record)
    for name in ("figure.png", "Makefile", "x.npy.gz"):
        (tmp_path / name).write_bytes(b"x")
    names = [path.name for path in find_sources([tmp_path])]
    assert names == ["b.jl", "c.JSONL", "c4.001.json.gz", "c4.002.JSON.GZ"]
    printed = caplog.messages[0]
    assert "skipping files with other suffixes (" in printed
    assert all(part in printed for part in ("1 of .json", "1 of .png", "1 of no suffix", "1 of .gz"))
    assert find_sources([f"{tmp_path}/*.json"]) == [tmp_path / "c4.003.json"]


@pytest.mark.parametrize(
    ("name", "content", "remark"),
    [
        ("bom.txt", b"\xef\xbb\xbfOne day", "starts with a byte order mark, which is kept"),
        (
            "latin.txt",
            "caf\xe9 au lait".encode("latin-1"),
            "is not valid UTF-8 at byte 3, and its bytes are kept",
        ),
        ("wide.txt", "One day".encode("utf-16-le"), "contains zero bytes, which are kept"),
        ("table.CSV", b"text,label\nOne day,1\n", "headers and separators included"),
        ("cut.txt", b"x" * 511 + "\u00e9".encode(), None),
    ],
)
def test_text_that_looks_like_something_else_is_read_with_one_warning(
    tmp_path, caplog, name, content, remark
):
    (tmp_path / name).write_bytes(content)
    assert find_sources([tmp_path / name, tmp_path / name]) == [tmp_path / name]
    assert [record.message.startswith(f"{tmp_path / name}: ") for record in caplog.records] == [True] * bool(
        remark
    )
    assert (remark or "") in caplog.text


def test_a_folder_without_text_reports_its_content(tmp_path):
    for name in ("a.png", "b.png", "list.json"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"contains no text .*found 2 of .png, 1 of .json"):
        find_sources([tmp_path])


@pytest.mark.parametrize("name", ["", "*/*.txt", "**/*.txt", "**"])
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch, name):
    (tmp_path / "open").mkdir()
    (tmp_path / "open/a.txt").write_text("a")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def failing(folder):
        if os.fspath(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", failing)
    for read in (lambda path: find_sources([path]), matching if name else files_under):
        with pytest.raises(
            UserError, match=r"closed: cannot be read \(Permission denied\); fix its permissions"
        ):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["part2", "b.txt"])
@pytest.mark.parametrize("pattern", ["", "*", "**/*"])
def test_a_dangling_link_is_an_error(tmp_path, name, pattern):
    """An unmounted disk, or a file that was moved."""
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / name).symlink_to("/nowhere/else")
    with pytest.raises(UserError, match=f"{name}: links to /nowhere/else, which cannot be read"):
        find_sources([tmp_path / pattern])


def test_a_file_that_cannot_be_read_is_an_error_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")

    def failing(path, *arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(finding.Path, "open", failing)
    with pytest.raises(UserError, match=r"a.txt: cannot be read \(Permission denied\)"):
        find_sources([tmp_path])


def test_skipped_folders_are_named(tmp_path, caplog):
    (tmp_path / "here/sub").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "here/a.txt").write_text("a")
    (tmp_path / "here/sub/b.txt").write_text("b")
    (tmp_path / "here/linked").symlink_to(tmp_path / "there")
    (tmp_path / "here/again").symlink_to(tmp_path / "here")
    assert len(find_sources([tmp_path / "here"])) == 2
    assert caplog.messages == [
        f"{tmp_path}/here: skipping links to folders ({tmp_path}/here/linked); give them by name to read them"
    ]
    caplog.clear()
    assert len(find_sources([f"{tmp_path}/here/*"])) == 1
    assert "skipping matching folders" in caplog.messages[0] and "here/sub" in caplog.messages[0]

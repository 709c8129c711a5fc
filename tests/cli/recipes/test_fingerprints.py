"""What counts as the same input and the same output."""

import os

from lmfast.cli.recipes.fingerprints import damaged, fingerprint, sizes


def test_content_counts_and_time_does_not(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = fingerprint(path, {})
    os.utime(path, (1, 1))
    assert fingerprint(path, {}) == before
    path.write_text("two")
    assert fingerprint(path, {}) != before
    assert fingerprint(tmp_path / "b.txt", {}) is None


def test_an_unchanged_file_is_not_read_again(tmp_path):
    path, known = tmp_path / "a.txt", {}
    path.write_text("one")
    fingerprint(path, known)
    known[str(path)][2] = "recorded"
    assert fingerprint(path, known) == "recorded"
    path.write_text("longer")
    assert fingerprint(path, known) != "recorded"


def test_a_folder_is_its_files_without_hidden_ones(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("1")
    before = fingerprint(tmp_path / "a", {})
    (tmp_path / "a/.lock").write_text("2")
    assert fingerprint(tmp_path / "a", {}) == before == fingerprint(tmp_path / "a", {})
    (tmp_path / "a/y").write_text("2")
    assert fingerprint(tmp_path / "a", {}) != before


def test_a_glob_is_all_that_it_matches(tmp_path):
    (tmp_path / "a1").write_text("1")
    before = fingerprint(tmp_path / "a*", {})
    (tmp_path / "a2").write_text("1")
    assert fingerprint(tmp_path / "a*", {}) not in (None, before)


def test_a_run_is_its_newest_checkpoint(trained_run, tmp_path):
    before = fingerprint(trained_run, {})
    (trained_run / "notes.txt").write_text("x")
    assert fingerprint(trained_run, {}) == before
    (trained_run / "notes.txt").unlink()
    names = sizes(trained_run, True)
    assert "config.yaml" in names and any(name.endswith("model.safetensors") for name in names)
    assert "metrics.jsonl" not in names


def test_deleted_and_truncated_outputs_are_found(tmp_path):
    (tmp_path / "x").write_text("1234")
    recorded = sizes(tmp_path, False)
    assert damaged(tmp_path, recorded) is None
    (tmp_path / "x").write_text("123")
    assert damaged(tmp_path, recorded) == str(tmp_path / "x")
    (tmp_path / "x").unlink()
    assert damaged(tmp_path, recorded) == str(tmp_path / "x")
    assert damaged(tmp_path, {}) == str(tmp_path)

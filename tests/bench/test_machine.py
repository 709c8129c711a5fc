"""The machine, versions and commit of a result."""

import subprocess

from bench import machine


def test_the_description_is_complete():
    printed = machine.describe(gpu="H100")
    assert printed["gpu"] == "H100" and printed["cores"] >= 1 and printed["cpu"] and printed["host"]
    assert {"python", "numpy", "numba"} <= printed["versions"].keys()


def test_changes_to_tracked_files_make_it_dirty(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.delenv("LMFAST_COMMIT", raising=False)
    assert machine.commit() == {"commit": None, "dirty": None}
    monkeypatch.setenv("LMFAST_COMMIT", "abc1234-dirty")
    assert machine.commit() == {"commit": "abc1234", "dirty": True}
    monkeypatch.setenv("LMFAST_COMMIT", "abc1234")
    assert machine.commit() == {"commit": "abc1234", "dirty": False}
    monkeypatch.delenv("LMFAST_COMMIT")

    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    (tmp_path / "a").write_text("1")
    git("init", "-q")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    clean = machine.commit()
    assert len(clean["commit"]) == 10 and clean["dirty"] is False
    monkeypatch.setenv("LMFAST_COMMIT", "abc1234")  # a copy may be inside an older checkout
    assert machine.commit()["commit"] == "abc1234"
    monkeypatch.delenv("LMFAST_COMMIT")
    (tmp_path / "b").write_text("untracked")
    assert machine.commit() == clean
    (tmp_path / "a").write_text("2")
    assert machine.commit()["dirty"] is True


def test_slugs_are_file_names():
    assert machine.slug("AMD EPYC (Zen 4), 2 cores") == "amd-epyc-zen-4-2-cores"

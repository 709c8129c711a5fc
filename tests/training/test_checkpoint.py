import json
import os

import pytest
import torch

from lmfast.errors import UserError
from lmfast.training import checkpoint as checkpoint_module
from lmfast.training.checkpoint import (
    checksums,
    newest_checkpoint,
    open_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)


def save(folder, step, value=1.0):
    return save_checkpoint(
        folder, {"w": torch.full((3, 4), value)}, {"w.exp_avg": torch.ones(2)}, {"step": step}
    )


def steps(folder):
    return sorted(p.name for p in folder.iterdir())


def test_round_trip(tmp_path):
    path = save(tmp_path, 100, 2.5)
    assert path.name == "step_00000100"
    assert sorted(p.name for p in path.iterdir()) == [
        "COMPLETE",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    found = newest_checkpoint(tmp_path)
    assert found.step == 100
    assert torch.equal(found.model_tensors()["w"], torch.full((3, 4), 2.5))
    assert torch.equal(found.optimizer_tensors()["w.exp_avg"], torch.ones(2))
    assert open_checkpoint(path).state == {"step": 100}


def test_the_newest_complete_one_wins(tmp_path):
    for step in (1, 9, 10):
        save(tmp_path, step)
    assert newest_checkpoint(tmp_path).step == 10
    (tmp_path / "step_00000010" / "COMPLETE").unlink()
    assert newest_checkpoint(tmp_path).step == 9
    assert newest_checkpoint(tmp_path / "empty") is None


@pytest.mark.parametrize("state", ["[]", "null", '{"step": "2"}', '{"seconds": 1.0}'])
def test_a_state_of_another_type_falls_back_to_the_checkpoint_before(tmp_path, state):
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    (folder / "state.json").write_text(state)
    (folder / "COMPLETE").write_text(json.dumps(checksums(folder, "*.*")))
    lines = []
    assert newest_checkpoint(tmp_path, lines.append).step == 1
    assert "state.json does not give the step; using the previous checkpoint" in lines[0]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "COMPLETE"])
@pytest.mark.parametrize("damage", ["bit", "truncated", "emptied"])
def test_a_damaged_file_falls_back_to_the_checkpoint_before(tmp_path, name, damage):
    save(tmp_path, 1)
    victim = save(tmp_path, 2) / name
    data = bytearray(victim.read_bytes())
    if damage == "bit":
        data[len(data) // 2] ^= 4
    victim.write_bytes(data if damage == "bit" else data[: len(data) // 2 if damage == "truncated" else 0])
    lines = []
    assert newest_checkpoint(tmp_path, lines.append).step == 1
    assert len(lines) == 1 and "step_00000002" in lines[0] and "using the previous checkpoint" in lines[0]
    with pytest.raises(UserError, match="step_00000002"):
        open_checkpoint(tmp_path / "step_00000002")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in the file system")
@pytest.mark.parametrize("name", ["model.safetensors", "COMPLETE"])
def test_a_pipe_is_rejected_by_name(tmp_path, name):
    """Opening it would wait for a writer."""
    path = save(tmp_path, 1)
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(UserError, match=f"step_00000001: {name} is not a regular file"):
        open_checkpoint(path)


def test_a_full_disk_leaves_the_old_one_intact(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert steps(tmp_path) == ["step_00000001"]
    assert newest_checkpoint(tmp_path).step == 1


def test_a_crash_between_rename_and_marker_leaves_no_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)
    real = checkpoint_module.os.replace

    def crash(source, target):
        real(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert newest_checkpoint(tmp_path).step == 1
    assert save(tmp_path, 2, 7.0) and newest_checkpoint(tmp_path).step == 2


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step)
    (tmp_path / ".step_00000009.partial").mkdir()
    (tmp_path / "step_00000002" / "COMPLETE").unlink()  # what a kill while pruning leaves
    save(tmp_path, 6)
    (tmp_path / "step_00000006" / "COMPLETE").unlink()  # or before marking
    prune_checkpoints(tmp_path, keep=2, best_step=1)
    assert steps(tmp_path) == ["step_00000001", "step_00000004", "step_00000005"]
    prune_checkpoints(tmp_path, keep=0, best_step=None)
    assert len(steps(tmp_path)) == 3


def test_the_marker_names_every_file(tmp_path):
    sums = json.loads((save(tmp_path, 3) / "COMPLETE").read_text())
    assert sorted(sums) == ["model.safetensors", "optimizer.safetensors", "state.json"]

"""Writes the checkpoints of a run: of whole weights at once, of sharded ones in the background.

If a checkpoint cannot be written, prints one line; training continues, and older checkpoints stay.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from lmfast.training import run_folder
from lmfast.training.checkpoint import prune_checkpoints, save_checkpoint
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.run_plan import Hooks, Progress
from lmfast.training.sinks import Sinks
from lmfast.training.state import State

if TYPE_CHECKING:
    from lmfast.training.parallel.pieces import Piece


def set_checkpoint_hooks(
    hooks: Hooks, folder: Path, state: State, keep: int, sinks: Sinks, ranks: Ranks
) -> None:
    """Sets the hooks that write the checkpoints of the run in `folder`, of which `keep` are kept."""
    if state.sharded is None:
        hooks.checkpoint = lambda progress: ranks.from_first(
            lambda: save_whole(folder, *state.tensors(), progress, keep, sinks)
        )
        return
    saves = BackgroundSaves(folder, state, keep, sinks, ranks)
    hooks.checkpoint, hooks.background = saves.begin, saves


def save_whole(
    folder: Path,
    weights: dict[str, Tensor],
    tensors: dict[str, Tensor],
    progress: Progress,
    keep: int,
    sinks: Sinks,
) -> bool:
    """Writes a checkpoint of whole tensors in the run in `folder`; returns whether that succeeded."""
    checkpoints = folder / "checkpoints"
    sinks.sync()
    try:
        save_checkpoint(checkpoints, weights, tensors, progress.as_dict())
    except OSError as error:
        sinks.message(_failure(folder, progress.step, str(error)))
        return False
    prune_checkpoints(checkpoints, keep, progress.best_step)
    return True


class BackgroundSaves:
    """The checkpoints of a sharded run; an `interfaces.Background`."""

    def __init__(self, folder: Path, state: State, keep: int, sinks: Sinks, ranks: Ranks):
        from lmfast.training.parallel.saving import ShardedCheckpoints

        self.folder, self.state, self.sinks = folder, state, sinks
        self.checkpoints = ShardedCheckpoints(folder / "checkpoints", ranks, keep)
        self.step = 0

    @property
    def writing(self) -> bool:
        return self.checkpoints.writing

    @property
    def failed(self) -> bool:
        return self.checkpoints.problem is not None

    def begin(self, progress: Progress) -> bool:
        self.step = progress.step
        self.sinks.sync()
        self.checkpoints.begin(*sharded_pieces(self.state), progress.as_dict())
        return True

    def finish(self) -> None:
        if (problem := self.checkpoints.finish()) is not None:
            self.sinks.message(_failure(self.folder, self.step, problem))


def sharded_pieces(state: State) -> tuple[list["Piece"], list["Piece"]]:
    """The pieces (of weights, of the state of optimizer and loss scale) of this rank, of a sharded model."""
    from lmfast.training.parallel.pieces import Piece, state_pieces

    assert state.sharded is not None
    weights = state.sharded.weight_pieces()
    found = [
        piece
        for name, weight in state.weights.items()
        if weight in state.optimizer.state
        for piece in state_pieces(name, weight, weights[name], state.optimizer.state[weight])
    ]
    if state.loss_scale is not None:
        found += [Piece(name, (), (), value) for name, value in state.loss_scale.state_tensors().items()]
    return [piece for pieces in weights.values() for piece in pieces], found


def _failure(folder: Path, step: int, problem: str) -> str:
    last = run_folder.newest_step(folder)
    kept = "there is no earlier one" if last is None else f"the one at step {last} is intact"
    return f"checkpoint at step {step} could not be written ({problem}); {kept}"

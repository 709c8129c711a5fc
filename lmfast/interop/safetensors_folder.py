"""The tensors of a Hugging Face folder, in one or several safetensors files, which are mapped into memory.

Pickled weights are never loaded. Raises UserError for missing, damaged and incomplete files.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lmfast.errors import UserError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class SafetensorsFolder(contextlib.ExitStack):
    """An open folder. shapes: {name: shape} of all its tensors."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self._files: dict[str, Any] = {}  # tensor → its open file
        self._paths: dict[str, Path] = {}
        try:
            for path in _files(folder):
                file = self.enter_context(_open(path))
                for name in file.keys():  # noqa: SIM118  # not a dictionary
                    self._files[name], self._paths[name] = file, path
            _check_index(folder, self._paths)
        except BaseException:
            self.close()
            raise
        self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name, file in self._files.items()}

    def dtype(self, name: str) -> str:
        """The dtype of a tensor as safetensors names it, such as BF16."""
        return self._files[name].get_slice(name).get_dtype()

    def tensor(self, name: str) -> Tensor:
        """A view of the mapped file."""
        return self._files[name].get_tensor(name)

    def path(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._paths[name]


def _open(path: Path) -> Any:
    _check_regular(path)
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is damaged or incomplete ({error}); download it again") from None


def _check_regular(path: Path) -> None:
    """Raises UserError for a missing file, and for a pipe or device, which could block or never end."""
    if not path.exists():
        raise UserError(f"{path}: is missing; download the folder again")
    if not path.is_file():
        raise UserError(f"{path}: is not a regular file; download it again")


def _files(folder: Path) -> list[Path]:
    if (folder / WHOLE).exists():
        return [folder / WHOLE]
    if (folder / INDEX).exists():
        return [folder / name for name in sorted(set(_weight_map(folder).values()))]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{folder}: contains only pickled weights ({pickled[0]}), which can run code when loaded; save it with "
            "safe_serialization=True first"
        )
    raise UserError(f"{folder}: contains neither {WHOLE} nor {INDEX}; give a folder with a model")


def _weight_map(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    _check_regular(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if all(isinstance(file, str) and Path(file).name == file for file in found.values()):
            return found
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(f"{path}: is not an index of safetensors files in this folder; download it again")


def _check_index(folder: Path, paths: dict[str, Path]) -> None:
    """Raises UserError if a tensor is not in the file that the index names."""
    if (folder / WHOLE).exists():
        return
    for name, file in _weight_map(folder).items():
        if paths.get(name) != folder / file:
            raise UserError(f"{folder / file}: lacks {name}, which {INDEX} lists there; download it again")

"""Optuna's storage, samplers and pruners for a sweep, and errors of the storage in one line.

Optuna is imported here only, when it is first used. Rejects a storage that cannot be opened and missing packages.
"""

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lmfast.errors import UserError
from lmfast.sweeps.space import Axis, Range
from lmfast.sweeps.specification import Specification

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage

INSTALL = 'pip install "optuna>=4" "scipy>=1.11"'
NEEDED = {"gp": ("scipy",), "qmc": ("scipy",), "cmaes": ("cmaes",)}
"""packages of Optuna's samplers"""


@contextlib.contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turns a failure of the storage, such as a full disk or a lost connection, into one line."""
    try:
        yield
    except Exception as error:
        internal = isinstance(error, optuna_package().exceptions.StorageInternalError)
        if not internal and type(error).__module__.partition(".")[0] != "sqlalchemy":
            raise
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
        raise UserError(
            f"{where}: the storage of the sweep failed ({reason}); rerun the same command when it works again"
        ) from None


def optuna_package() -> Any:
    """The package. Raises UserError with the install command if it is missing."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        raise UserError(
            f"lmfast sweep needs the package {name}, which is not installed; run `{INSTALL}`"
        ) from None
    return optuna


def open_storage(url: str) -> "RDBStorage":
    optuna = optuna_package()
    # A busy SQLite file makes others wait; by default they give up after five seconds.
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        with quiet():
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except ImportError as error:  # Optuna's own names the package in its cause only
        package = error.name or getattr(error.__cause__, "name", None) or "of its database"
        raise UserError(
            f"{_without_password(url)}: needs the package {package}, which is not installed; install it, or use an "
            "SQLite storage"
        ) from None
    except Exception as error:  # of SQLAlchemy, its drivers, and Optuna's check of the tables
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise UserError(
            f"{_without_password(url)}: cannot be used as storage ({reason}); check the URL, such as sqlite:///study.db"
        ) from None


def _without_password(url: str) -> str:
    head, mark, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if mark else url


def make_sampler(specification: Specification, seed: int) -> "BaseSampler":
    samplers = optuna_package().samplers
    search = specification.search
    for package in NEEDED.get(search, ()):  # which Optuna imports when it suggests
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"search {search} needs the package {package}, which is not installed; run `pip install {package}`, or "
                "use search: tpe"
            )
    if search == "tpe":  # constant_liar: running trials count, so that parallel ones differ
        return samplers.TPESampler(seed=seed, constant_liar=True)
    kinds = {"gp": samplers.GPSampler, "qmc": samplers.QMCSampler, "cmaes": samplers.CmaEsSampler}
    return kinds.get(search, samplers.RandomSampler)(seed=seed)


def make_pruner(specification: Specification) -> "BasePruner":
    pruners = optuna_package().pruners
    kinds = {
        "none": pruners.NopPruner,
        "median": pruners.MedianPruner,
        "hyperband": pruners.HyperbandPruner,
        "successive_halving": pruners.SuccessiveHalvingPruner,
    }
    return kinds[specification.pruner]()


def suggest_value(trial: Any, name: str, axis: Axis) -> Any:
    if not isinstance(axis, Range):
        return trial.suggest_categorical(name, axis)
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return trial.suggest_int(name, axis.low, axis.high, step=axis.step or 1, log=axis.log)
    return trial.suggest_float(name, axis.low, axis.high, step=axis.step, log=axis.log)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings about Optuna's experimental classes and about choices that its samplers draw at random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

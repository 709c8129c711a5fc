"""Downloads files of a dataset or model from the Hugging Face Hub and verifies their hashes.

Input: a repository, a revision, patterns of file names (`data/train-*.parquet`), a folder. Output: the files in that folder
and their `RemoteFile` (path, size, hash). Listing the repository pins the commit, so that all files belong together; the
hash of each file (SHA-256 of large files, git's blob hash of small ones) is verified before it gets its final name.

Resuming: since 1.0, huggingface_hub discards partial files when a process ends. Files are therefore written to
`NAME.HASH.partial`, which the next call continues; the hash in the name distinguishes versions of a file. Transfers use
huggingface_hub's `http_get` (proxies, tokens, redirects, progress). `HF_ENDPOINT` selects another server or a mirror,
`HF_HUB_OFFLINE=1` disables the network.

Rejects: a missing huggingface_hub, no network, unknown repositories and files, server errors, a file that is corrupt twice.
"""

import contextlib
import fnmatch
import hashlib
import logging
import os
import posixpath
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmfast.errors import UserError
from lmfast.units import data_size

PIECE = 1 << 20  # bytes hashed together


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: path, size in bytes, and SHA-256 (large files) or git blob hash (small files)."""

    path: str
    size: int
    digest: str

    @property
    def digest_kind(self) -> str:
        return "sha256" if len(self.digest) == 64 else "git blob sha1"


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    repo: str
    commit: str
    files: list[RemoteFile]
    repo_type: str = "dataset"

    def matching(self, patterns: Sequence[str]) -> list[RemoteFile]:
        """The files that any pattern matches, sorted by path. Raises UserError if a pattern matches none."""
        found = {}
        for pattern in patterns:
            here = {file.path: file for file in self.files if fnmatch.fnmatchcase(file.path, pattern)}
            if not here:
                names = ", ".join(file.path for file in self.files[:8]) + (
                    " …" if len(self.files) > 8 else ""
                )
                raise UserError(f"{self.repo}: no file matches {pattern}; it contains {names or 'none'}")
            found |= here
        return [found[path] for path in sorted(found)]


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def list_files(
    repo: str, revision: str, way_out: str, repo_type: str = "dataset", patterns: Sequence[str] = ("*",)
) -> Listing:
    """The files of a dataset or model at a revision (branch, tag or commit). way_out: the remedy without a network.

    patterns: only their common folder is listed, because FineWeb has tens of thousands of files.
    """
    hub = _library()
    page = f"{endpoint()}/{'' if repo_type == 'model' else f'{repo_type}s/'}{repo}"
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    with _network_errors(repo, way_out):
        try:
            commit, entries = _entries(hub, repo, revision, repo_type, _common_folder(patterns))
        except GatedRepoError:
            raise UserError(
                f"{repo}: access must be requested; accept the terms at {page}, then run `hf auth login`"
            ) from None
        except RevisionNotFoundError:
            raise UserError(f"{repo}: has no revision {revision!r}; remove --revision for main") from None
        except RepositoryNotFoundError:
            raise UserError(
                f"{repo}: no such {repo_type} at {endpoint()}, or it is private; check the name, or run `hf auth login`"
            ) from None
    files = [
        RemoteFile(file.rfilename, file.lfs.size, file.lfs.sha256)
        if file.lfs
        else RemoteFile(file.rfilename, file.size, file.blob_id)
        for file in entries
    ]
    outside = [file.path for file in files if ".." in Path(file.path).parts or Path(file.path).is_absolute()]
    if outside:
        raise UserError(
            f"{repo}: its file {outside[0]} would be written outside the output folder; do not trust this repository"
        )
    return Listing(repo, commit, files, repo_type)


def _entries(hub, repo: str, revision: str, repo_type: str, folder: str) -> tuple[str, list]:
    """(commit, huggingface_hub's entries of the files in a folder, or of all files if there is no such folder)."""
    from huggingface_hub.errors import EntryNotFoundError

    api = hub.HfApi(endpoint=endpoint())
    about = {"repo_type": repo_type, "revision": revision, "timeout": 20}
    if folder:
        commit = api.repo_info(repo, expand=["sha"], **about).sha
        with contextlib.suppress(EntryNotFoundError):
            tree = api.list_repo_tree(repo, folder, recursive=True, revision=commit, repo_type=repo_type)
            return commit, [entry for entry in tree if isinstance(entry, hub.hf_api.RepoFile)]
    info = api.repo_info(repo, files_metadata=True, **about)
    return info.sha, list(info.siblings or ())


def _common_folder(patterns: Sequence[str]) -> str:
    """The deepest folder that contains all matches of the patterns; "" for the whole repository.

    >>> _common_folder(["sample/10BT/*.parquet", "sample/1?/a"])
    'sample'
    """
    places = [re.split(r"[*?[]", pattern)[0].lstrip("/").rpartition("/")[0] for pattern in patterns]
    return posixpath.commonpath(places)


def fetch(
    listing: Listing, file: RemoteFile, folder: Path, way_out: str, report: Callable[[str], None] = print
) -> Path:
    """Downloads a file to `folder`, continuing an interrupted download, and verifies its hash; returns its path."""
    target = folder / file.path
    if target.is_file() and target.stat().st_size == file.size and file_digest(target, file) == file.digest:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{file.digest[:12]}.partial")
    for last_try in (False, True):
        _transfer(listing, file, partial, way_out, report)
        found = file_digest(partial, file)
        if found == file.digest:
            os.replace(partial, target)
            return target
        partial.unlink()
        if not last_try:
            report(f"{file.path}: corrupt download ({file.digest_kind} {found[:12]}…); trying again")
    raise UserError(
        f"{listing.repo}/{file.path}: corrupt download, twice ({file.digest_kind} {found[:12]}… instead of "
        f"{file.digest[:12]}…); try again later, or set HF_ENDPOINT to another server"
    )


def _transfer(
    listing: Listing, file: RemoteFile, partial: Path, way_out: str, report: Callable[[str], None]
) -> None:
    """Downloads the rest of `partial`. Retries as long as each attempt makes progress."""
    hub = _library()
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hub.hf_hub_url(
        listing.repo, file.path, repo_type=listing.repo_type, revision=listing.commit, endpoint=endpoint()
    )
    headers = build_hf_headers() | {
        "Accept-Encoding": "identity"
    }  # byte ranges of a compressed response would be wrong
    with partial.open("r+b" if partial.exists() else "w+b") as opened:
        have = opened.seek(0, os.SEEK_END)
        if have > file.size:
            have = opened.truncate(0)
            opened.seek(0)
        if have:
            report(f"{file.path}: resuming at {data_size(have)} of {data_size(file.size)}")
        while have < file.size:
            try:
                with _network_errors(f"{listing.repo}/{file.path}", way_out, partial, file.size):
                    http_get(
                        url,
                        opened,
                        resume_size=have,
                        headers=dict(headers),
                        expected_size=file.size,
                        displayed_filename=Path(file.path).name,
                    )
                return
            except UserError:
                opened.flush()
                before, have = have, opened.seek(0, os.SEEK_END)
                if have <= before or have >= file.size:
                    raise
                report(f"{file.path}: connection lost at {data_size(have)}; resuming")


def file_digest(path: Path, like: RemoteFile) -> str:
    """SHA-256 or git blob hash of a file, whichever `like` has."""
    if like.digest_kind == "sha256":
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()


def _library():
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        raise UserError(
            "downloads need huggingface_hub, which is not installed; run `pip install huggingface_hub` (the extra `data`)"
        ) from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # we report lost connections ourselves
    if not sys.stderr.isatty():
        disable_progress_bars()
    return huggingface_hub


@contextlib.contextmanager
def _network_errors(what: str, way_out: str, partial: Path | None = None, size: int = 0):
    """Turns the errors of a transfer into UserError.

    huggingface_hub's network errors are those of requests or httpx, depending on its version, so they are recognised by
    their package or as OSError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in (
            "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "huggingface_hub",
        ):  # fmt: skip
            raise
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a disk error, not a network error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", None)
        if type(error).__name__ == "OfflineModeIsEnabled":
            reason = "HF_HUB_OFFLINE is set"
        if status is not None:
            reason = f"HTTP status {status}"
        kept = ""
        if partial is not None and partial.exists() and partial.stat().st_size:
            kept = f"; kept {data_size(partial.stat().st_size)} of {data_size(size)} for the next try"
        raise UserError(
            f"{what}: cannot be downloaded from {endpoint()} ({reason}){kept}; {way_out}"
        ) from None

"""Downloads named corpora and GPT-2's tokenizer from the Hugging Face Hub and converts them to a common format.

Input: a name in `CORPORA` and a folder. Output in the folder: the parts train, valid and test that the corpus has, as text
(.txt with `<|endoftext|>` between documents), records (.jsonl: `instruction`, `input`, `output`, or `prompt`, `chosen`,
`rejected`), unchanged Parquet (FineWeb, where text would double the disk usage) or tokenizer.json; and source.json with
repository, commit, files, their hashes and the content of each part.

Parts are those published by the authors; records without a validation part get one (corpus_forms.py). A part gets its
final name when complete, and is not downloaded again if source.json lists the same files. Downloads are kept in
`.download/` until their part is complete, so that an interrupted call resumes (hub.py). `source` is a folder with the
repository's files, for machines without a network. `download_repo` downloads any other dataset unchanged.
"""

import contextlib
import difflib
import glob
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lmfast.counted import counted
from lmfast.data import hub
from lmfast.data.corpus_forms import LEFT_OUT, MAKERS, form_suffix
from lmfast.data.finding import matching
from lmfast.errors import UserError
from lmfast.files import atomic_write, file_sha256, folder_lock, remove_new_folders_on_error
from lmfast.units import data_size

RAW = ".download"
SOURCE = "source.json"


@dataclass(frozen=True)
class Corpus:
    """repo: on the Hub. parts: {part: patterns of its files, separated by spaces}. form: a key of corpus_forms.MAKERS.
    about: description in the list of names. repo_type: dataset or model."""

    repo: str
    parts: dict[str, str]
    form: str
    about: str
    repo_type: str = "dataset"

    @property
    def patterns(self) -> list[str]:
        return " ".join(self.parts.values()).split()


CORPORA = {
    "tinystories": Corpus(
        "roneneldan/TinyStories",
        {"train": "TinyStoriesV2-GPT4-train.txt", "valid": "TinyStoriesV2-GPT4-valid.txt"},
        "text",
        "2.2 GB of short stories by GPT-4 (train, valid)",
    ),
    "owt-sample": Corpus(
        "stanford-cs336/owt-sample",
        {"train": "owt_train.txt.gz", "valid": "owt_valid.txt.gz"},
        "text",
        "12 GB of OpenWebText, the sample used in CS336 (train, valid)",
    ),
    "wikitext-2": Corpus(
        "Salesforce/wikitext",
        {
            "train": "wikitext-2-raw-v1/train-*.parquet",
            "valid": "wikitext-2-raw-v1/validation-*.parquet",
            "test": "wikitext-2-raw-v1/test-*.parquet",
        },
        "wikitext",
        "11 MB of verified Wikipedia articles (train, valid, test)",
    ),
    "wikitext-103": Corpus(
        "Salesforce/wikitext",
        {
            "train": "wikitext-103-raw-v1/train-*.parquet",
            "valid": "wikitext-103-raw-v1/validation-*.parquet",
            "test": "wikitext-103-raw-v1/test-*.parquet",
        },
        "wikitext",
        "540 MB of verified Wikipedia articles (train, valid, test)",
    ),
    "alpaca-cleaned": Corpus(
        "yahma/alpaca-cleaned",
        {"train": "alpaca_data_cleaned.json"},
        "alpaca",
        "52,000 instructions and answers (train, valid)",
    ),
    "ultrafeedback-binarized": Corpus(
        "HuggingFaceH4/ultrafeedback_binarized",
        {"train": "data/train_prefs-*.parquet", "test": "data/test_prefs-*.parquet"},
        "preferences",
        "61,000 prompts with a better and a worse answer (train, valid, test)",
    ),
    "fineweb-10bt": Corpus(
        "HuggingFaceFW/fineweb",
        {"train": "sample/10BT/*.parquet"},
        "parquet",
        "about 28 GB, 10 billion tokens of web text (Parquet; --limit-files)",
    ),
    "fineweb-edu-10bt": Corpus(
        "HuggingFaceFW/fineweb-edu",
        {"train": "sample/10BT/*.parquet"},
        "parquet",
        "about 28 GB, 10 billion tokens of educational web text (Parquet; --limit-files)",
    ),
    "gpt2-tokenizer": Corpus(
        "openai-community/gpt2",
        {"tokenizer": "vocab.json merges.txt"},
        "tokenizer",
        "GPT-2's 50,257 tokens, for prepare --tokenizer (tokenizer.json)",
        "model",
    ),
}


@dataclass(frozen=True)
class Part:
    """A complete part: its file and its number of documents, records or tokens."""

    path: Path
    records: int

    @property
    def unit(self) -> str:
        return {".jsonl": "records", ".json": "tokens"}.get(self.path.suffix, "documents")


def download(
    name: str,
    folder: Path,
    revision: str = "main",
    source: Path | None = None,
    limit_files: int | None = None,
    report: Callable[[str], None] = print,
) -> list[Part]:
    """Downloads the missing parts of a corpus; returns all parts.

    limit_files: maximum number of files, for a corpus of separate files.
    """
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the names are {', '.join(CORPORA)}"
        raise UserError(f"unknown corpus {name!r}; {hint} (for any other dataset use --repo OWNER/NAME)")
    corpus = CORPORA[name]
    keeps = corpus.form == "parquet"
    if limit_files is not None and not keeps:
        many = ", ".join(key for key, each in CORPORA.items() if each.form == "parquet")
        raise UserError(
            f"--limit-files does not apply to {name}, which is one file; use it with {many} or --repo"
        )
    if any(pattern.endswith(".parquet") for pattern in corpus.patterns):
        _check_pyarrow(name)
    recorded = _read_source(folder, name, revision)
    if (
        all(_is_complete(folder, recorded["parts"].get(key), limit_files) for key in corpus.parts)
        and source is None
    ):
        report(f"{folder}: already complete (commit {recorded['commit'][:12]})")
        return _parts(folder, recorded)
    with _exclusive_folder(folder):
        if source is not None:
            commit, fetch, files_of = _from_folder(source, corpus)
        else:
            commit, fetch, files_of = _from_hub(name, revision, folder / RAW, report)
        recorded["commit"] = commit
        for key, patterns in corpus.parts.items():
            files = files_of(patterns.split())
            if len(files) > (limit_files or len(files)):
                every, files = files, files[:limit_files]
                some, all_of_it = (data_size(sum(file.size for file in part)) for part in (files, every))
                report(f"{key}: {len(files)} of {len(every)} files, {some} of {all_of_it}")
            before = recorded["parts"].get(key)
            if _is_complete(folder, before, limit_files) and before["files"][:limit_files] == [
                asdict(file) for file in files
            ]:
                continue
            paths = [(_existing_file(folder, file) if keeps else None) or fetch(file) for file in files]
            records = MAKERS[corpus.form](key, paths, folder, source is None)
            left_out = records.pop(LEFT_OUT, 0)
            if left_out:
                report(
                    f"{key}: skipped {counted(left_out, 'record')} without an answer or with identical answers"
                )
            made = {part: folder / f"{part}{form_suffix(corpus.form)}" for part in records}
            recorded["parts"][key] = {
                "files": [asdict(file) for file in files],
                "left_out": left_out,
                "limit_files": limit_files,
                "made": {
                    part: {"file": path.name, "records": records[part], "bytes": path.stat().st_size}
                    for part, path in made.items()
                },
            }
            with atomic_write(folder / SOURCE) as temporary:
                temporary.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    return _parts(folder, recorded)


def download_repo(
    repo: str,
    patterns: list[str],
    folder: Path,
    revision: str = "main",
    limit_files: int | None = None,
    report: Callable[[str], None] = print,
) -> list[Path]:
    """Downloads the files of any dataset that match the patterns, unchanged; returns their paths.

    limit_files: maximum number of files.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UserError(f"--repo {repo}: is not the name of a dataset; write it as OWNER/NAME")
    asked = " ".join(f"--include '{pattern}'" for pattern in patterns)
    way_out = f"on a machine with a network, run `hf download --repo-type dataset {repo} {asked} --local-dir FOLDER`"
    with _exclusive_folder(folder):
        listing = hub.list_files(repo, revision, way_out, patterns=patterns)
        paths = []
        for file in listing.matching(patterns)[:limit_files]:
            target = folder / file.path
            if not (target.is_file() and hub.file_digest(target, file) == file.digest):
                fetched = hub.fetch(listing, file, folder / RAW, way_out, report)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(fetched, target)
            paths.append(target)
    return paths


def _from_hub(name: str, revision: str, raw: Path, report: Callable[[str], None]):
    """(commit, function that downloads a file, function that lists the files of patterns)."""
    corpus = CORPORA[name]
    asked = " ".join(f"--include '{pattern}'" for pattern in corpus.patterns)
    way_out = (
        f"on a machine with a network, run `hf download --repo-type {corpus.repo_type} {corpus.repo} {asked} "
        "--local-dir FOLDER`, copy "
        f"FOLDER here, then run `lmfast data download {name} --from FOLDER`"
    )
    listing = hub.list_files(corpus.repo, revision, way_out, corpus.repo_type, corpus.patterns)

    def fetch(file: hub.RemoteFile) -> Path:
        return hub.fetch(listing, file, raw, way_out, report)

    return listing.commit, fetch, listing.matching


def _from_folder(source: Path, corpus: Corpus):
    """Like `_from_hub`, for a folder with the repository's files, at its top level or under their paths."""
    if not source.is_dir():
        raise UserError(
            f"--from {source}: is not a directory; give the one passed to `hf download --local-dir`"
        )
    place: dict[str, Path] = {}

    def files_of(patterns: list[str]) -> list[hub.RemoteFile]:
        found = []
        for pattern in patterns:
            top = glob.escape(str(source))
            here = matching(f"{top}/{pattern}") or matching(f"{top}/{Path(pattern).name}")
            if not here:
                raise UserError(
                    f"--from {source}: contains no {pattern}, which is part of {corpus.repo}; download it too"
                )
            found += here
        place.update({path.name: path for path in found})
        return [hub.RemoteFile(path.name, path.stat().st_size, file_sha256(path)) for path in found]

    return str(source.absolute()), lambda file: place[file.path], files_of


@contextlib.contextmanager
def _exclusive_folder(folder: Path):
    """Locks the folder for one download at a time. Removes `.download/` on success; after a failure keeps it for the next
    attempt, unless it is empty, and removes empty folders created here."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose another --output")
    raw = folder / RAW
    busy = f"{folder}: another process is downloading to it; wait for it"
    with remove_new_folders_on_error(folder), folder_lock(raw, busy):
        try:
            yield
        except BaseException:
            if not any(path.is_file() and path.name != ".lock" for path in raw.rglob("*")):
                shutil.rmtree(raw, ignore_errors=True)
            raise
        shutil.rmtree(raw, ignore_errors=True)


def _read_source(folder: Path, name: str, revision: str) -> dict:
    """source.json if it describes this corpus and revision, otherwise a new one."""
    fresh = {"name": name, "repo": CORPORA[name].repo, "revision": revision, "commit": "", "parts": {}}
    try:
        recorded = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return fresh
    same = isinstance(recorded, dict) and all(
        recorded.get(key) == fresh[key] for key in ("name", "repo", "revision")
    )
    return recorded if same else fresh


def _is_complete(folder: Path, entry: dict | None, limit_files: int | None) -> bool:
    """Whether a part exists as recorded in source.json: with its size, and with as many files as requested."""
    if entry is None:
        return False
    limit_before = entry.get("limit_files")
    if limit_before is not None and (limit_files is None or limit_files > limit_before):
        return False
    paths = [(folder / made["file"], made["bytes"]) for made in entry["made"].values()]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _parts(folder: Path, recorded: dict) -> list[Part]:
    made = {part: facts for entry in recorded["parts"].values() for part, facts in entry["made"].items()}
    known = ("train", "valid", "test")
    order = sorted(made, key=lambda part: (known.index(part) if part in known else len(known), part))
    return [Part(folder / made[part]["file"], made[part]["records"]) for part in order]


def _existing_file(folder: Path, file: hub.RemoteFile) -> Path | None:
    """The file as an earlier call stored it, if it is complete."""
    path = folder / Path(file.path).name
    whole = path.is_file() and path.stat().st_size == file.size and hub.file_digest(path, file) == file.digest
    return path if whole else None


def _check_pyarrow(name: str) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError(
            f"corpus {name}: is Parquet, which needs pyarrow; run `pip install pyarrow` (the extra `data`)"
        ) from None

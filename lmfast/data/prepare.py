"""Writes the token files of a training and a validation part from text sources, resumable by shard.

Input: names of files, folders or globs (finding.py) and a tokenizer with `<|endoftext|>`. Output, in a folder:

    train.npy, valid.npy        ids (uint16 or uint32) of the documents in the order of the sources, each with <|endoftext|>
    train.npy.json, …           summaries as written by `tokenizer encode`, with the number of documents
    token_counts.json           documents, tokens and bytes of each part, and of each source by part; written last

The validation part is chosen by hash (encode_shards.py), or is the first tokens (first_tokens.py), or has its own sources.
The token files depend only on sources and settings, not on shards, workers or engine. Rerunning an interrupted call
resumes; a request that token_counts.json already answers is skipped. Rejects what sources.py rejects, a tokenizer without
`<|endoftext|>`, empty parts, an output folder in use.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmfast.counted import counted
from lmfast.data.encode_shards import MARK, PARTS, EncodeRequest, encode_shard
from lmfast.data.finding import find_sources
from lmfast.data.first_tokens import NOTHING, hold_out_first
from lmfast.data.sources import SHARD_BYTES, plan_shards, shard_bytes_on_disk
from lmfast.errors import UserError
from lmfast.files import atomic_write, remove_new_folders_on_error
from lmfast.sharding.jobs import LOCAL, ExecutionOptions, Job, Shard, run_jobs, work_folder
from lmfast.tokenizer.sharding import join_ids, share_tokenizer
from lmfast.tokenizer.special_tokens import DOCUMENT_END

if TYPE_CHECKING:
    from lmfast.tokenizer.bpe import Tokenizer

COUNTS = "token_counts.json"
STATS_TEXT = "stats.txt"


@dataclass(frozen=True)
class PrepareOptions:
    """Everything that the token files depend on, other than sources and tokenizer.

    field: field of records or column of Parquet. separator: document separator in text, besides <|endoftext|>.
    val_fraction: fraction of documents held out, 0 for none. seed: of their choice. val_tokens: hold out the first
    tokens instead."""

    field: str = "text"
    separator: str | None = None
    val_fraction: float = 0.01
    seed: int = 0
    val_tokens: int | None = None


def prepare_files(
    inputs: Sequence[str | Path],
    tokenizer: "Tokenizer",
    output: str | Path,
    settings: PrepareOptions = PrepareOptions(),
    val_inputs: Sequence[str | Path] = (),
    options: ExecutionOptions = LOCAL,
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[str], None] = print,
) -> dict:
    """Writes the token files to a folder; returns the content of token_counts.json.

    val_inputs: sources of the validation part; val_fraction is then not used. progress: called with (bytes done, total
    bytes) of the work that is left. report: called with one line if the folder is reused.
    """
    output = Path(output)
    if DOCUMENT_END not in tokenizer.special_tokens:
        raise UserError(
            f"the tokenizer has no special token {DOCUMENT_END}, which ends every document; add it with "
            f"--special-tokens '{DOCUMENT_END}', or train a tokenizer with it"
        )
    if not 0 <= settings.val_fraction < 1:
        raise UserError(f"--val-fraction is {settings.val_fraction}; it must be at least 0 and below 1")
    if settings.val_tokens is not None:
        if val_inputs or settings.val_tokens < 1:
            raise UserError(
                f"--val-tokens is {settings.val_tokens}; it must be at least 1, and excludes --val-input"
            )
        settings = replace(settings, val_fraction=0.0)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; choose another --output")
    folder = output.absolute() / ".shards"
    jobs = list(plan(inputs, val_inputs, tokenizer, folder, settings, options.shard_bytes or SHARD_BYTES))
    requests = [{"name": job.name} | job.facts() for job in jobs]
    if settings.val_tokens is not None:
        requests.append({"val_tokens": settings.val_tokens})
    request = hashlib.sha256(json.dumps(requests).encode()).hexdigest()
    counts = _finished(output, request)
    if counts is not None:
        report(f"{output}: reused (same sources, tokenizer and settings)")
        return counts
    with remove_new_folders_on_error(output), work_folder(folder):
        home = share_tokenizer(tokenizer, folder)
        running = run_jobs(encode_shard, jobs, options, progress, [home])
        results = {job.name: result for job, result in running}
        files = {part: [job.file(f"{part}.ids") for job in jobs] for part in PARTS}
        try:
            if settings.val_tokens is not None:
                files, results = hold_out_first(jobs, results, settings.val_tokens, tokenizer)
            counts = _counts(jobs, results)
            _check_parts(counts, settings, bool(val_inputs))
        except UserError:  # rerunning cannot help, so the completed shards are discarded
            for record in folder.glob("*.json"):
                record.unlink()
            raise
        counts |= {
            "request_sha256": request,
            "tokenizer": _tokenizer_path(tokenizer),
            "tokenizer_sha256": tokenizer.fingerprint(),
        }
        _assemble(output, files, tokenizer, counts)
    return counts


def plan(
    inputs: Sequence[str | Path],
    val_inputs: Sequence[str | Path],
    tokenizer: "Tokenizer",
    folder: Path,
    settings: PrepareOptions,
    shard_bytes: int,
) -> Iterator[Job[EncodeRequest]]:
    """The jobs, in the order of the sources; small files are combined into one job."""
    part_of_inputs = "train" if val_inputs or not settings.val_fraction else None
    fingerprint = tokenizer.fingerprint()
    seen: dict[Path, str | None] = {}
    number = 0
    ours = (folder.parent / STATS_TEXT).resolve()
    for names, part in ((inputs, part_of_inputs), (val_inputs, "valid")):
        for name in names:
            # If the output folder is also a source, the statistics of an earlier call are not training text.
            paths = [path for path in find_sources([name]) if path.resolve() != ours or path == Path(name)]
            both = [path for path in paths if seen.get(path.resolve(), part) != part]
            if both:
                raise UserError(f"{both[0]}: is in both --input and --val-input; remove it from one of them")
            paths = [path for path in paths if path.resolve() not in seen]
            seen |= {path.resolve(): part for path in paths}
            for shards in _bundle(plan_shards(paths, shard_bytes, settings.separator), shard_bytes):
                request = EncodeRequest(
                    source=str(name),
                    shards=tuple(shards),
                    part=part,
                    field=settings.field,
                    separator=settings.separator,
                    val_fraction=settings.val_fraction,
                    seed=settings.seed,
                    fingerprint=fingerprint,
                )
                reads = tuple(shard.path for shard in shards)
                yield Job(f"{number:06d}", str(folder), request, reads, _total_bytes(shards))
                number += 1


def _bundle(shards: list[Shard], shard_bytes: int) -> Iterator[list[Shard]]:
    bundle: list[Shard] = []
    for shard in shards:
        if bundle and _total_bytes([*bundle, shard]) > shard_bytes:
            yield bundle
            bundle = []
        bundle.append(shard)
    if bundle:
        yield bundle


def _total_bytes(shards: list[Shard]) -> int:
    return sum(map(shard_bytes_on_disk, shards))


def _counts(jobs: list[Job[EncodeRequest]], results: dict[str, dict]) -> dict:
    """{"parts": {part: counts}, "sources": {source: {part: counts}}, "blank_documents": number skipped}."""
    sources: dict[str, dict] = {}
    for job in jobs:
        here = sources.setdefault(job.request.source, {part: dict(NOTHING) for part in PARTS})
        for part in PARTS:
            for fact, value in results[job.name][part].items():
                here[part][fact] += value
    parts = {
        part: {fact: sum(source[part][fact] for source in sources.values()) for fact in NOTHING}
        for part in PARTS
    }
    blank = sum(results[job.name]["blank"] for job in jobs)
    return {"parts": parts, "sources": sources, "blank_documents": blank}


def _check_parts(counts: dict, settings: PrepareOptions, own_validation: bool) -> None:
    """Raises UserError if a part is empty."""
    found = {part: counts["parts"][part]["documents"] for part in PARTS}
    total = sum(found.values())
    if total == 0:
        problem = "the sources contain only whitespace; give other files"
    elif own_validation and not all(found.values()):
        part = "validation" if found["train"] else "training"
        problem = f"the sources for {part} contain only whitespace; give other files"
    elif settings.val_fraction and not own_validation and not all(found.values()):
        missing = "validation" if found["train"] else "training"
        problem = (
            f"--val-fraction {settings.val_fraction} assigns none of {counted(total, 'document')} to {missing}; use "
            "another fraction (or 0), --val-input, or --separator '\\n\\n' if documents do not end with "
            f"{DOCUMENT_END}"
        )
    else:
        return
    raise UserError(problem)


def _assemble(output: Path, files: dict[str, list[Path]], tokenizer: "Tokenizer", counts: dict) -> None:
    """Joins the id files of the shards into token files. token_counts.json is removed first and written last."""
    earlier = _read_counts(output)
    (output / COUNTS).unlink(missing_ok=True)
    for part in PARTS:
        path, side = output / f"{part}.npy", output / f"{part}.npy.json"
        found = counts["parts"][part]
        if not found["documents"]:
            if _documents(earlier, part):  # written by an earlier call, not by the user
                path.unlink(missing_ok=True)
                side.unlink(missing_ok=True)
            continue
        side.unlink(missing_ok=True)
        join_ids(files[part], path, tokenizer.dtype)
        _write_json(
            side,
            {
                "tokens": found["tokens"],
                "documents": found["documents"],
                "bytes": found["bytes"],
                "special_bytes": found["documents"] * len(MARK),
                "vocab_size": tokenizer.vocab_size,
                "dtype": tokenizer.dtype.name,
                **tokenizer.provenance(output),
            },
        )
    _write_json(output / COUNTS, counts)


def _tokenizer_path(tokenizer: "Tokenizer") -> str | None:
    return None if tokenizer.loaded_from is None else str(Path(tokenizer.loaded_from).absolute())


def _finished(output: Path, request: str) -> dict | None:
    """The content of token_counts.json if it answers this request and its token files exist."""
    counts = _read_counts(output)
    if counts.get("request_sha256") != request:
        return None
    names = [f"{part}.npy" for part in PARTS if _documents(counts, part)]
    here = all((output / name).is_file() and (output / f"{name}.json").is_file() for name in names)
    return counts if here else None


def _read_counts(output: Path) -> dict:
    """The content of token_counts.json; empty if the file is missing or not ours."""
    try:
        counts = json.loads((output / COUNTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return counts if isinstance(counts, dict) and "request_sha256" in counts else {}


def _documents(counts: dict, part: str) -> int:
    return counts.get("parts", {}).get(part, {}).get("documents", 0)


def _write_json(path: Path, facts: dict) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

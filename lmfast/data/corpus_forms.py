"""Converts the published files of corpora to text and records in a common format (docs/corpora.md).

Input: the downloaded files of one part (text, compressed or not; Parquet; JSON) and a folder. Output: `PART.txt` with
`<|endoftext|>` between documents, or `PART.jsonl` with one record per line, complete or absent. Functions return
{part: number of documents or records}, with the number of skipped records under `LEFT_OUT`. Records are held out by a hash
of their prompt. Rejects files with unexpected content, naming the record.
"""

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lmfast.data.encode_shards import is_held_out
from lmfast.data.parquet import check_columns, open_parquet, read_batches
from lmfast.data.sources import documents, plan_shards, unpacked
from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.file_kinds import file_kind
from lmfast.tokenizer.special_tokens import DOCUMENT_END

HELD_OUT = 0.02  # fraction of prompts
LEFT_OUT = "left out"
OTHER_FILE = "is it the right file?"
PIECE = 4 << 20

Maker = Callable[[str, list[Path], Path, bool], dict[str, int]]


def form_suffix(form: str) -> str:
    return {"text": ".txt", "wikitext": ".txt", "parquet": ".parquet", "tokenizer": ".json"}.get(
        form, ".jsonl"
    )


def make_text(part: str, paths: list[Path], folder: Path, movable: bool) -> dict[str, int]:
    """Concatenates text files. movable: a single uncompressed file may be moved instead of copied."""
    target = folder / f"{part}.txt"
    if movable and len(paths) == 1 and not file_kind(paths[0]).packing:
        count = _count_documents(paths[0])
        os.replace(paths[0], target)
        return {part: count}
    with atomic_write(target) as temporary:
        with temporary.open("wb") as joined:
            for path in paths:
                with unpacked(path) if file_kind(path).packing else path.open("rb") as file:
                    shutil.copyfileobj(file, joined, PIECE)
        count = _count_documents(temporary, paths[0])
    return {part: count}


def _count_documents(text: Path, named: Path | None = None) -> int:
    count = sum(
        not document.isspace() for shard in plan_shards([text]) for document in documents(shard) if document
    )
    if count < 2:
        raise UserError(
            f"{named or text}: contains no {DOCUMENT_END}, so it is not the expected text; download it again"
        )
    return count


def make_parquet(part: str, paths: list[Path], folder: Path, movable: bool) -> dict[str, int]:
    """Stores Parquet files under their own names. movable: they may be moved instead of copied."""
    counts = {}
    for path in paths:
        with open_parquet(path) as file:
            check_columns(path, file, ["text"], OTHER_FILE)
            counts[path.stem] = file.metadata.num_rows
        target = folder / path.name
        if path == target:
            continue
        if movable:
            os.replace(path, target)
        else:
            with atomic_write(target) as temporary:
                shutil.copyfile(path, temporary)
    return counts


def make_tokenizer(part: str, paths: list[Path], folder: Path, movable: bool) -> dict[str, int]:
    """Combines vocab.json and merges.txt, which lack split pattern and special token, into one tokenizer.json."""
    by_name = {path.name: path for path in paths}
    tokenizer = Tokenizer.from_files(by_name["vocab.json"], by_name["merges.txt"], [DOCUMENT_END])
    tokenizer.save(folder / f"{part}.json")
    return {part: tokenizer.vocab_size}


def make_wikitext(part: str, paths: list[Path], folder: Path, movable: bool) -> dict[str, int]:
    count = 0
    with (
        atomic_write(folder / f"{part}.txt") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as text,
    ):
        for article in articles(row["text"] for path in paths for row in parquet_rows(path, ["text"])):
            text.write(f"{article}\n{DOCUMENT_END}\n")
            count += 1
    return {part: count}


def articles(rows: Iterable[str]) -> Iterator[str]:
    """WikiText's rows → its articles, without the blank lines around them."""
    lines: list[str] = []
    before, row = "", None
    for after in itertools.chain(rows, [""]):
        if row is not None:
            if _is_title(row) and not before.strip() and not after.strip() and any(map(str.strip, lines)):
                yield "".join(lines).strip("\n")
                lines = []
            lines.append(row if row.endswith("\n") else row + "\n")
            before = row
        row = after
    if any(map(str.strip, lines)):
        yield "".join(lines).strip("\n")


def _is_title(row: str) -> bool:
    """ " = Title = ", but not " = = Section = = "."""
    text = row.strip()
    return (
        text.startswith("= ") and text.endswith(" =") and len(text) > 4 and text[2] != "=" and text[-3] != "="
    )


def make_alpaca(part: str, paths: list[Path], folder: Path, movable: bool) -> dict[str, int]:
    def records() -> Iterator[tuple[str, dict | None]]:
        for path in paths:
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{path}: not valid JSON ({error}); download it again") from None
            for number, record in enumerate(found if isinstance(found, list) else [found]):
                keys = ("instruction", "input", "output")
                fields = [record.get(key) for key in keys] if isinstance(record, dict) else []
                texts = [text for text in fields if isinstance(text, str)]
                if len(texts) != len(keys):
                    raise UserError(
                        f"{path}: record {number} lacks the strings instruction, input and output; {OTHER_FILE}"
                    )
                useful = texts[0].strip() and texts[2].strip()
                yield f"{texts[0]}\n{texts[1]}", dict(zip(keys, texts)) if useful else None

    return write_records(part, folder, records(), hold_out=True)


def make_preferences(part: str, paths: list[Path], folder: Path, movable: bool) -> dict[str, int]:
    def records() -> Iterator[tuple[str, dict | None]]:
        for path in paths:
            for row in parquet_rows(path, ["chosen", "rejected"]):
                record = preference(row["chosen"], row["rejected"])
                yield "" if record is None else json.dumps(record["prompt"]), record

    return write_records(part, folder, records(), hold_out=part == "train")


def preference(chosen: list[dict], rejected: list[dict]) -> dict | None:
    """Two conversations that differ in their last answer → prompt, chosen, rejected; None if they do not, or if an answer
    is empty."""
    if not chosen or not rejected or len(chosen) < 2 or chosen[:-1] != rejected[:-1]:
        return None
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        return None
    before = [{"role": message["role"], "content": message["content"]} for message in chosen[:-1]]
    prompt: Any = before[0]["content"] if len(before) == 1 and before[0]["role"] == "user" else before
    better, worse = chosen[-1]["content"] or "", rejected[-1]["content"] or ""
    if not better.strip() or not worse.strip() or better == worse:
        return None
    return {"prompt": prompt, "chosen": better, "rejected": worse}


def write_records(
    part: str, folder: Path, records: Iterable[tuple[str, dict | None]], hold_out: bool
) -> dict[str, int]:
    """Writes (prompt, record or None to skip it) pairs to PART.jsonl, and with hold_out held-out prompts to valid.jsonl."""
    counts = dict.fromkeys((part, "valid") if hold_out else (part,), 0)
    left_out = 0
    with contextlib.ExitStack() as stack:
        temporaries = {name: stack.enter_context(atomic_write(folder / f"{name}.jsonl")) for name in counts}
        files = {
            name: stack.enter_context(temporary.open("w", encoding="utf-8", errors="surrogatepass"))
            for name, temporary in temporaries.items()
        }
        for prompt, record in records:
            if record is None:
                left_out += 1
                continue
            held_out = hold_out and is_held_out(prompt.encode("utf-8", "surrogatepass"), HELD_OUT, 0)
            name = "valid" if held_out else part
            files[name].write(json.dumps(record, ensure_ascii=False) + "\n")
            counts[name] += 1
        if left_out > sum(counts.values()):
            raise UserError(
                f"{folder}: {left_out:,} of {left_out + sum(counts.values()):,} records of the {part} part are unusable; "
                "has the dataset changed?"
            )
    return counts | ({LEFT_OUT: left_out} if left_out else {})


def parquet_rows(path: Path, columns: list[str]) -> Iterator[dict]:
    """The rows of a Parquet file as dictionaries of the given columns."""
    with open_parquet(path) as file:
        check_columns(path, file, columns, OTHER_FILE)
        for batch in read_batches(path, file, columns):
            yield from batch.to_pylist()


MAKERS: dict[str, Maker] = {
    "text": make_text,
    "parquet": make_parquet,
    "tokenizer": make_tokenizer,
    "wikitext": make_wikitext,
    "alpaca": make_alpaca,
    "preferences": make_preferences,
}

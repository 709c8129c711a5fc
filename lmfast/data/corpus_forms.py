"""From the files that corpora are published as to the one form of text and the one form of records.

In: the fetched files of one part (text, packed or not; Parquet; JSON), and a folder. Out: there, under their final names
when complete, `PART.txt` with `<|endoftext|>` between documents, or `PART.jsonl` with a record a line; returned is how
many documents or records each holds, and under `LEFT_OUT` how many were of no use.

- text: as it is; unpacked where packed.
- parquet: files as they are, with a column `text`; each is a part of its own name.
- tokenizer: GPT-2's vocab.json and merges.txt → tokenizer.json with the same ids, which `Tokenizer.load` takes for a folder.
- wikitext (Merity et al. 2016): a row a line of the original, blank lines as empty rows. An article begins at a line
  ` = Title = ` with blank lines around it. Lines are kept as they are, ` @-@ ` included.
- alpaca (Taori et al. 2023): `instruction`, `input`, `output`. Records without an instruction or an answer are left out.
- preferences (UltraFeedback, Cui et al. 2023, as binarized for Zephyr): two conversations that differ in the last answer;
  `prompt` is a string, or messages where more than a user's one message comes before it. Pairs that are equal, have
  an empty side or do not answer the same tell nothing and are left out.

Records whose prompt's hash falls into the lowest 2 % of its range become the validation part, so that a prompt is never on
both sides. Refused: files that do not hold what they should, with the record's number.
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
from lmfast.data.parquet import batches_of, check_columns, open_parquet
from lmfast.data.sources import documents, plan_shards, unpacked
from lmfast.errors import UserError
from lmfast.files import written_beside
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.file_kinds import file_kind
from lmfast.tokenizer.special_tokens import DOCUMENT_END

HELD_OUT = 0.02  # of prompts
LEFT_OUT = "left out"
OTHER_FILE = "is it another file?"
PIECE = 4 << 20

Maker = Callable[[str, list[Path], Path, bool], dict[str, int]]


def suffix_of(form: str) -> str:
    return {"text": ".txt", "wikitext": ".txt", "parquet": ".parquet", "tokenizer": ".json"}.get(
        form, ".jsonl"
    )


def make_text(part: str, paths: list[Path], folder: Path, movable: bool) -> dict[str, int]:
    """Text files, end to end. movable: they are nobody's, and one that is not packed may become the part itself."""
    target = folder / f"{part}.txt"
    if movable and len(paths) == 1 and not file_kind(paths[0]).packing:
        count = _count_documents(paths[0])
        os.replace(paths[0], target)
        return {part: count}
    with written_beside(target) as beside:
        with beside.open("wb") as joined:
            for path in paths:
                with unpacked(path) if file_kind(path).packing else path.open("rb") as file:
                    shutil.copyfileobj(file, joined, PIECE)
        count = _count_documents(beside, paths[0])
    return {part: count}


def _count_documents(text: Path, named: Path | None = None) -> int:
    count = sum(
        not document.isspace() for shard in plan_shards([text]) for document in documents(shard) if document
    )
    if count < 2:
        raise UserError(
            f"{named or text}: holds no {DOCUMENT_END}, so it is not the text that it should be; fetch it again"
        )
    return count


def make_parquet(part: str, paths: list[Path], folder: Path, movable: bool) -> dict[str, int]:
    """Parquet files under their own names. movable: they are nobody's, and need not be copied."""
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
            with written_beside(target) as beside:
                shutil.copyfile(path, beside)
    return counts


def make_tokenizer(part: str, paths: list[Path], folder: Path, movable: bool) -> dict[str, int]:
    """vocab.json and merges.txt, which name neither the split pattern nor the special token, as one tokenizer.json."""
    by_name = {path.name: path for path in paths}
    tokenizer = Tokenizer.from_files(by_name["vocab.json"], by_name["merges.txt"], [DOCUMENT_END])
    tokenizer.save(folder / f"{part}.json")
    return {part: tokenizer.vocab_size}


def make_wikitext(part: str, paths: list[Path], folder: Path, movable: bool) -> dict[str, int]:
    count = 0
    with (
        written_beside(folder / f"{part}.txt") as beside,
        beside.open("w", encoding="utf-8", newline="") as text,
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
    """ " = Title = " and no " = = Section = = "."""
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
                raise UserError(f"{path}: is no JSON ({error}); fetch it again") from None
            for number, record in enumerate(found if isinstance(found, list) else [found]):
                keys = ("instruction", "input", "output")
                fields = [record.get(key) for key in keys] if isinstance(record, dict) else []
                texts = [text for text in fields if isinstance(text, str)]
                if len(texts) != len(keys):
                    raise UserError(
                        f"{path}: record {number} has not the strings instruction, input and output; is it another file?"
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
    """Two conversations that differ in their last answer → prompt, chosen, rejected; None where they do not, and where an
    answer is empty."""
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
    """(prompt, record; None for one that is of no use) → PART.jsonl, and valid.jsonl of the held-out prompts where that is
    asked."""
    counts = dict.fromkeys((part, "valid") if hold_out else (part,), 0)
    left_out = 0
    with contextlib.ExitStack() as stack:
        besides = {name: stack.enter_context(written_beside(folder / f"{name}.jsonl")) for name in counts}
        files = {
            name: stack.enter_context(beside.open("w", encoding="utf-8", errors="surrogatepass"))
            for name, beside in besides.items()
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
                f"{folder}: of the {part} part, {left_out:,} of {left_out + sum(counts.values()):,} records are of no use; "
                "is the data set another than it was?"
            )
    return counts | ({LEFT_OUT: left_out} if left_out else {})


def parquet_rows(path: Path, columns: list[str]) -> Iterator[dict]:
    """The rows of a Parquet file, as dictionaries of the named columns."""
    with open_parquet(path) as file:
        check_columns(path, file, columns, OTHER_FILE)
        for batch in batches_of(path, file, columns):
            yield from batch.to_pylist()


MAKERS: dict[str, Maker] = {
    "text": make_text,
    "parquet": make_parquet,
    "tokenizer": make_tokenizer,
    "wikitext": make_wikitext,
    "alpaca": make_alpaca,
    "preferences": make_preferences,
}

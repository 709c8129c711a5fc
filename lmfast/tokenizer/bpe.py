"""`Tokenizer`: a vocabulary, its merges and special tokens, for encoding and decoding.

In: text as `str` or bytes, or files of any bytes; ids as lists or integer arrays. Out: ids (lists, or uint32 arrays
from the methods named array), text, bytes, files. All bytes round-trip. A `str` is encoded as UTF-8; a lone surrogate
becomes the three bytes that `surrogatepass` gives it. `decode_bytes` returns those bytes, and `decode`, which replaces
invalid UTF-8 by U+FFFD, returns three of these.

Ids of tokenizers trained here: bytes 0-255, merges in the order they were learnt, special tokens last. A tokenizer
made elsewhere keeps its ids. `vocab_size` is one more than the highest id.

Special tokens in text are recognised, longest first, unless a call says otherwise: `allowed_special` is "all",
"none" or a set of those to recognise, the others being plain text; `disallowed_special` ("all", meaning all that are
not allowed, or a collection) raise a `UserError` if the text contains them.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import hashlib
import json
import operator
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmfast.errors import UserError
from lmfast.files import atomic_write, check_not_input, check_writable
from lmfast.tokenizer import formats
from lmfast.tokenizer.allowed_special import (
    AllowedSpecial,
    DisallowedSpecial,
    allowed_texts,
    reject_disallowed,
)
from lmfast.tokenizer.compile_cost import Allowance
from lmfast.tokenizer.encode_summary import EncodeSummary
from lmfast.tokenizer.parts import TokenizerParts, absent_bytes, checked_ids
from lmfast.tokenizer.patterns import Pattern, get_pattern
from lmfast.tokenizer.plain_decoding import join_tokens
from lmfast.tokenizer.plain_encoding import PlainEncoder
from lmfast.tokenizer.plain_text import Boundaries
from lmfast.tokenizer.special_tokens import check_special_tokens, place_special_tokens
from lmfast.tokenizer.streaming import safe_pieces
from lmfast.tokenizer.text_file import TextFile
from lmfast.tokenizer.text_rules import NO_RULES, TextRules

if TYPE_CHECKING:
    import numpy as np

    from lmfast.tokenizer.decoding import Decoder
    from lmfast.tokenizer.encoding import Encoder
    from lmfast.tokenizer.sharding import Engine
    from lmfast.tokenizer.training import TrainingSummary

FEW_IDS = 256  # up to this many, joining tokens in Python is faster than a call of compiled code
# What plain Python encodes (bytes) and decodes (ids) faster than compiled code is compiled, or loaded.
FIRST_BYTES, LATER_BYTES = 4 << 20, 1 << 19
FIRST_IDS, LATER_IDS = 20_000_000, 5_000_000


class Tokenizer:
    """Byte-level BPE with special tokens; the top of this file defines ids, text and special tokens.

    `training` is the summary of `train_bpe` if it made this tokenizer, else None.
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | Mapping[str, int] | None = None,
        pattern: str | Pattern = "gpt2",
        ignore_merges: bool = False,
        rules: TextRules = NO_RULES,
    ):
        """vocab: id → bytes, with all 256 single bytes. merges: pairs in order of priority.

        special_tokens: texts, which keep their id if the vocabulary holds their bytes and otherwise get the next free
        id; or {text: id}. pattern: a name, an expression or a Pattern. ignore_merges: a pretoken that is a token
        gets its id without merging; rules: what is done to text before the pattern (text_rules.py): both as in Hugging
        Face's files.
        Raises UserError if these are inconsistent.
        """
        self.pattern = pattern if isinstance(pattern, Pattern) else get_pattern(pattern)
        self.vocab: dict[int, bytes] = dict(vocab)  # sorted by id
        self.merges: list[tuple[bytes, bytes]] = [(bytes(a), bytes(b)) for a, b in merges]
        self.special_tokens: dict[str, int] = self._place_special(special_tokens)
        self._ids_by_token = checked_ids(self.vocab, self.merges, self.special_tokens.values())
        self._looks_up_whole = ignore_merges
        self.rules = replace(rules, absent=absent_bytes(self._ids_by_token))
        self._ruled_text = self.rules.ruled_text(self.special_tokens)

    def with_ids(self, vocab: Mapping[int, bytes], special_tokens: Mapping[str, int]) -> Tokenizer:
        """A tokenizer with the same merges, pattern, rules and lookup, but other ids or special tokens."""
        return Tokenizer(vocab, self.merges, special_tokens, self.pattern, self._looks_up_whole, self.rules)

    def _place_special(self, special_tokens: Sequence[str] | Mapping[str, int] | None) -> dict[str, int]:
        wanted = check_special_tokens(special_tokens)
        ids_by_token = {token: i for i, token in self.vocab.items()}
        known = {
            text: ids_by_token[text.encode()]
            for text, token in wanted.items()
            if token is None and text.encode() in ids_by_token
        }
        placed = place_special_tokens(wanted, known, self.vocab)
        for text, token in placed.items():
            if self.vocab.setdefault(token, text.encode()) != text.encode():
                raise UserError(
                    f"special token {text!r}: id {token} is {self.vocab[token]!r}; give it a free id"
                )
        self.vocab = dict(sorted(self.vocab.items()))
        return placed

    # Properties ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def ignore_merges(self) -> bool:
        """Whether a pretoken that is a token gets its id without merging; False if that changes nothing."""
        size = sum(map(len, self._ids_by_token))
        return self._looks_up_whole and self._encoder_for(size).looks_up_whole

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self.vocab) + 1

    @property
    def dtype(self) -> np.dtype:
        """The dtype of token files: uint16 if every id fits, else uint32."""
        import numpy as np

        return np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of an id; for a special token, its text as UTF-8."""
        try:
            return self.vocab[operator.index(token)]
        except KeyError:
            raise UserError(f"id {token} is outside the vocabulary of {self.vocab_size}") from None
        except TypeError:
            raise UserError(f"id {' '.join(repr(token).split())[:40]} is not an integer") from None

    def token_lengths(self) -> np.ndarray:
        """The number of bytes of each id, int64 (vocab_size,); a special token counts its text, an unused id 0."""
        import numpy as np

        lengths = np.zeros(self.vocab_size, np.int64)
        for token, text in self.vocab.items():
            lengths[token] = len(text)
        return lengths

    def fingerprint(self) -> str:
        """sha256 of everything that determines ids: equal fingerprints give equal ids for all text."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:  # 30 ms for 32,000 entries: a tenth of the time of encoding 200 MB
        digest = hashlib.sha256()
        ids = self._ids_by_token
        facts = (
            self.pattern.regex,
            list(self.vocab.items()),
            [(ids[a], ids[b], ids[a + b]) for a, b in self.merges],
            sorted(self.special_tokens.items()),
            *(["ignore_merges"] if self.ignore_merges else []),
            *(
                [(self.rules.nfc, self.rules.prefix_space, sorted(self.rules.flags.items()))]
                if self._ruled_text
                else []
            ),
        )
        for fact in facts:
            digest.update(repr(fact).encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()

    def __repr__(self) -> str:
        return (
            f"Tokenizer(vocab_size={self.vocab_size}, merges={len(self.merges)}, pattern={self.pattern.name!r}, "
            f"special_tokens={list(self.special_tokens)})"
        )

    # Encoding -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _encoder(self) -> Encoder:
        from lmfast.tokenizer.encoding import Encoder

        return Encoder(
            self.vocab, self.merges, self.special_tokens, self.pattern, self._looks_up_whole, self.rules
        )

    @functools.cached_property
    def _plain_encoder(self) -> PlainEncoder:
        return PlainEncoder(
            self._ids_by_token,
            self.merges,
            self.special_tokens,
            self.pattern,
            self._looks_up_whole,
            self.rules,
        )

    @functools.cached_property
    def _plain_bytes(self) -> Allowance:
        return Allowance(f"encode_kernels.encode_{self.pattern.name}", FIRST_BYTES, LATER_BYTES)

    def encode(
        self,
        text: str | bytes,
        allowed_special: AllowedSpecial = "all",
        disallowed_special: DisallowedSpecial = (),
    ) -> list[int]:
        """The ids of a text."""
        ids = self._encode(text, allowed_special, disallowed_special)
        return ids if isinstance(ids, list) else ids.tolist()

    def encode_array(
        self,
        text: str | bytes | bytearray | memoryview | np.ndarray,
        allowed_special: AllowedSpecial = "all",
        disallowed_special: DisallowedSpecial = (),
    ) -> np.ndarray:
        """The ids of a text, uint32 (num_ids,). A text given as an array is one-dimensional uint8: its bytes."""
        import numpy as np

        return np.asarray(self._encode(text, allowed_special, disallowed_special), np.uint32)

    def _encode(
        self,
        text: str | bytes | bytearray | memoryview | np.ndarray,
        allowed_special: AllowedSpecial,
        disallowed_special: DisallowedSpecial,
    ) -> list[int] | np.ndarray:
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else _as_bytes(text)
        if disallowed_special:
            allowed = allowed_texts(self.special_tokens, allowed_special)
            reject_disallowed(bytes(data), self.special_tokens, allowed, disallowed_special)
        if allowed_special not in ("all", "none"):
            allowed_special = allowed_texts(self.special_tokens, allowed_special)
        return self._encoder_for(len(data)).encode(data, allowed_special)

    def _encoder_for(self, size: int) -> PlainEncoder | Encoder:
        """The faster encoder for this many more bytes, including what it must load first."""
        return self._plain_encoder if self._plain_bytes.covers(size) else self._encoder

    def load_compiled(self) -> None:
        """Loads the compiled encoder now, in a second, or ten on its first use on this machine, and not when plain Python
        would have taken as long: for servers."""
        self._encoder.encode(b"a", "all")
        self._plain_bytes.end()

    def encode_batch(
        self, texts: Sequence[str | bytes], allowed_special: AllowedSpecial = "all"
    ) -> list[np.ndarray]:
        """The ids of each text, uint32."""
        if isinstance(texts, str | bytes):
            raise UserError("texts: a single string would be read letter by letter; give a list of texts")
        return [self.encode_array(text, allowed_special) for text in texts]

    def encode_iterable(
        self, chunks: Iterable[str | bytes], allowed_special: AllowedSpecial = "all"
    ) -> Iterator[int]:
        """The ids of the concatenated chunks, wherever the text is cut. Memory is constant."""
        for ids in self.encode_arrays(chunks, allowed_special):
            yield from ids.tolist()

    def encode_arrays(
        self, chunks: Iterable[str | bytes], allowed_special: AllowedSpecial = "all"
    ) -> Iterator[np.ndarray]:
        """`encode_iterable` in arrays, each with the ids of about 64 KiB of text."""
        for piece in safe_pieces(chunks, self.boundaries(allowed_special), self.pattern):
            yield self.encode_array(piece, allowed_special)

    def boundaries(self, allowed_special: AllowedSpecial = "all") -> Boundaries:
        """Where special tokens and `rules` allow and forbid cuts. Those that are plain text in a call allow none."""
        allowed = allowed_texts(self.special_tokens, allowed_special)
        texts = {text: token for text, token in self.special_tokens.items() if text in allowed}
        return self.rules.ruled_text(texts) or Boundaries([text.encode() for text in texts])

    def encode_file(
        self,
        src: str | Path,
        dst: str | Path,
        num_workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        tokenizer_path: str | Path | None = None,
        engine: Engine | None = None,
    ) -> EncodeSummary:
        """Encodes a file into a 1-D .npy of `dtype` and writes a summary to `dst`.json, in constant memory.

        tokenizer_path: where this tokenizer is saved, for the summary; by default where it was loaded from. progress:
        called with (bytes done, total bytes). engine: processes or a cluster to run on (sharding.py), instead of
        this process's threads; the file is the same.
        """
        check_writable(dst)
        for path in (dst, f"{dst}.json"):
            check_not_input(path, src)
        summary_path = Path(f"{dst}.json")
        with atomic_write(dst) as complete:
            if engine is not None:
                summary = engine.encode_file(self, src, complete, progress)
            else:
                summary = self._encode_locally(src, complete, num_workers, progress)
            if not summary.bytes:
                raise UserError(f"{src}: is empty; name a text to encode")
            summary_path.unlink(missing_ok=True)  # it describes the file that is about to be replaced
        facts = {
            "source": str(Path(src).absolute()),
            "tokens": summary.tokens,
            "bytes": summary.bytes,
            "special_bytes": summary.special_bytes,
            "vocab_size": self.vocab_size,
            "dtype": self.dtype.name,
            **self.provenance(Path(dst).parent, tokenizer_path),
        }
        with atomic_write(summary_path) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        return summary

    def _encode_locally(
        self,
        src: str | Path,
        dst: Path,
        num_workers: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> EncodeSummary:
        text = TextFile(src)
        if self._plain_bytes.covers(len(text)):
            return self._plain_encoder.encode_file(text, dst, self.dtype, progress)
        from lmfast.tokenizer.encoding import encode_file

        return encode_file(self._encoder, src, dst, self.dtype, num_workers, progress)

    def provenance(self, folder: Path, saved_at: str | Path | None = None) -> dict[str, str | None]:
        """The entries of a token file's summary that identify this tokenizer: its path, its path relative to `folder`
        (so that both can be moved together) and its fingerprint."""
        path = saved_at or self.loaded_from
        entries = {"tokenizer": None if path is None else os.path.abspath(path)}
        if path is not None:
            with contextlib.suppress(ValueError):  # on another drive (Windows)
                entries["tokenizer_relative"] = os.path.relpath(path, folder)
        return entries | {"tokenizer_sha256": self.fingerprint()}

    # Decoding -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _decoder(self) -> Decoder:
        from lmfast.tokenizer.decoding import Decoder

        return Decoder(self.vocab)

    @functools.cached_property
    def _plain_ids(self) -> Allowance:
        return Allowance("decoding._gather", FIRST_IDS, LATER_IDS)

    def _decode_buffer(self, ids: Iterable[int] | np.ndarray) -> bytes | np.ndarray:
        if isinstance(ids, list):
            plain = ids
        else:
            import numpy as np

            if isinstance(ids, np.ndarray):
                given: np.ndarray = ids  # pyright: ignore[reportUnknownVariableType]  # isinstance says nothing of its items
                if given.ndim != 1 or (given.dtype.kind not in "iu" and given.size):
                    raise UserError(
                        f"ids: an array of shape {given.shape} and dtype {given.dtype}; give a one-dimensional integer "
                        "array"
                    )
                if len(given) > FEW_IDS and not self._plain_ids.covers(len(given)):
                    return self._decoder.decode(given)
                plain: list[int] = given.tolist()
            else:
                plain = list(ids)
        if len(plain) > FEW_IDS and not self._plain_ids.covers(len(plain)):
            # array("Q") takes 5 ns per id, np.array 16; what array("Q") does not accept is handled below.
            with contextlib.suppress(OverflowError, TypeError):
                return self._decoder.decode(array("Q", plain))
        return join_tokens(plain, self.vocab, self.vocab_size)

    def decode_bytes(self, ids: Iterable[int] | np.ndarray) -> bytes:
        """The bytes of all ids. Raises UserError for an id outside the vocabulary."""
        return bytes(self._decode_buffer(ids))

    def decode(self, ids: Iterable[int] | np.ndarray, errors: str = "replace") -> str:
        """The text of all ids; invalid UTF-8 becomes U+FFFD (or is handled as `errors` says)."""
        return str(memoryview(self._decode_buffer(ids)), "utf-8", errors)

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yields text as soon as it is complete: a character split over several tokens is yielded with its last byte.

        The joined pieces equal `decode` of all ids.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in ids:
            text = decoder.decode(self.token_bytes(token))
            if text:
                yield text
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    # Files --------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: omits the tables for encoding and decoding, which the copy rebuilds when needed."""
        rebuilt = ("_encoder", "_plain_encoder", "_plain_bytes", "_decoder", "_plain_ids")
        return {name: value for name, value in vars(self).items() if name not in rebuilt}

    loaded_from: Path | None = None
    """where it was last saved or loaded; None if never"""
    training: TrainingSummary | None = None
    """the summary of `train_bpe`, if it made this tokenizer"""

    def save(self, path: str | Path) -> None:
        """Writes tokenizer.json, vocab.json and merges.txt to a folder, ranks to NAME.tiktoken, or a NAME.json.

        With `ignore_merges`, `rules` or several splits a folder gets only tokenizer.json, because the other two cannot
        represent them. A pattern that would split differently in a tokenizer.json (dialects.py) is saved in a file of its
        own instead, which only lmfast reads, and a warning is logged; NAME.json and `ignore_merges` or `rules` reject
        such a pattern.
        """
        path = Path(path)
        parts = TokenizerParts(
            self.vocab, self.merges, self.special_tokens, ignore_merges=self.ignore_merges, rules=self.rules
        )
        formats.write(parts, path, self.pattern)
        if path.suffix not in (".json", ".tiktoken"):
            self.loaded_from = path

    @classmethod
    def load(
        cls,
        path: str | Path,
        pattern: str | None = None,
        special_tokens: Sequence[str] | Mapping[str, int | None] | None = None,
    ) -> Tokenizer:
        """Loads what `save` wrote, or a file in GPT-2's, Hugging Face's or tiktoken's format (see formats.py).

        pattern and special_tokens: for formats that do not contain them; .tiktoken requires the pattern. Special tokens
        without an id (a list, or None) get the id published for this vocabulary if special_tokens.py knows it, else the
        next free id.
        """
        path = Path(path)
        texts = None if special_tokens is None else list(check_special_tokens(special_tokens))
        parts = formats.read(path, texts, pattern)
        tokenizer = cls._from_parts(parts, special_tokens, path)
        tokenizer.loaded_from = path
        return tokenizer

    @classmethod
    def from_files(
        cls,
        vocab: str | Path,
        merges: str | Path,
        special_tokens: Sequence[str] | Mapping[str, int | None] | None = None,
        pattern: str = "gpt2",
    ) -> Tokenizer:
        """Loads vocab.json and merges.txt. By default the entries that are neither bytes nor merges are special."""
        texts = None if special_tokens is None else list(check_special_tokens(special_tokens))
        parts = formats.read_vocab_and_merges(Path(vocab), Path(merges), texts)
        parts.pattern = pattern
        tokenizer = cls._from_parts(parts, special_tokens, Path(vocab))
        tokenizer.loaded_from = Path(vocab)
        return tokenizer

    @classmethod
    def _from_parts(
        cls,
        parts: TokenizerParts,
        special_tokens: Sequence[str] | Mapping[str, int | None] | None,
        path: Path,
    ) -> Tokenizer:
        try:
            placed = place_special_tokens(
                check_special_tokens(special_tokens), parts.special_tokens, parts.vocab, parts.published
            )
            return cls(
                parts.vocab, parts.merges, placed, parts.pattern or "gpt2", parts.ignore_merges, parts.rules
            )
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def _as_bytes(data: bytes | bytearray | memoryview | np.ndarray) -> bytes | bytearray | np.ndarray:
    """The contiguous bytes; other dtypes are rejected, because their values might not fit a byte."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, memoryview):
        return data.tobytes()
    import numpy as np

    if not isinstance(data, np.ndarray):
        return data
    if data.ndim != 1 or data.dtype != np.uint8:
        raise UserError(
            f"text: an array of shape {data.shape} and dtype {data.dtype}; give bytes, or a one-dimensional uint8 array"
        )
    return np.ascontiguousarray(data)

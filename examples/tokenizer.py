"""Train a tokenizer on a text file, encode and decode, and save it. Takes a second once the first run has compiled it."""

from pathlib import Path

from lmfast import Tokenizer, train_bpe

text = Path("fables.txt")
text.write_text(
    "The fox saw the grapes. The grapes hung high.<|endoftext|>The crow had a piece of cheese.\n" * 50
)

tok = train_bpe(text, vocab_size=300, special_tokens=["<|endoftext|>"])
ids = tok.encode("The fox had the cheese.<|endoftext|>")
print(f"{len(ids)} ids: {ids}")
print([tok.decode_bytes([i]) for i in ids])
assert tok.decode(ids) == "The fox had the cheese.<|endoftext|>"

tok.save("fables_tokenizer")  # tokenizer.json, vocab.json, merges.txt
assert Tokenizer.load("fables_tokenizer").encode("The fox") == tok.encode("The fox")

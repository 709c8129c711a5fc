"""Whether tasks can be evaluated with a tokenizer. Does not import lm_eval."""

from lmfast.data.chat import BOS, has_chat_tokens
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer


def check_tokenizer(tokenizer: Tokenizer, chat: bool = False) -> None:
    """Raises UserError without <|endoftext|>, and for a chat without the chat tokens."""
    if BOS not in tokenizer.special_tokens:
        raise UserError(
            f"the run's tokenizer has no {BOS}, with which tasks begin texts; train with one that has it"
        )
    if chat and not has_chat_tokens(tokenizer):
        raise UserError(
            "the run is not a chat model; remove --apply-chat-template, or use a run of lmfast sft"
        )

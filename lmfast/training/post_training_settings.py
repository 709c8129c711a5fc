"""Settings of supervised fine-tuning (`lmfast sft`) and preference training (`lmfast dpo`): those of training, with their
own data and loss. No torch here.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from lmfast.settings import DataSettings, OptimizerSettings, Option, TrainSettings


@dataclass(frozen=True)
class ConversationData(DataSettings):
    """What is read."""

    train_data_path: Annotated[str | None, Option(aliases=("train_data",))] = None
    """.json or .jsonl of instructions (Alpaca), messages, or ShareGPT conversations"""
    val_data_path: Annotated[str | None, Option(aliases=("val_data",))] = None
    """records to evaluate on; instead of held_out"""
    tokenizer: str | None = None
    """not used: the tokenizer is that of init_from, with the chat's special tokens"""
    document_mask: bool = False
    """not used: conversations in a row are always kept apart"""
    format: Literal["auto", "alpaca", "messages", "sharegpt"] = "auto"
    """form of the records; found out for each record when not set"""
    skip_bad: bool = False
    """leave bad records out and count them, instead of stopping at the first"""
    held_out: int | None = None
    """prompts, picked by hash, that are evaluated on and never trained on; when not set 100, or a tenth if less"""
    packing: bool = True
    """several conversations in a row, kept apart; --no-packing gives each a row of its own"""
    epochs: float = 3.0
    """times the data is seen, where neither max_iters nor total_tokens nor max_minutes says how long to train"""


@dataclass(frozen=True)
class SFTSettings(TrainSettings):
    """Teach a base model to answer: supervised fine-tuning on conversations."""

    data: ConversationData = field(default_factory=ConversationData)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(batch_size=8, learning_rate=3e-4, warmup_iters=10)
    )


@dataclass(frozen=True)
class PreferenceData(DataSettings):
    """What is read."""

    train_data_path: Annotated[str | None, Option(aliases=("train_data",))] = None
    """.json or .jsonl of preferences: prompt, chosen, rejected, as strings or messages"""
    val_data_path: Annotated[str | None, Option(aliases=("val_data",))] = None
    """preferences to evaluate on; instead of held_out"""
    tokenizer: str | None = None
    """not used: the tokenizer is that of init_from"""
    document_mask: bool = False
    """not used: each answer has a row of its own"""
    skip_bad: bool = False
    """leave bad records out and count them, instead of stopping at the first"""
    held_out: int | None = None
    """prompts, picked by hash as lmfast.sft does, that are evaluated on and never trained on; when not set 100, or a tenth
    if less"""
    epochs: float = 1.0
    """times the data is seen, where neither max_iters nor total_tokens nor max_minutes says how long to train"""


@dataclass(frozen=True)
class PreferenceLoss:
    """Direct preference optimisation."""

    beta: float = 0.1
    """how strongly the model is held to the reference; larger is stronger"""
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    """sigmoid (DPO), or the squared distance of the margin to 1 / (2 beta) (IPO)"""
    label_smoothing: float = 0.0
    """sigmoid: probability that a preference is the wrong way round (conservative DPO)"""
    length_normalised: bool = False
    """log-probabilities a token instead of sums over the answer"""
    reference_cache: str | None = None
    """file of the reference model's log-probabilities, to be shared between runs; RUN/reference.npz when not set"""


@dataclass(frozen=True)
class DPOSettings(TrainSettings):
    """Teach a model that talks which of two answers is better: direct preference optimisation."""

    data: PreferenceData = field(default_factory=PreferenceData)
    preference: PreferenceLoss = field(default_factory=PreferenceLoss)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            batch_size=8, learning_rate=1e-5, warmup_iters=10, weight_decay=0.0
        )
    )

"""Settings of `lmfast sft` and `lmfast dpo`: the training settings with their own data and loss. Does not import torch."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from lmfast.settings import DataSettings, OptimizerSettings, Option, TrainSettings


@dataclass(frozen=True)
class ConversationData(DataSettings):
    """Conversations to train and evaluate on."""

    train_data_path: Annotated[str | None, Option(aliases=("train_data",))] = None
    """.json or .jsonl file of instructions (Alpaca), messages or ShareGPT conversations"""
    val_data_path: Annotated[str | None, Option(aliases=("val_data",))] = None
    """records to evaluate on, instead of held_out"""
    tokenizer: str | None = None
    """not used: sft takes the tokenizer of init_from and adds the chat tokens"""
    document_mask: bool = False
    """not used: sft always masks attention between conversations"""
    format: Literal["auto", "alpaca", "messages", "sharegpt"] = "auto"
    """format of the records; auto detects it per record"""
    skip_bad: bool = False
    """skip and count bad records instead of stopping at the first"""
    held_out: int | None = None
    """number of prompts, chosen by hash, held out for evaluation; defaults to 100, or a tenth if that is less"""
    packing: bool = True
    """pack several conversations into one row, without attention between them"""
    epochs: float = 3.0
    """passes over the data, if none of max_iters, total_tokens and max_minutes is set"""


@dataclass(frozen=True)
class SFTSettings(TrainSettings):
    """Fine-tune a base model on instructions or conversations (SFT)."""

    data: ConversationData = field(default_factory=ConversationData)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(batch_size=8, learning_rate=3e-4, warmup_iters=10)
    )


@dataclass(frozen=True)
class PreferenceData(DataSettings):
    """Preferences to train and evaluate on."""

    train_data_path: Annotated[str | None, Option(aliases=("train_data",))] = None
    """.json or .jsonl file of preferences: prompt, chosen and rejected, as strings or messages"""
    val_data_path: Annotated[str | None, Option(aliases=("val_data",))] = None
    """preferences to evaluate on, instead of held_out"""
    tokenizer: str | None = None
    """not used: dpo takes the tokenizer of init_from"""
    document_mask: bool = False
    """not used: dpo puts each answer in its own row"""
    skip_bad: bool = False
    """skip and count bad records instead of stopping at the first"""
    held_out: int | None = None
    """number of prompts, chosen by hash as in sft, held out for evaluation; defaults to 100, or a tenth if that is less"""
    epochs: float = 1.0
    """passes over the data, if none of max_iters, total_tokens and max_minutes is set"""


@dataclass(frozen=True)
class PreferenceLoss:
    """Direct preference optimisation."""

    beta: float = 0.1
    """strength of the KL constraint towards the reference model"""
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    """sigmoid (DPO), or the squared distance of the margin from 1 / (2 beta) (IPO)"""
    label_smoothing: float = 0.0
    """sigmoid: probability that a preference label is wrong (conservative DPO)"""
    length_normalised: bool = False
    """use mean instead of summed log-probabilities of the answer's tokens"""
    reference_cache: str | None = None
    """file for the reference log-probabilities, which several runs can share; defaults to RUN/reference.npz"""


@dataclass(frozen=True)
class DPOSettings(TrainSettings):
    """Train a chat model on preferences: direct preference optimisation (DPO)."""

    data: PreferenceData = field(default_factory=PreferenceData)
    preference: PreferenceLoss = field(default_factory=PreferenceLoss)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            batch_size=8, learning_rate=1e-5, warmup_iters=10, weight_decay=0.0
        )
    )

"""Resolves settings: fills in derived values and rejects invalid ones by name.

Input: parsed settings and the vocabulary size of the tokenizer. Output: complete settings for config.yaml and the loop;
resolving them again changes nothing. Does not import torch.
"""

import math
from dataclasses import replace
from typing import TypeVar

from lmfast.data.batch_ramp import BatchRamp
from lmfast.errors import UserError
from lmfast.model.config import ModelConfig
from lmfast.settings import OptimizerSettings, TrainSettings, selected_precision

T = TypeVar("T", bound=TrainSettings)


def batch_ramp(opt: OptimizerSettings) -> BatchRamp:
    """The number of forward passes of each step. Raises UserError for invalid settings."""
    for name in ("batch_size", "grad_accumulation", "batch_ramp_start"):
        if getattr(opt, name) < 1:
            raise UserError(f"{name} is {getattr(opt, name)}; it must be at least 1")
    if opt.batch_ramp_iters < 0:
        raise UserError(f"batch_ramp_iters is {opt.batch_ramp_iters}; it must be at least 0")
    if opt.batch_ramp_iters and opt.batch_ramp_start >= opt.grad_accumulation:
        raise UserError(
            f"batch_ramp_start {opt.batch_ramp_start} is not below grad_accumulation {opt.grad_accumulation}; "
            "raise grad_accumulation, or set batch_ramp_iters 0"
        )
    if opt.batch_ramp_start > 1 and not opt.batch_ramp_iters:
        raise UserError(
            f"batch_ramp_start is {opt.batch_ramp_start}, but there is no batch ramp; set batch_ramp_iters, or remove it"
        )
    return BatchRamp(opt.batch_size, opt.grad_accumulation, opt.batch_ramp_start, opt.batch_ramp_iters)


def default_decay_iters(opt: OptimizerSettings) -> int | None:
    """The default of lr_decay_iters: the last step, or the end of the warmup if that is later."""
    return None if opt.max_iters is None else max(opt.max_iters, opt.warmup_iters)


def resolve(settings: T, vocab_size: int | None, sequence_tokens: int | None = None) -> T:
    """Fills in every derived setting, so that the saved config is complete. Raises UserError for invalid settings.

    sequence_tokens: number of tokens that batch_size counts as one sequence; defaults to context_length.
    """
    opt, model = settings.optimizer, settings.model
    selected_precision(settings.run)
    if not 0 <= settings.run.seed < 2**63:
        raise UserError(f"seed is {settings.run.seed}; it must lie between 0 and 2**63 - 1")
    if model.vocab_size is not None and vocab_size is not None and vocab_size > model.vocab_size:
        raise UserError(
            f"vocab_size is {model.vocab_size}, but the tokenizer has {vocab_size} ids; remove --vocab-size"
        )
    model = replace(model, vocab_size=model.vocab_size or vocab_size).resolved()
    batch = batch_ramp(opt)
    for name in ("learning_rate", "weight_decay", "grad_clip", "z_loss", "load_balance", "warmup_iters"):
        if not (getattr(opt, name) >= 0 and math.isfinite(getattr(opt, name))):
            raise UserError(f"{name} is {getattr(opt, name)}; it must be a number of at least 0")
    if not model.num_experts:
        given = {"experts_per_token": model.experts_per_token, "load_balance": opt.load_balance}
        usual = {
            "experts_per_token": ModelConfig.experts_per_token,
            "load_balance": OptimizerSettings.load_balance,
        }
        for name, value in given.items():
            if value not in (0, usual[name]):
                raise UserError(f"{name} is {value}, but there are no experts; set num_experts, or remove it")
    if opt.total_tokens is not None and opt.total_tokens < 1:
        raise UserError(f"total_tokens is {opt.total_tokens}; it must be at least 1")
    for name in ("max_minutes", "muon_lr"):
        value = getattr(opt, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} is {value}; it must be a number greater than 0")
    if opt.optimizer == "muon" and opt.muon_lr is not None and not opt.learning_rate:
        raise UserError("learning_rate is 0, but muon_lr is scaled by its schedule; set it above 0")
    if not 0 <= opt.decay_fraction <= 1:
        raise UserError(f"decay_fraction is {opt.decay_fraction}; it must lie between 0 and 1")
    for name in ("beta1", "beta2", "muon_momentum"):
        if not 0 <= getattr(opt, name) < 1:
            raise UserError(f"{name} is {getattr(opt, name)}; it must be at least 0 and below 1")
    if settings.run.fp8 and not settings.run.bf16:
        raise UserError("fp8 requires bf16 for all other operations; add --bf16")
    if settings.run.fp8 and model.num_experts:
        raise UserError("fp8 does not support num_experts; remove --fp8")
    if settings.logging.log_interval < 1:
        raise UserError(f"log_interval is {settings.logging.log_interval}; it must be at least 1")
    for name in (
        "eval_interval",
        "eval_batches",
        "eval_tasks_interval",
        "eval_tasks_limit",
        "checkpoint_interval",
        "keep_checkpoints",
        "sample_interval",
    ):
        if getattr(settings.logging, name) < 0:
            raise UserError(f"{name} is {getattr(settings.logging, name)}; it must be at least 0")
    if opt.max_iters is not None and opt.total_tokens is not None:
        raise UserError("max_iters and total_tokens are both set; give only one of them")
    max_iters = opt.max_iters
    if max_iters is None and opt.total_tokens is not None:
        max_iters = batch.steps_for(-(-opt.total_tokens // (sequence_tokens or model.context_length)))
    elif max_iters is None and opt.max_minutes is None:
        max_iters = 100_000
    if max_iters is not None and max_iters < 1:
        raise UserError(f"max_iters is {max_iters}; it must be at least 1")
    opt = replace(opt, max_iters=max_iters, total_tokens=None)
    decay = opt.lr_decay_iters if opt.lr_decay_iters is not None else default_decay_iters(opt)
    if decay is not None and decay < opt.warmup_iters:
        raise UserError(f"lr_decay_iters is {decay}; it must be at least warmup_iters {opt.warmup_iters}")
    min_lr = opt.min_lr
    if min_lr is None:
        min_lr = opt.learning_rate / 10 if opt.schedule == "cosine" else 0.0
    if not 0 <= min_lr <= opt.learning_rate:
        raise UserError(f"min_lr is {min_lr}; it must lie between 0 and learning_rate {opt.learning_rate}")
    opt = replace(opt, lr_decay_iters=decay, min_lr=min_lr)
    return replace(settings, model=model, optimizer=opt)

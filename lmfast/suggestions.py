"""Suggestions for unknown settings, options and commands: by meaning first, then by spelling.

Returns a known name, a sentence if no single name is the answer (a training run has no epochs), or None if nothing is
close enough: a wrong suggestion is worse than none.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence

CLOSE = 0.75
"""minimum similarity (difflib's ratio) of two spellings; block_size and vocab_size have 0.7, temp and system 0.6"""

# Our name → the names in other programs (nanoGPT, Hugging Face, llama.cpp, PyTorch, litgpt) and plain words.
_OTHERS_SAY = {
    "context_length": "block_size seq_len seq_length sequence_length max_seq_len max_seq_length n_ctx ctx_len context_size "
    "ctx n_positions max_position_embeddings max_length model_max_length",
    "d_model": "n_embd n_embed embed_dim embedding_dim emb_dim hidden_size hidden_dim model_dim dim width",
    "num_layers": "n_layer n_layers num_hidden_layers layers depth num_blocks num_layer",
    "num_heads": "n_head n_heads num_attention_heads heads",
    "num_kv_heads": "n_kv_head n_kv_heads num_key_value_heads kv_heads",
    "d_ff": "intermediate_size ffn_dim ff_dim mlp_dim n_inner ffn_hidden ffn_hidden_size",
    "num_experts": "n_experts experts num_local_experts n_routed_experts moe_num_experts expert_count",
    "experts_per_token": "num_experts_per_tok num_experts_per_token n_activated_experts moe_top_k expert_used_count",
    "load_balance": "router_aux_loss_coef aux_loss_alpha load_balancing_loss_weight moe_aux_loss_coeff",
    "rope_theta": "rope rope_base rope_freq_base rotary_base theta",
    "tie_embeddings": "tie_weights weight_tying tie_word_embeddings",
    "vocab_size": "n_vocab vocabulary_size",
    "batch_size": "batch bs micro_batch_size device_batch_size per_device_train_batch_size global_batch_size "
    "total_batch_size per_device_batch_size per_gpu_train_batch_size",
    "grad_accumulation": "gradient_accumulation_steps gradient_accumulation grad_accum accumulation_steps",
    "epochs": "epoch num_epochs num_train_epochs n_epochs",
    "max_iters": "steps max_steps num_steps train_steps num_train_steps max_train_steps total_steps iters iterations "
    "num_iters num_iterations",
    "total_tokens": "tokens num_tokens train_tokens train_max_tokens max_train_tokens",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "optimizer": "optim",
    "max_minutes": "minutes time_limit max_time time_budget",
    "learning_rate": "max_lr peak_lr base_lr",
    "min_lr": "lr_min final_lr end_lr",
    "schedule": "lr_schedule scheduler lr_scheduler lr_scheduler_type decay_lr",
    "warmup_iters": "warmup warmup_steps num_warmup_steps warmup_ratio lr_warmup_steps train_lr_warmup_steps",
    "lr_decay_iters": "decay_iters decay_steps",
    "weight_decay": "wd",
    "grad_clip": "clip max_grad_norm gradient_clip clip_grad_norm gradient_clipping max_norm train_max_norm clip_grad "
    "gradient_clip_val",
    "train_data_path": "data dataset train_file train_path data_path data_dir input train dataset_name train_data_dir",
    "val_data_path": "valid_data validation_data eval_data test_data val_file valid_file val valid validation_file "
    "eval_file",
    "data": "dataset input file val valid test_data eval_data prepare download",
    "init_from": "pretrained from_pretrained base base_model model model_path checkpoint ckpt load model_name_or_path "
    "model_name checkpoint_dir initial_checkpoint_dir pretrained_model",
    "checkpoint": "model model_path ckpt checkpoint_path run load init_from checkpoint_dir model_name_or_path run_dir m",
    "run": "checkpoint checkpoint_dir checkpoint_path ckpt model model_path model_name_or_path run_dir load "
    "init_from",
    "out_dir": "output output_dir out save_dir run_dir log_dir logdir logging_dir train_out_dir",
    "output": "out out_dir output_dir out_file save_dir",
    "input": "data dataset file files text path in_file",
    "resume": "continue resume_from resume_from_checkpoint",
    "bf16": "bfloat16 amp mixed_precision precision dtype half torch_dtype",
    "fp16": "float16",
    "device": "gpu cuda cpu accelerator use_cpu no_cuda n_gpu_layers ngl devices",
    "seed": "random_seed random_state",
    "eval_interval": "eval_every eval_steps eval_freq eval_strategy",
    "eval_batches": "eval_iters eval_max_iters eval_samples max_eval_samples",
    "eval_tasks": "tasks task_list downstream_tasks lm_eval_tasks",
    "eval_tasks_interval": "tasks_interval task_interval core_metric_every",
    "eval_tasks_limit": "tasks_limit task_limit core_metric_max_per_task",
    "log_interval": "log_every log_steps logging_steps log_freq train_log_interval",
    "checkpoint_interval": "save_interval save_every save_steps checkpoint_every train_save_interval always_save_checkpoint",
    "keep_checkpoints": "save_total_limit",
    "sample_interval": "sample_every",
    "wandb": "wandb_log report_to logger logger_name",
    "wandb_name": "wandb_run_name run_name experiment_name",
    "compile": "torch_compile jit",
    "chat": "interactive conversation cnv instruct",
    "held_out": "holdout test_size val_split eval_split",
    "val_fraction": "holdout test_size val_split val_ratio",
    "temperature": "temp",
    "max_tokens": "max_new_tokens num_tokens n_tokens n_predict max_length length tokens predict max_gen_len "
    "max_output_tokens eval_max_new_tokens",
    "samples": "num_samples n_samples num_return_sequences n",
    "prompt": "text start input",
    "prompt_file": "input_file file",
    "system": "system_prompt sys",
    "top_p": "nucleus",
    "num_workers": "workers threads num_threads jobs n_jobs processes num_processes preprocessing_num_workers num_proc t",
    "tokenizer": "tokenizer_path tokenize bpe tokenizer_name tokenizer_dir tokenizer_name_or_path vocab_path",
    "pattern": "regex pretokenizer pre_tokenizer",
    "text_field": "field column text_column",
    "separator": "sep delimiter",
    "train": "pretrain fit",
    "sft": "finetune fine_tune instruct",
    "generate": "sample infer inference complete chat",
    "evaluate": "eval test perplexity",
    "flops": "params parameters memory mfu cost",
    "report": "plot compare",
    "quickstart": "demo start",
}
_EPOCHS = "epoch epochs num_epochs num_train_epochs n_epochs train_epochs max_epochs"
_SAMPLES = "n num_samples n_samples num_return_sequences best_of"
# Concepts without a counterpart: names, a setting that must be known, one that must not be, and the explanation.
_COUNTED_OTHERWISE = (
    (
        _EPOCHS,
        "max_iters",
        "epochs",
        "set the length of a run with max_iters (steps) or total_tokens (one epoch is the size of the training file)",
    ),
    (
        _SAMPLES,
        "prompt",
        "samples",
        "each prompt is continued once; repeat --prompt for several texts, and set their length with --max-tokens",
    ),
)
_MEANING: dict[str, list[str]] = {}
for _ours, _theirs in _OTHERS_SAY.items():
    for _word in _theirs.split():
        _MEANING.setdefault(_word, []).append(_ours)


def remedy(name: str, known: Collection[str], dashes: str = "--") -> str | None:
    """What to use instead of `name`, as the second half of an error message; None if nothing is close enough.

    dashes: the prefix of option names, `--` or `--no-` (underscores then become dashes), or nothing.

    >>> remedy("block_size", ["vocab_size", "context_length"])
    'did you mean --context-length?'
    """
    for words, with_, without, sentence in _COUNTED_OTHERWISE:
        if name in words.split() and with_ in known and without not in known:
            return sentence
    near = nearest(name, known)
    return near and f"did you mean {_spelt(near, dashes)}?"


def _spelt(name: str, dashes: str) -> str:
    """("d_model", "--") → "--d-model"."""
    return dashes + name.replace("_", "-") if dashes else name


def stray_word_remedy(words: Sequence[str], aliases: Mapping[str, str]) -> str | None:
    """A suggestion for stray arguments such as `lr=1`, `lr 1`, `-lr 1` and `x.yaml`, or None.

    aliases: {known name: canonical name}, both with underscores.
    """
    word, value = words[0], words[1] if len(words) > 1 else None
    if word.endswith((".yaml", ".yml")) and "config" in aliases:
        return f"did you mean --config {word}?"
    if word.lower() in ("true", "false"):
        return "switches take no value: --NAME is on, --no-NAME is off"
    name, mark, tail = word.lstrip("-").partition("=")
    name = name.replace("-", "_")
    if name in aliases:
        given = tail if mark else value
        return f"did you mean {_spelt(aliases[name], '--')}{f' {given}' if given else ''}?"
    return remedy(name, aliases)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that `name` most likely means, or None. Words are joined by underscores.

    In this order: a synonym; the only known name whose words contain, or are contained in, those of `name`; the closest
    spelling.

    >>> nearest("block_size", ["vocab_size", "context_length"]), nearest("Vocabsize", ["vocab_size", "context_length"])
    ('context_length', 'vocab_size')
    """
    name = name.lower()
    for ours in _MEANING.get(name, ()):
        if ours in known:
            return ours
    words = set(name.split("_"))
    related = [other for other in known if len(other) > 1 and _contains_either(words, set(other.split("_")))]
    if len(related) == 1:
        return related[0]
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=CLOSE)
    return close[0] if close else None


def _contains_either(words: set[str], others: set[str]) -> bool:
    return words <= others or others <= words

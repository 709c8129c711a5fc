"""The known name that an unknown one most likely means: by meaning first, by spelling second.

In: a name as typed and the names that are known where it was typed (settings, options, commands). Out: one of those, or
None where nothing is near enough: a wrong suggestion is worse than none.
"""

import difflib
from collections.abc import Collection

CLOSE = 0.75
"""least similarity (difflib's ratio) of two spellings; block_size and vocab_size have 0.7, temp and system 0.6"""

# A name of ours → what other programs call the same thing: nanoGPT, Hugging Face, llama.cpp, PyTorch, plain speech.
_OTHERS_SAY = {
    "context_length": "block_size seq_len seq_length sequence_length max_seq_len max_seq_length n_ctx ctx_len context_size",
    "d_model": "n_embd n_embed embed_dim embedding_dim emb_dim hidden_size hidden_dim model_dim dim width",
    "num_layers": "n_layer n_layers num_hidden_layers layers depth num_blocks",
    "num_heads": "n_head n_heads num_attention_heads heads",
    "num_kv_heads": "n_kv_head n_kv_heads num_key_value_heads kv_heads",
    "d_ff": "intermediate_size ffn_dim ff_dim mlp_dim n_inner ffn_hidden",
    "tie_embeddings": "tie_weights weight_tying tie_word_embeddings",
    "vocab_size": "n_vocab vocabulary_size",
    "batch_size": "batch bs micro_batch_size device_batch_size per_device_train_batch_size",
    "grad_accumulation": "gradient_accumulation_steps gradient_accumulation grad_accum accumulation_steps",
    "epochs": "epoch num_epochs num_train_epochs n_epochs",
    "max_iters": "steps max_steps num_steps train_steps total_steps iters iterations num_iters num_iterations "
    "epochs epoch num_epochs num_train_epochs n_epochs",
    "total_tokens": "tokens num_tokens train_tokens",
    "max_minutes": "minutes time_limit max_time time_budget",
    "learning_rate": "max_lr peak_lr base_lr",
    "min_lr": "lr_min final_lr end_lr",
    "schedule": "lr_schedule scheduler lr_scheduler lr_scheduler_type",
    "warmup_iters": "warmup warmup_steps num_warmup_steps",
    "lr_decay_iters": "decay_iters decay_steps",
    "weight_decay": "wd",
    "grad_clip": "clip max_grad_norm gradient_clip clip_grad_norm gradient_clipping",
    "train_data_path": "data dataset train_file train_path data_path data_dir input train",
    "val_data_path": "valid_data validation_data eval_data test_data val_file valid_file val valid",
    "data": "dataset input file val valid test_data eval_data prepare download",
    "init_from": "pretrained from_pretrained base base_model model model_path checkpoint ckpt load",
    "checkpoint": "model model_path ckpt checkpoint_path run load init_from",
    "out_dir": "output output_dir out save_dir run_dir log_dir logdir",
    "output": "out out_dir output_dir out_file save_dir",
    "input": "data dataset file files text path in_file",
    "resume": "continue resume_from resume_from_checkpoint",
    "bf16": "bfloat16 amp mixed_precision precision dtype half",
    "fp16": "float16",
    "device": "gpu cuda cpu accelerator",
    "seed": "random_seed random_state",
    "eval_interval": "eval_every eval_steps eval_freq",
    "eval_batches": "eval_iters",
    "log_interval": "log_every log_steps logging_steps log_freq",
    "checkpoint_interval": "save_interval save_every save_steps checkpoint_every",
    "keep_checkpoints": "save_total_limit",
    "sample_interval": "sample_every",
    "held_out": "holdout test_size val_split eval_split",
    "val_fraction": "holdout test_size val_split val_ratio",
    "temperature": "temp",
    "max_tokens": "max_new_tokens num_tokens n_tokens n_predict max_length length tokens",
    "samples": "num_samples n_samples num_return_sequences",
    "prompt": "text start input",
    "prompt_file": "input_file file",
    "system": "system_prompt",
    "top_p": "nucleus",
    "num_workers": "workers threads num_threads jobs n_jobs processes num_processes",
    "tokenizer": "tokenizer_path tokenize bpe",
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
_MEANING: dict[str, list[str]] = {}
for _ours, _theirs in _OTHERS_SAY.items():
    for _word in _theirs.split():
        _MEANING.setdefault(_word, []).append(_ours)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The one of `known` that `name` most likely means; names of several words are joined by underscores.

    The same meaning by another name; else the only one whose words are all in the other (`rope`, `adam_beta1`); else the
    closest spelling.

    >>> nearest("block_size", ["vocab_size", "context_length"]), nearest("vocabsize", ["vocab_size", "context_length"])
    ('context_length', 'vocab_size')
    """
    for ours in _MEANING.get(name, ()):
        if ours in known:
            return ours
    words = set(name.split("_"))
    related = [other for other in known if len(other) > 1 and _one_in_the_other(words, set(other.split("_")))]
    if len(related) == 1:
        return related[0]
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=CLOSE)
    return close[0] if close else None


def _one_in_the_other(words: set[str], others: set[str]) -> bool:
    return words <= others or others <= words

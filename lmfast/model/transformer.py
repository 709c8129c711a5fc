"""TransformerLM: the decoder-only language model.

Initialisation: matrices from a normal distribution truncated at three standard deviations, with the variance
2 / (fan_in + fan_out) (Glorot & Bengio 2010, as in CS336's handout). Projections that write to the residual stream are
divided by sqrt(2 · num_layers) as in GPT-2 (Radford et al. 2019, section 2.3), or zero with `zero_init`. The embedding has
standard deviation 1, or d_model^-0.5 if it is also the head, so that the logits start near unit scale. Learned position
embeddings have a tenth of that: after 250 steps of the quickstart, a half (as in GPT-2's code) gave a loss of 2.75, a tenth
2.64, a fiftieth 2.67 (one seed).
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lmfast.errors import UserError
from lmfast.model.config import ModelConfig
from lmfast.model.generation import decode_function
from lmfast.model.initialisation import initialise_in_place
from lmfast.model.kv_cache import KVCache, LayerCache
from lmfast.model.layers import (
    Attend,
    Attention,
    Block,
    Blocks,
    Head,
    RMSNorm,
    decode_normed,
)
from lmfast.model.rope import rope_tables
from lmfast.model.sinusoidal import sinusoidal_table


class _NoInitialisation(TorchFunctionMode):
    """Skips torch.nn.init: on the meta device it imports torch._dynamo, which takes longer than decoding a prompt."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class TransformerLM(nn.Module):
    """A decoder-only language model of shape `config`; its `config` attribute is resolved."""

    rope_cos: Tensor  # (context_length, head_dim / 2)
    rope_sin: Tensor
    sinusoids: Tensor | None  # (context_length, d_model), with position sinusoidal
    unused_ids: Tensor | None  # (n,) int64, sorted; see restrict_to
    expert_load: Tensor | None = None
    """(layers, 2, num_experts): `Routes.load` of the newest forward pass in training, until `take_expert_load`"""

    sharded = (
        False  # whether its weights are only gathered within `hidden` (lmfast/training/parallel/fsdp.py)
    )

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config = config.resolved()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embedding = None
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.context_length, config.d_model)
        self.blocks = Blocks(Block(config, layer) for layer in range(config.num_layers))
        self.final_norm = RMSNorm(config.d_model, config.norm_eps) if config.norm == "pre" else None
        self.head = Head(config.d_model, config.vocab_size)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.register_buffer("rope_cos", None, persistent=False)
        self.register_buffer("rope_sin", None, persistent=False)
        self.register_buffer("sinusoids", None, persistent=False)
        self.register_buffer("unused_ids", None, persistent=False)
        if self.embedding.weight.device.type != "meta":
            self.reset_tables()
            self.reset_parameters()

    @classmethod
    def uninitialised(cls, config: ModelConfig, device: torch.device | str) -> "TransformerLM":
        """A model on `device` with uninitialised weights, to copy a checkpoint into."""
        model = cls.without_memory(config)
        model.to_empty(device=device)
        if config.tie_embeddings:
            model.head.weight = model.embedding.weight  # to_empty has allocated both
        model.reset_tables()
        return model

    @classmethod
    def without_memory(cls, config: ModelConfig) -> "TransformerLM":
        """A model on the meta device: shapes without memory, and without random values."""
        with torch.device("meta"), _NoInitialisation():
            return cls(config)

    def reset_tables(self) -> None:
        """Computes the position tables on the device of the weights."""
        device = self.embedding.weight.device
        self.rope_cos, self.rope_sin = (torch.tensor(x, device=device) for x in rope_tables(self.config))
        sinusoids = sinusoidal_table(self.config)
        self.sinusoids = None if sinusoids is None else torch.tensor(sinusoids, device=device)

    def with_matrix_dtype(self, dtype: torch.dtype) -> "TransformerLM":
        """A copy with its matrices in `dtype`, which shares norms, routers and position tables with this model.

        Computes exactly what autocast to `dtype` computes, without casting the weights at each call."""
        model = self.without_memory(self.config)
        tensors = {
            name: t.to(dtype) if in_matrix_dtype(name, t) else t for name, t in self.state_dict().items()
        }
        if self.config.tie_embeddings:
            tensors["head.weight"] = tensors["embedding.weight"]
        model.load_state_dict(tensors, assign=True)
        if self.config.tie_embeddings:
            model.head.weight = model.embedding.weight
        model.rope_cos, model.rope_sin, model.sinusoids = self.rope_cos, self.rope_sin, self.sinusoids
        model.unused_ids = self.unused_ids
        return model.train(self.training)

    def named_weights(self) -> dict[str, Tensor]:
        """The weights by name, each once: a tied head has the name of the embedding."""
        return dict(self.named_parameters())

    def reset_parameters(self) -> None:
        """Initialises all weights from torch's default generator (see the module's docstring)."""
        initialise_in_place(self, self.config)

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        counted: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states (batch, seq, d_model) of ids (batch, seq), the input of the head.

        positions, document_ids (batch, seq): for packed rows, whose attention stays within equal document ids. Without
        positions, those of RoPE continue over the row, because attention depends only on their differences; learned and
        sinusoidal ones restart with each document. counted (batch, seq) bool: the positions that count in the load of
        experts; None: all."""
        rope = self._rope(ids.shape[1])
        table, added = self._position_table, None
        if table is not None:
            at = _restarted(document_ids) if positions is None and document_ids is not None else positions
            added = table[: ids.shape[1]] if at is None else F.embedding(at, table)

        def attend(attention: Attention, x: Tensor) -> Tensor:
            return attention(x, rope, positions, document_ids, ids=ids)

        return self._run_blocks(self._embed(ids, added), [attend] * len(self.blocks), counted)

    def take_expert_load(self) -> Tensor | None:
        """Returns and forgets `expert_load`."""
        load, self.expert_load = self.expert_load, None
        return load

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, seq, vocab_size) of ids (batch, seq)."""
        return self.logits(self.hidden(ids))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) of final hidden states (..., d_model), capped if logit_softcap is set."""
        return self._capped(self.head(hidden))

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def prefill(self, ids: Tensor, cache: KVCache, rows: Tensor | None = None, begin: int = 0) -> None:
        """Runs right-padded prompts (batch, seq), or parts of them, through the model and fills the cache from position
        `begin`; the positions before it are cached already.

        rows (batch,): their sequences in the cache; None: all. The caller sets `cache.lengths`. Padding is on the right
        and does not affect other tokens; its keys are overwritten before the length of a sequence includes them.
        """
        rope, table = self._rope(ids.shape[1], begin), self._position_table
        added = None if table is None else table[begin : begin + ids.shape[1]]

        def attend_with(layer: LayerCache) -> Attend:
            return lambda attention, x: attention(x, rope, cache=layer, ids=ids)

        x = self._embed(ids, added)
        self._run_blocks(x, [attend_with(layer) for layer in cache.for_rows(rows, begin)])

    def decode(self, ids: Tensor, cache: KVCache, max_length: int) -> Tensor:
        """Appends ids (batch,) to the sequences in `cache`; returns logits (batch, vocab_size).

        max_length: upper bound of the lengths after this step; no more of the cache is read.
        """
        rope, lengths = (self.rope_cos, self.rope_sin), cache.lengths
        lengths += 1  # once for all layers; includes the new token

        def attend_with(layer: LayerCache) -> Attend:
            return lambda attention, projected: attention.decode(
                projected, rope, lengths, layer, ids[:, None]
            )

        table = self._position_table
        added = None if table is None else F.embedding(lengths - 1, table)[:, None]
        x, residual = self._embed(ids[:, None], added), None
        for block, layer in zip(self.blocks, cache.view(max_length), strict=True):
            x, residual = block.decode(x, residual, attend_with(layer))
        logits, _ = decode_normed(self.final_norm, self.head.weight, x, residual)
        return self._capped(logits[:, 0])

    def restrict_to(self, ids: Iterable[int]) -> None:
        """Restricts generation to these ids, those of the tokenizer (see `ResolvedConfig.unused_ids`)."""
        unused = self.config.unused_ids(ids)
        self.unused_ids = torch.tensor(unused, device=self.embedding.weight.device) if unused else None

    def mask_unused(self, logits: Tensor) -> Tensor:
        """Logits (..., vocab_size) with −inf for ids excluded by `restrict_to`."""
        return logits if self.unused_ids is None else logits.index_fill(-1, self.unused_ids, float("-inf"))

    def generate(self, ids: Iterable[int], max_tokens: int = 256, **sampling: Any) -> list[int]:
        """New ids that continue `ids`; options as in `lmfast.inference.decode.generate`. Raises UserError on bad options."""
        return decode_function()(self, [list(ids)], max_tokens, **sampling)[0]

    @property
    def _position_table(self) -> Tensor | None:
        """(context_length, d_model), added to the embedding; None with position rope or none."""
        return self.sinusoids if self.position_embedding is None else self.position_embedding.weight

    def _embed(self, ids: Tensor, added: Tensor | None) -> Tensor:
        """The residual stream of ids (batch, seq). added: rows of the position table, of a shape that broadcasts."""
        x = self.embedding(ids)
        if torch.is_autocast_enabled(ids.device.type):
            # Under autocast the residual stream, the largest activation, is stored in 16 bits.
            x = x.to(torch.get_autocast_dtype(ids.device.type))
        if added is not None:
            x = x + added.to(x.dtype)
        return self.dropout(x)

    def _rope(self, length: int, begin: int = 0) -> tuple[Tensor, Tensor]:
        end = begin + length
        if end > self.config.context_length:
            raise UserError(
                f"the sequence has {end} tokens, more than context_length {self.config.context_length}; shorten it"
            )
        return self.rope_cos[begin:end], self.rope_sin[begin:end]

    def _run_blocks(self, x: Tensor, attends: list[Attend], counted: Tensor | None = None) -> Tensor:
        residual: Tensor | None = None
        loads: list[Tensor] = []
        for block, attend in zip(self.blocks, attends, strict=True):
            x, residual, load = block(x, residual, attend, counted)
            if load is not None:
                loads.append(load)
        if loads:
            self.expert_load = torch.stack(loads)
        if self.final_norm is None:
            return x if residual is None else x + residual
        return self.final_norm(x) if residual is None else self.final_norm(x, residual)[0]


def in_matrix_dtype(name: str, weight: Tensor) -> bool:
    """Whether `TransformerLM.with_matrix_dtype` casts a weight: every matrix but routers, which compute in fp32."""
    return weight.dim() > 1 and not name.endswith(".router.weight")


def _restarted(document_ids: Tensor) -> Tensor:
    """Positions (batch, seq) that restart at 0 with each document, as `data.packing.positions` computes them."""
    at = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    begins = torch.zeros_like(at)
    begins[:, 1:] = torch.where(document_ids[:, 1:] != document_ids[:, :-1], at[:, 1:], 0)
    return at - begins.cummax(1).values

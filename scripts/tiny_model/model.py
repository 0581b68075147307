# SPDX-License-Identifier: Apache-2.0
"""Defines the tiny DeepSeek-V3: transformers' main model plus one multi-token-prediction layer.

Shape letters: B sequences, L positions, H hidden, V vocabulary, E experts, T tokens (B * L).
"""

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as modeling

from tiny_model.tokenizer import BOS_ID, EOS_ID, PAD_ID


def build_config() -> DeepseekV3Config:
    """Returns the architecture of the shipped model; MLA widths are DeepSeek-V3's own."""
    return DeepseekV3Config(
        vocab_size=1024,
        hidden_size=160,
        intermediate_size=384,
        moe_intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_shared_experts=1,
        n_routed_experts=16,
        routed_scaling_factor=2.0,
        kv_lora_rank=512,
        q_lora_rank=96,
        qk_rope_head_dim=64,
        v_head_dim=128,
        qk_nope_head_dim=128,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=4,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rope_interleave=True,
        num_mtp_layers=1,
        attn_implementation="sdpa",
    )


class SharedHead(nn.Module):
    """Norms in front of the output head that the MTP layer shares with the main model."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.norm = modeling.DeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class MtpLayer(nn.Module):
    """Computes ``eh_proj(cat[enorm(embed(t_{i+1})), hnorm(h_i)])``, a decoder layer, ``shared_head.norm``.

    ``h_i`` is the main model's hidden state after its final norm and the embedding at position 0 is
    zero: what vLLM's ``DeepSeekMultiTokenPredictorLayer`` computes.
    """

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.enorm = modeling.DeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hnorm = modeling.DeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.mtp_block = modeling.DeepseekV3DecoderLayer(config, config.num_hidden_layers)
        self.shared_head = SharedHead(config)

    def forward(
        self,
        next_embeds_BLH: torch.Tensor,
        hidden_BLH: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        next_embeds_BLH = F.pad(next_embeds_BLH[:, 1:], (0, 0, 1, 0))
        merged = torch.cat([self.enorm(next_embeds_BLH), self.hnorm(hidden_BLH)], dim=-1)
        hidden_BLH = self.mtp_block(self.eh_proj(merged), position_embeddings=position_embeddings)
        return self.shared_head.norm(hidden_BLH)


class TinyDeepseek(nn.Module):
    """Joins main model and MTP layer; both use the main model's embedding and output head."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.main = DeepseekV3ForCausalLM(config)
        self.main.set_experts_implementation("eager")  # the fastest for training on a CPU
        self.mtp = MtpLayer(self.main.config)

    def forward(self, tokens_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns hidden states ``[B, L-1, H]`` ready for the head, given tokens ``[B, L]``.

        Row ``i`` of the first predicts ``t_{i+1}``, row ``i`` of the second ``t_{i+2}``.
        """
        input_ids, next_ids = tokens_BL[:, :-1], tokens_BL[:, 1:]
        hidden = self.main.model(input_ids, use_cache=False).last_hidden_state
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        position_embeddings = self.main.model.rotary_emb(hidden, positions)
        draft = self.mtp(self.main.model.embed_tokens(next_ids), hidden, position_embeddings)
        return hidden, draft

    def losses(self, window_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the mean cross entropy of the main model and of the MTP layer over windows ``[B, L+2]``."""
        hidden, draft = self(window_BL[:, :-1])
        main_logits = self.main.lm_head(hidden).flatten(0, 1)
        draft_logits = self.main.lm_head(draft).flatten(0, 1)
        main_loss = F.cross_entropy(main_logits, window_BL[:, 1:-1].flatten())
        return main_loss, F.cross_entropy(draft_logits, window_BL[:, 2:].flatten())

    def routers(self) -> dict[int, modeling.DeepseekV3TopkRouter]:
        """Returns the router of every MoE layer by checkpoint layer index, the MTP layer last."""
        layers = [*self.main.model.layers, self.mtp.mtp_block]
        moe = modeling.DeepseekV3MoE
        return {index: layer.mlp.gate for index, layer in enumerate(layers) if isinstance(layer.mlp, moe)}


def initialize_weights(model: TinyDeepseek, seed: int) -> None:
    """Matrices N(0, 1 / (4 fan_in)), embeddings N(0, 1/4), residual outputs and output head zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight", "down_proj", "lm_head.weight")):
                parameter.zero_()
            else:
                std = 0.5 if "embed_tokens" in name else 0.5 / parameter.shape[-1] ** 0.5
                parameter.normal_(0.0, std, generator=generator)
        _start_previous_token_head(model, generator)


def _start_previous_token_head(model: TinyDeepseek, generator: torch.Generator) -> None:
    """Lets head 0 of layer 0 attend to the previous token from the first step on.

    Copying from earlier text needs such a head below the layer that copies; found by training alone it
    takes millions of tokens. Channel 0 of the embedding starts as a constant (3.8 after the norm, 6 in
    the query latent), the shared rotary key follows it, and head 0's rotary query is turned back by one
    position. Only the eight fastest frequencies take part: about 4 nats between neighbouring offsets.
    """
    config = model.main.config
    attention = model.main.model.layers[0].self_attn
    pairs = torch.arange(0, 16, 2)
    angles = config.rope_parameters["rope_theta"] ** (-pairs / config.qk_rope_head_dim)
    model.main.model.embed_tokens.weight[:, 0] = 2.0
    attention.q_a_proj.weight[0, 0] = 1.0
    attention.kv_a_proj_with_mqa.weight[config.kv_lora_rank + pairs, 0] = 2.0
    attention.q_b_proj.weight[config.qk_nope_head_dim + pairs, 0] = 1.2 * angles.cos()
    attention.q_b_proj.weight[config.qk_nope_head_dim + pairs + 1, 0] = -1.2 * angles.sin()
    values = attention.o_proj.weight[:, : config.v_head_dim]
    values.normal_(0.0, config.v_head_dim**-0.5, generator=generator)


class ExpertLoadCounter:
    """Counts routed tokens per expert ``[E]`` for each MoE layer while attached."""

    def __init__(self, model: TinyDeepseek) -> None:
        self.routers = model.routers()
        self.load_E = {
            index: torch.zeros(router.num_experts, dtype=torch.long) for index, router in self.routers.items()
        }
        for index, router in self.routers.items():
            router.register_forward_hook(partial(self._count, index))

    def _count(self, index: int, _: nn.Module, __: object, output: tuple[torch.Tensor, ...]) -> None:
        load_E = self.load_E[index]
        load_E += torch.bincount(output[2].flatten().cpu(), minlength=len(load_E))

    def imbalance(self) -> dict[int, float]:
        """Returns the largest load over mean load per MoE layer."""
        return {index: (load.max() / load.float().mean()).item() for index, load in self.load_E.items()}

    def reset(self) -> None:
        for load_E in self.load_E.values():
            load_E.zero_()

    def update_bias(self, rate: float) -> None:
        """Balances as DeepSeek-V3 does, without auxiliary loss: moves each bias by ``rate`` against its load."""
        for index, router in self.routers.items():
            load_E = self.load_E[index].float()
            router.e_score_correction_bias += rate * torch.sign(load_E.mean() - load_E)

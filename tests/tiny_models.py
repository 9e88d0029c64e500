# SPDX-License-Identifier: Apache-2.0
"""Random models of every family, small enough to compress in a blink."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

__all__ = ["CONFIGS", "MOE", "make"]

_COMMON: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GEMMA: dict[str, Any] = {**_COMMON, "head_dim": 16}
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
_MOE: dict[str, Any] = {**_COMMON, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

#: Family -> (configuration class, its settings).
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _COMMON),
    "mistral": ("MistralConfig", {**_COMMON, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", _COMMON),
    "qwen3": ("Qwen3Config", {**_COMMON, "head_dim": 16}),
    "gemma": ("GemmaConfig", _GEMMA),
    "gemma2": ("Gemma2Config", {**_GEMMA, "sliding_window": 8, "layer_types": _SLIDING}),
    "gemma3": ("Gemma3TextConfig", {**_GEMMA, "sliding_window": 8, "layer_types": _SLIDING}),
    "opt": (
        "OPTConfig",
        {**_COMMON, "ffn_dim": 96, "word_embed_proj_dim": 64, "do_layer_norm_before": True},
    ),
    "gpt_neox": ("GPTNeoXConfig", _COMMON),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": 128, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128,
            "bos_token_id": 1, "eos_token_id": 2,
        },
    ),
    "phi": ("PhiConfig", _COMMON),
    "phi3": ("Phi3Config", _COMMON),
    "falcon": ("FalconConfig", {**_COMMON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_alibi": ("FalconConfig", {**_COMMON, "alibi": True, "parallel_attn": False}),
    "bloom": ("BloomConfig", {"vocab_size": 128, "hidden_size": 64, "n_layer": 3, "n_head": 4}),
    "mixtral": ("MixtralConfig", {**_COMMON, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            **_MOE, "num_experts": 4, "shared_expert_intermediate_size": 48,
            "decoder_sparse_step": 1, "mlp_only_layers": [1],
        },
    ),
    "qwen3_moe": ("Qwen3MoeConfig", {**_MOE, "num_experts": 4, "head_dim": 16}),
    "gpt_oss": (
        "GptOssConfig",
        {
            **_COMMON, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2,
            "sliding_window": 8, "layer_types": _SLIDING,
        },
    ),
    # Odd ones: low-rank attention and a first dense block; state spaces between attention; hidden
    # states in four copies, and inputs of its own for every block.
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **_MOE, "num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 2, "topk_group": 1,
            "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
            "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "n_shared_experts": 1,
        },
    ),
    "jamba": (
        "JambaConfig",
        {
            **_COMMON, "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2,
            "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
            "mamba_d_state": 8, "mamba_dt_rank": 8, "use_mamba_kernels": False,
        },
    ),
    "gemma3n": (
        "Gemma3nTextConfig",
        {
            **_GEMMA, "vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0, "laurel_rank": 8, "sliding_window": 8,
            "layer_types": _SLIDING, "activation_sparsity_pattern": [0.0] * 3,
        },
    ),
}  # fmt: skip
MOE = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss")


def make(
    family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> nn.Module:
    """Build a random model; the same seed gives the same weights.

    Norm weights are random too, so that leaving one out shows, and weights are large enough for
    every layer to matter.
    """
    kind, settings = CONFIGS[family]
    config = getattr(transformers, kind)(**{**settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.08)
            else:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).eval()

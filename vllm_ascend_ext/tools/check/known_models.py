# SPDX-License-Identifier: Apache-2.0
"""Lists the mixture-of-experts models of published deployments, with the facts of their public config.json files.

A model is found by its name, whatever the folder before it and the quantisation behind it; the first pattern that
matches counts. Only what the rules and the classes of `check` look at is here.
"""

from __future__ import annotations

import re
from typing import Any


def _model(architecture: str, experts: int, top_k: int, **more: Any) -> dict[str, Any]:
    # one of the names under which vLLM looks for the number of experts; the families' own differ
    return {"architectures": [architecture], "n_routed_experts": experts, "num_experts_per_tok": top_k, **more}


_MLA = {"kv_lora_rank": 512}
_WIDE_MLA = {**_MLA, "q_lora_rank": 1536}
_SPARSE = {**_MLA, "index_topk": 2048}
_PRO: dict[str, Any] = {"index_topk": 1024, "compress_ratios": []}
_FLASH: dict[str, Any] = {"index_topk": 512, "compress_ratios": []}
# DeepSeek's own checkpoints: linear layers in float8, experts in mxfp4
_OWN_FP8 = {"quantization_config": {"quant_method": "fp8"}}
_LINEAR = {"full_attention_interval": 4}

# pattern of the name (see `_plain`) -> config.json
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"deepseek-v4-pro$", _model("DeepseekV4ForCausalLM", 384, 6, **_PRO, **_OWN_FP8)),
    (r"deepseek-v4-pro", _model("DeepseekV4ForCausalLM", 384, 6, **_PRO)),
    (r"deepseek-v4-flash$", _model("DeepseekV4ForCausalLM", 256, 6, **_FLASH, **_OWN_FP8)),
    (r"deepseek-v4-flash(?!-vision)", _model("DeepseekV4ForCausalLM", 256, 6, **_FLASH)),
    (r"deepseek-v3\.2", _model("DeepseekV32ForCausalLM", 256, 8, **_SPARSE)),
    (r"deepseek-(v3|r1)|dsk-v3|r1$", _model("DeepseekV3ForCausalLM", 256, 8, **_WIDE_MLA)),
    (r"deepseek-v2-lite", _model("DeepseekV2ForCausalLM", 64, 6, **_MLA)),
    (r"deepseek-v2", _model("DeepseekV2ForCausalLM", 160, 6, **_WIDE_MLA)),
    (r"kimi-k2\.[56]", _model("KimiK25ForConditionalGeneration", 384, 8, **_MLA)),
    (r"kimi-k2", _model("DeepseekV3ForCausalLM", 384, 8, **_WIDE_MLA)),
    (r"kimi-k3", _model("KimiK3ForCausalLM", 896, 16, linear_attn_config={})),
    (
        r"glm-?5\.3-flash",
        _model("Glm5NextForConditionalGeneration", 288, 8, linear_attn_config={}, **_SPARSE),
    ),
    (r"glm-?5", _model("GlmMoeDsaForCausalLM", 256, 8, **_SPARSE)),
    (r"glm-?4\.[567](?!-(air|flash))|glm4\.x", _model("Glm4MoeForCausalLM", 160, 8)),
    (r"minimax-m2", _model("MiniMaxM2ForCausalLM", 256, 8)),
    (r"mixtral-8x7b", _model("MixtralForCausalLM", 8, 2)),
    (r"gpt-oss-120b", _model("GptOssForCausalLM", 128, 4)),
    (r"hy3", _model("HYV3ForCausalLM", 192, 8)),
    (r"hunyuan-a13b", _model("HunYuanMoEV1ForCausalLM", 64, 8)),
    (r"qwen3\.5-397b", _model("Qwen3_5MoeForConditionalGeneration", 512, 10, **_LINEAR)),
    (r"qwen3\.[56]-35b", _model("Qwen3_5MoeForConditionalGeneration", 256, 8, **_LINEAR)),
    (r"qwen3-next-80b", _model("Qwen3NextForCausalLM", 512, 10, **_LINEAR)),
    (r"qwen3-omni-30b", _model("Qwen3OmniMoeForConditionalGeneration", 128, 8)),
    (r"qwen3-vl-235b", _model("Qwen3VLMoeForConditionalGeneration", 128, 8)),
    (r"qwen3-vl-30b", _model("Qwen3VLMoeForConditionalGeneration", 128, 8)),
    (r"qwen3-(coder-)?30b", _model("Qwen3MoeForCausalLM", 128, 8)),
    (r"qwen3-coder-480b", _model("Qwen3MoeForCausalLM", 160, 8)),
    (r"qwen3-235b", _model("Qwen3MoeForCausalLM", 128, 8)),
)


def _plain(name: str) -> str:
    """Returns the last part of a path or of "organisation/model", in lower case, words joined by hyphens."""
    return re.sub(r"[\s_]+", "-", name.rstrip("/").rpartition("/")[2].lower())


def known_config(name: str) -> dict[str, Any] | None:
    """Returns the facts of the config.json of a model that is known by its name, else None."""
    return next((dict(config) for pattern, config in MODELS if re.match(pattern, _plain(name))), None)

"""The model types whose rotation resrope knows, engine by engine; every reader refuses the others.

Model types without the suffix "_text". Derived from each engine's own source: what its model file does with
rope_parameters or rope_scaling, and for transformers and MLX-LM what the built modules hold.
"""

from __future__ import annotations

from resrope.models.engines.reading import names

# 5.23: modeling files that go through ROPE_INIT_FUNCTIONS, their tables compared bit by bit.
TRANSFORMERS_5 = names(
    "afmoe apertus arcee aria axk1 axk2 bailing_hybrid bamba bitnet blt chameleon cohere cohere2 csm cwm "
    "dbrx deepseek_v2 deepseek_v3 deepseek_v32 diffllama doge dots1 emu3_text_model ernie4_5 ernie4_5_moe "
    "esmc eurobert exaone4 exaone_moe falcon falcon_h1 flex_olmo flint gemma gemma2 gemma3 gemma3n gemma4 "
    "gemma4_unified glm glm4 glm4_moe glm4_moe_lite glm4v glm4v_moe glm_moe_dsa glm_ocr gpt_neox "
    "gpt_neox_japanese gpt_oss granite granite_docling granite_swa granitemoe granitemoe_swa "
    "granitemoehybrid granitemoeshared gte helium hrm hunyuan_v1_dense hunyuan_v1_moe hunyuan_vl hy_v3 "
    "hy_v4 hyperclovax jais2 jetmoe jina_embeddings_v3 kolibri1 lfm2 lfm2_moe llama llama4 longcat_flash "
    "minicpm3 minimax minimax_m2 ministral ministral3 mistral mixtral mllama_text_model modernbert "
    "modernbert-decoder molmo2 muse_glimmer nanochat nemotron nomic_bert olmo olmo2 olmo3 olmo_hybrid "
    "olmoe paddleocr_vl persimmon phi phi3 phi4_multimodal phimoe qwen2 qwen2_5_omni qwen2_5_vl qwen2_moe "
    "qwen2_vl qwen3 qwen3_5 qwen3_5_moe qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe "
    "qwen4_exp recurrent_gemma seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma youtu"
)
# 4.57, likewise.
TRANSFORMERS_4 = names(
    "apertus arcee aria bamba bitnet blt cohere cohere2 csm deepseek_v2 deepseek_v3 diffllama doge dots1 "
    "ernie4_5 ernie4_5_moe exaone4 falcon falcon_h1 flex_olmo gemma gemma2 gemma3 gemma3n glm glm4 "
    "glm4_moe glm4v glm4v_moe gpt_neox gpt_neox_japanese gpt_oss granite granitemoe granitemoehybrid "
    "granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe jetmoe lfm2 llama llama4 longcat_flash "
    "minimax ministral mistral mixtral modernbert nemotron olmo olmo2 olmo3 olmoe persimmon phi phi3 "
    "phi4_multimodal phimoe qwen2 qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_moe qwen3_next qwen3_omni_moe "
    "qwen3_vl qwen3_vl_moe seed_oss smollm3 stablelm starcoder2 vaultgemma"
)
# vLLM 0.33.0 registers these for its Transformers backend, which keeps transformers' own rotation.
VLLM_THROUGH_TRANSFORMERS = names(
    "arcee cwm flex_olmo glm gpt_neox hunyuan_v1_dense hunyuan_v1_moe hunyuan_vl jais2 kolibri1 olmo "
    "olmo2 olmo3 phi seed_oss smollm3 starcoder2 vaultgemma"
)
# Its own model files that hand rope_parameters to get_rope.
VLLM = VLLM_THROUGH_TRANSFORMERS | names(
    "afmoe apertus aria cohere cohere2 dbrx deepseek_v2 deepseek_v3 ernie4_5 ernie4_5_moe exaone4 "
    "exaone_moe falcon falcon_h1 gemma gemma2 gemma3 gemma3n gemma4 gemma4_unified glm4 glm4_moe glm4v "
    "glm4v_moe glm_ocr gpt_oss granite granite_swa granitemoe granitemoe_swa granitemoehybrid "
    "granitemoeshared hy_v3 hyperclovax lfm2 lfm2_moe llama llama4 minimax_m2 ministral3 mistral mixtral "
    "molmo2 muse_glimmer nemotron olmo_hybrid olmoe paddleocr_vl phi3 phimoe qwen2 qwen2_5_omni "
    "qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_moe qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl "
    "qwen3_vl_moe stablelm"
)
# 0.5.23: the classes its model files register.
SGLANG = names(
    "afmoe apertus arcee cohere cohere2 dbrx deepseek_v2 deepseek_v3 deepseek_v32 ernie4_5_moe exaone4 "
    "exaone_moe falcon_h1 gemma gemma2 gemma3 gemma3n gemma4 gemma4_unified glm4 glm4_moe glm4v glm4v_moe "
    "glm_ocr gpt_oss granite granite_swa granitemoe granitemoehybrid hunyuan_v1_dense hunyuan_v1_moe "
    "hy_v3 lfm2 lfm2_moe llama llama4 minimax_m2 ministral3 mistral mixtral muse_glimmer olmo olmo2 olmoe "
    "paddleocr_vl persimmon phi phi3 phimoe qwen2 qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_moe "
    "qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe stablelm starcoder2"
)
# 0.32.2: model files of that name or of a twin.
MLX = names(
    "afmoe apertus bitnet cohere cohere2 dbrx deepseek deepseek_v2 deepseek_v3 deepseek_v32 dots1 "
    "ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon_h1 gemma gemma2 gemma3 gemma3n glm glm4 glm4_moe "
    "glm4_moe_lite glm_moe_dsa gpt_neox gpt_oss granite granitemoe granitemoehybrid helium "
    "hunyuan_v1_dense lfm2 lfm2_moe llama llama4 longcat_flash minicpm3 minimax minimax_m2 ministral3 "
    "mistral mixtral muse_glimmer nanochat nemotron olmo olmo2 olmo3 olmo_hybrid olmoe phi phi3 phimoe "
    "qwen2 qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe recurrent_gemma "
    "seed_oss smollm3 stablelm starcoder2"
)
# llama-cpp-python 0.3.36: classes that the converter registers.
LLAMA_CPP = names(
    "afmoe apertus arcee bamba bitnet chameleon cohere cohere2 dbrx deepseek_v2 deepseek_v3 deepseek_v32 "
    "dots1 ernie4_5 ernie4_5_moe eurobert exaone4 exaone_moe falcon falcon_h1 gemma gemma2 gemma3 gemma3n "
    "gemma4 gemma4_unified glm glm4 glm4_moe glm4_moe_lite glm4v glm4v_moe glm_moe_dsa glm_ocr gpt_neox "
    "gpt_oss granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared "
    "hunyuan_v1_dense hunyuan_v1_moe hunyuan_vl hy_v3 jais2 lfm2 lfm2_moe llama llama4 minicpm3 "
    "minimax_m2 ministral3 mistral mixtral modernbert muse_glimmer nemotron nomic_bert olmo olmo2 olmo3 "
    "olmoe paddleocr_vl phi phi3 phimoe qwen2 qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_moe "
    "qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe seed_oss smollm3 solar_open stablelm "
    "starcoder2 youtu"
)

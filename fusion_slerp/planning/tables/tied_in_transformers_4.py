"""The default of tying a head to an embedding in transformers 4.

Made by `python -m tests.tables.tied_embeddings` from transformers 4.57.6.
"""

from __future__ import annotations

TIED = frozenset(
    """
    aimv2 albert align altclip aya_vision bart beit bert bert-generation big_bird bigbird_pegasus biogpt
    blenderbot blenderbot-small blip blip-2 blip_2_qformer bloom bridgetower bros camembert chinese_clip clap
    clip clip_text_model clipseg clvp cohere cohere2 cohere2_vision colpali convbert cpmant ctrl
    data2vec-audio data2vec-text deberta deberta-v2 decision_transformer dia distilbert dpr electra ernie
    ernie4_5 ernie4_5_moe ernie_m falcon falcon_mamba fastspeech2_conformer flaubert flava florence2 fnet
    fsmt funnel gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_audio gemma3n_text gemma3n_vision got_ocr2
    gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox_japanese gptsan-japanese grounding-dino groupvit hubert ibert
    instructblip instructblipvideo jetmoe kosmos-2 kosmos-2.5 layoutlm layoutlmv2 layoutlmv3 led lfm2 lfm2_vl
    lilt longformer longt5 luke lxmert m2m_100 mamba marian markuplm mbart mctct mega megatron-bert
    metaclip_2 mm-grounding-dino mobilebert modernbert modernbert-decoder moonshine mpnet mpt mra mvp nezha
    nllb-moe nystromformer omdet-turbo openai-gpt opt owlv2 owlvit paligemma parakeet_ctc pegasus pegasus_x
    perceiver plbart pop2piano prophetnet qdqbert realm recurrent_gemma retribert roberta
    roberta-prelayernorm roc_bert roformer seamless_m4t seamless_m4t_v2 sew sew-d shieldgemma2 siglip siglip2
    smollm3 speech_to_text speech_to_text_2 speecht5 splinter squeezebert starcoder2 switch_transformers t5
    t5gemma tapas trajectory_transformer transfo-xl trocr tvp udop umt5 unispeech unispeech-sat vaultgemma
    visual_bert vits voxtral_encoder wav2vec2 wavlm whisper xclip xglm xlm xlm-prophetnet xlm-roberta
    xlm-roberta-xl xlnet xmod yoso zamba zamba2
    """.split()
)
"""Model types whose head is tied to the embedding if the key is absent."""

UNTIED = frozenset(
    """
    apertus arcee aria aria_text bamba bitnet blt chameleon code_llama codegen colqwen2 csm dbrx deepseek_v2
    deepseek_v3 deepseek_vl deepseek_vl_hybrid diffllama doge dots1 emu3 evolla exaone4 falcon_h1 flex_olmo
    fuyu git glm glm4 glm4_moe glm4v glm4v_moe glm4v_moe_text glm4v_text gpt_neox gpt_oss gptj granite
    granite_speech granitemoe granitemoehybrid granitemoeshared granitevision helium hunyuan_v1_dense
    hunyuan_v1_moe idefics idefics2 idefics3 imagegpt internvl jamba janus kyutai_speech_to_text llama llama4
    llama4_text llava llava_next llava_next_video llava_onevision longcat_flash mamba2 minimax ministral
    mistral mistral3 mixtral mllama moshi mt5 nemotron olmo olmo2 olmo3 olmoe open-llama ovis2 perception_lm
    persimmon phi phi3 phi4_multimodal phimoe pix2struct qwen2 qwen2_5_omni qwen2_5_vl qwen2_5_vl_text
    qwen2_audio qwen2_moe qwen2_vl qwen2_vl_text qwen3 qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl
    qwen3_vl_moe qwen3_vl_moe_text qwen3_vl_text reformer rembert rwkv seed_oss smolvlm stablelm video_llava
    vilt vipllava voxtral xlstm
    """.split()
)
"""Model types whose head is not tied if the key is absent."""

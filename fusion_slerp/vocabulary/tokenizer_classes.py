"""How classes of transformers number a tokenizer's added tokens, and whether they start a text with a token.

The tokenizers library numbers the added tokens of a tokenizer.json in their order in the file. Most
classes of transformers 4 and 5 load that file unchanged. But some of transformers 5 build the tokenizer from
its vocabulary, and then add the tokens in the order of their ids; a list in tokenizer_config.json takes
precedence. The two number tokens differently where the file's order is not that of the ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REBUILT = frozenset(
    "Albert Bart Barthez Bert BigBird Blenderbot CLIP Camembert CodeGen CodeLlama Cohere Cpm "
    "DPRContextEncoder DPRQuestionEncoder DPRReader Deberta DebertaV2 DistilBert Esmc Funnel GPT2 "
    "GPTNeoX Gemma Herbert LED Lasr LayoutLMv2 LayoutLMv3 LayoutXLM Llama Luke Lxmert MBart MBart50 "
    "MLuke MPNet MarkupLM MobileBert Mvp Nllb Nougat OpenAIGPT Pegasus Qwen2 Qwen3_5 Reformer RemBert "
    "RoFormer Roberta SeamlessM4T Siglip2 Splinter SqueezeBert T5 Tipsv2 Udop VideoPrism Whisper XGLM "
    "XLMRoberta XLNet".split()
)
"""Classes of transformers 5.23, without the end `Tokenizer`, that build the tokenizer from its vocabulary."""

ADD_BOS = {"Llama": True, "CodeLlama": True, "Gemma": True, "Cohere": True, "GPT2": False, "Qwen2": False}
"""Whether classes start a text with a token if `add_bos_token` is absent; others follow tokenizer.json."""


def class_of(config: Mapping[str, Any]) -> str:
    """Returns the class in a tokenizer_config.json, without `Tokenizer` or `TokenizerFast` at its end."""
    name = config.get("tokenizer_class")
    return name.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(name, str) else ""


def is_rebuilt(config: Mapping[str, Any], kind: str) -> bool:
    """Whether transformers 5 builds a tokenizer from its vocabulary.

    Args:
        config: Its tokenizer_config.json.
        kind: Of its model, as `pipeline.kind_of`: with byte-level BPE, `LlamaTokenizer` is not used.
    """
    name = class_of(config)
    return name in REBUILT and not (name == "Llama" and kind.startswith("byte-level"))

"""Tiny image-text-to-text models with random weights, saved as real ones are: LLaVA, Qwen2-VL, Gemma 3."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from worker.vlm.package import VlmManifest, seal_vlm_package

CORPUS = (
    "yes no Yes No yes no Yes No Answer with one word: yes or no. USER: ASSISTANT: assistant user system "
    "You are a helpful assistant. Here is a list of available expert models: This is a CXR image. The resulting "
    "predictions are: Does the film show effusion?",
)

# As published with llava-hf/llava-1.5-7b-hf: images first, turns told apart by words.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# As published with Qwen/Qwen2-VL-2B-Instruct.
QWEN_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# As published with google/gemma-3-4b-it and google/medgemma-4b-it, without their system turn.
GEMMA_TEMPLATE = (
    "{{ bos_token }}{%- for message in messages -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    '{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}{%- endif -%}'
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\n' }}{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}"
    "{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{'<start_of_turn>model\n'}}{%- endif -%}"
)

LLAVA_SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip

GEMMA_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
GEMMA_IMAGE = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}


def write_llava(folder: Path, *, seed: int = 0, says_yes: bool = False, promise: dict[str, Any] | None = None):
    """Write a LLaVA: CLIP tower of 28 pixels in patches of 14, so four tokens an image, and a Llama decoder."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(LLAVA_SPECIAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28,
                patch_size=14, projection_dim=16,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            image_token_id=image, image_seq_length=4, vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    )  # fmt: skip
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return _write(folder, model, processor, says_yes=says_yes, promise=promise)


def write_qwen(folder: Path, *, seed: int = 1, says_yes: bool = False, promise: dict[str, Any] | None = None):
    """Write a Qwen2-VL: pictures keep their shape, so the number of tokens depends on the picture."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(QWEN_SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in QWEN_SPECIAL}
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            vision_config={
                "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14,
                "spatial_merge_size": 2, "temporal_patch_size": 2,
            },
            text_config={
                "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
                "bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
            },
            image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        )
    )  # fmt: skip
    limits = {"min_pixels": 28 * 28, "max_pixels": 84 * 84}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**limits),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**limits),
        chat_template=QWEN_TEMPLATE,
    )
    return _write(folder, model, processor, says_yes=says_yes, promise=promise)


def write_gemma(folder: Path, *, seed: int = 0, says_yes: bool = False, promise: dict[str, Any] | None = None):
    """Write a Gemma 3, as MedGemma is: sliding windows, one mark for an image in the text, another in its place."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(
        GEMMA_SPECIAL, GEMMA_IMAGE, bos_token="<bos>", eos_token="<end_of_turn>", unk_token="<unk>", pad_token="<pad>"
    )
    marks = {name: tokenizer.convert_tokens_to_ids(token) for name, token in GEMMA_IMAGE.items()}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={
                "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
                "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8,
                "sliding_window": 16, "max_position_embeddings": 2048, "initializer_range": 0.3,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config={
                "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                "image_size": 56, "patch_size": 14,
            },
            mm_tokens_per_image=4, boi_token_index=marks["boi_token"], eoi_token_index=marks["eoi_token"],
            image_token_index=marks["image_token"], tie_word_embeddings=False,
        )
    )  # fmt: skip
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)  # begins as zeros
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        chat_template=GEMMA_TEMPLATE,
        image_seq_length=4,
    )
    return _write(folder, model, processor, says_yes=says_yes, promise=promise)


def write_server_package(folder: Path, url: str, model: str, **server: Any) -> VlmManifest:
    """Write a package that names a server and holds no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    address = {"url": url, "model": model, **server}
    return seal_vlm_package(folder, {**PROMISE, "backend": "openai", "server": address})


PROMISE = {
    "name": "random", "version": "0", "licence": "Apache-2.0", "base": "none", "demonstration": True,
    "intended_use": "Tests", "modalities": ["CXR", "CT", "MRI"], "backend": "hf",
}  # fmt: skip


def reseal(folder: Path, **promise: Any) -> VlmManifest:
    """Seal a folder again after a test changed it."""
    return seal_vlm_package(folder, PROMISE | promise)


def edit_json(path: Path, **values: Any) -> None:
    """Change values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _write(folder, model, processor, *, says_yes, promise):
    tokenizer = processor.tokenizer
    if says_yes:
        _say_yes(model, tokenizer)
    else:
        # A random model ends an answer by chance: one token in eleven is an end.
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(10, len(tokenizer), 11)]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return seal_vlm_package(folder, PROMISE | (promise or {}))


def _say_yes(model, tokenizer) -> None:
    """Make a random model answer "yes" and stop, whatever it is asked and shown.

    One channel of the residual stream outweighs the others: its sign says whether "yes" was written already.
    """
    yes = tokenizer("yes", add_special_tokens=False).input_ids[0]
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        embeddings[:, 0] = 50.0
        embeddings[yes, 0] = -50.0
        head[:, 0] = 0.0
        head[yes, 0] = 10.0
        head[tokenizer.eos_token_id, 0] = -10.0


def _tokenizer(special: tuple[str, ...], images: dict[str, str] | None = None, **named: str) -> PreTrainedTokenizerFast:
    written = [*special, *(images or {}).values()]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(written) + 400, special_tokens=written, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS * 8, trainer)
    if "bos_token" in named:  # a Llama tokenizer begins every text with it
        bos = named["bos_token"]
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    extra = images or [AddedToken(token, special=True) for token in special if token not in named.values()]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=2048, extra_special_tokens=extra, **named
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special], special_tokens=True)
    return tokenizer

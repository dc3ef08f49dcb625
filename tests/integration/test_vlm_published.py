"""Folders in the exact layout of the published 3B, 8B and 13B: loaded, read and stopped as the reference does."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

from config.errors import ConfigurationError, ModelPackageError
from tests.published_checkpoint import SIZES, seal_published, write_published
from worker.vlm.backends import Conversation
from worker.vlm.front_end import IMAGE_ID, tokenise
from worker.vlm.templates import Message
from worker.vlm.vila_m3 import VilaM3

ROOT_FILES = {"config.json", "trainer_state.json", "README.md", "LICENSE", "LLAMA3-LICENSE", "manifest.json"}
PART_FILES = {
    "llm/config.json", "llm/generation_config.json", "llm/model.safetensors.index.json",
    "llm/special_tokens_map.json", "llm/tokenizer_config.json", "mm_projector/config.json",
    "mm_projector/model.safetensors", "vision_tower/config.json", "vision_tower/model.safetensors",
    "vision_tower/preprocessor_config.json",
}  # fmt: skip
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
OVERLAY = PICTURE[::-1].copy()
SHARD = "llm/model-00001-of-00003.safetensors"
LLAMA_3_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
TURNS = [
    Message("user", "cards\n<image>\nThis is a CT image.\nIs there a tumor?"),
    Message("assistant", "Let me trigger <VISTA3D(hepatic tumor)>."),
    Message("user", "The results are <image>\n. The colors in this image describe red: liver. "),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    for size in SIZES:
        write_published(root / size, size)
    write_published(root / "8B+BOS", "8B", adds_bos=True)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, VilaM3]:
    return {name: VilaM3.load(folder, dtype=torch.bfloat16) for name, folder in folders.items()}


@pytest.fixture
def own(tmp_path: Path, folders: dict[str, Path]) -> Path:
    return shutil.copytree(folders["3B"], tmp_path / "3B")


@pytest.mark.parametrize("size", ["3B", "8B", "13B"])
def test_the_folder_is_laid_out_as_published(folders, size):
    names = {path.relative_to(folders[size]).as_posix() for path in folders[size].rglob("*") if path.is_file()}
    weights = {name for name in names if name.startswith("llm/model-0")}
    tokenizer = {"llm/tokenizer.json"} if size == "8B" else {"llm/tokenizer.model"}
    assert names == ROOT_FILES | PART_FILES | tokenizer | weights
    assert len(weights) > 1


@pytest.mark.parametrize("size", ["3B", "8B", "13B"])
def test_every_published_tensor_arrives_bit_for_bit_in_bfloat16(folders, loaded, size):
    model = loaded[size]
    llm = {}
    for shard in sorted((folders[size] / "llm").glob("*.safetensors")):
        llm |= load_file(shard)
    tower = load_file(folders[size] / "vision_tower" / "model.safetensors")
    assert all(name.startswith("vision_model.") for name in tower)
    assert "vision_model.head.probe" in tower, "the pooling head is part of the file, and never used"
    arrived = {name.removeprefix("vision_model."): value for name, value in model.tower.state_dict().items()}
    projector = load_file(folders[size] / "mm_projector" / "model.safetensors")
    assert set(projector) == {f"layers.{n}.{kind}" for n in (1, 2, 4) for kind in ("weight", "bias")}
    for made, wanted in (
        (model.llm.state_dict(), llm),
        (arrived, {name.removeprefix("vision_model."): value for name, value in tower.items()}),
        (model.projector.state_dict(), projector),
    ):
        assert made.keys() == wanted.keys()
        assert {value.dtype for value in made.values()} == {torch.bfloat16}
        assert all(torch.equal(made[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_parity_arithmetic_can_be_chosen(folders, dtype):
    model = VilaM3.load(folders["8B"], dtype=dtype)
    parts = (model.llm, model.tower, model.projector)
    assert {parameter.dtype for part in parts for parameter in part.parameters()} == {dtype}
    assert model.runtime["dtype"] == str(dtype).removeprefix("torch.")
    assert np.isfinite(model.answer_each([TURNS[0]], [PICTURE], [""])[0].margin)


@pytest.mark.parametrize(
    ("size", "heads", "theta", "context"), [("3B", (20, 20), 1e4, 4096), ("8B", (8, 2), 5e5, 4096)]
)
def test_attention_rope_and_context_are_the_checkpoints(loaded, size, heads, theta, context):
    config = loaded[size].llm.config
    assert (config.num_attention_heads, config.num_key_value_heads) == heads
    assert config.rope_parameters["rope_theta"] == theta
    assert loaded[size].context_tokens == context
    assert loaded[size].llm.model.rotary_emb.inv_freq[1] == pytest.approx(
        theta ** (-2 / (config.hidden_size // heads[0])), rel=1e-6
    )


def test_stop_sets_are_the_published_ones(loaded):
    first = loaded["8B"].llm.config.vocab_size - 257
    assert loaded["8B"]._stop_ids == {first + 1, first + 9}  # 128001 and 128009
    assert loaded["3B"]._stop_ids == loaded["13B"]._stop_ids == {2}
    assert loaded["8B"].tokenizer.convert_ids_to_tokens([first + 1, first + 9]) == ["<|end_of_text|>", "<|eot_id|>"]
    assert loaded["8B"].tokenizer.convert_tokens_to_ids("[PAD]") == first + 256


def _pieces(folder: Path, text: str, *, prefix: bool) -> list[int]:
    """SentencePiece itself, with or without its prefix space: the latter is what follows a special token."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "llm" / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = prefix
    return list(sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString()).encode(text))


@pytest.mark.parametrize("size", ["3B", "13B"])
def test_sentencepiece_prompts_are_split_as_the_reference_splits_them(folders, loaded, size):
    """BOS once, each piece with its own prefix, no prefix after ``</s>``."""
    folder = folders[size]
    head = VICUNA_SYSTEM + "USER: This is "
    middle, tail = "\na CT. ASSISTANT: yes", "USER: The results are ASSISTANT:"
    expected = [1, *_pieces(folder, head, prefix=True), IMAGE_ID, *_pieces(folder, middle, prefix=True), 2]
    expected += _pieces(folder, tail, prefix=False)
    assert tokenise(f"{head}<image>{middle}</s>{tail}", loaded[size].tokenizer) == expected


@pytest.mark.parametrize("name", ["8B", "8B+BOS"])
def test_the_bpe_prompt_follows_the_published_rule_with_and_without_automatic_bos(folders, loaded, name):
    raw = Tokenizer.from_file(str(folders[name] / "llm" / "tokenizer.json"))
    bos = raw.token_to_id("<|begin_of_text|>")
    head, tail = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nThis ", "\nThis is a CT image.<|eot_id|>"
    start, rest = raw.encode(head).ids, raw.encode(tail).ids
    automatic = name == "8B+BOS"
    assert start[: 1 + automatic] == [bos] * (1 + automatic)
    made = tokenise(f"{head}<image>{tail}", loaded[name].tokenizer)
    assert made == [*start, IMAGE_ID, *rest[1:]]
    assert raw.decode([rest[0]], skip_special_tokens=False) == ("<|begin_of_text|>" if automatic else "\n")
    lossless = tokenise(f"{head}<image>{tail}", loaded[name].tokenizer, bos_rule="lossless")
    assert lossless == [*start, IMAGE_ID, *(rest[1:] if automatic else rest)]


LLAMA_3_PROMPT = (
    f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{LLAMA_3_SYSTEM}<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\ncards\n<image>\nThis is a CT image.\nIs there a tumor?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nLet me trigger <VISTA3D(hepatic tumor)>.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nThe results are <image>\n. The colors in this image describe red: "
    "liver. <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
VICUNA_PROMPT = (
    f"{VICUNA_SYSTEM}USER: cards\n<image>\nThis is a CT image.\nIs there a tumor? ASSISTANT: Let me trigger "
    "<VISTA3D(hepatic tumor)>.</s>USER: The results are <image>\n. The colors in this image describe red: liver.  "
    "ASSISTANT:"
)


def stopping(source: Path, target: Path, size: str) -> Path:
    """A copy whose own generation settings end an answer at one token in eight: random weights know no stop."""
    shutil.copytree(source, target)
    path = target / "llm" / "generation_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"eos_token_id": [content["eos_token_id"], *range(3, 400, 8)]}))
    seal_published(target, size)
    return target


def hand_spliced(model: VilaM3, folder: Path, size: str) -> torch.Tensor:
    """The embeddings of `TURNS`, put together from the published rules without our front end."""
    prompt = LLAMA_3_PROMPT if size == "8B" else VICUNA_PROMPT
    chunks = prompt.split("<image>")
    if size == "8B":
        raw = Tokenizer.from_file(str(folder / "llm" / "tokenizer.json"))
        first, *rest = [raw.encode(chunk).ids for chunk in chunks]
        ids = [first, *(chunk[1:] for chunk in rest)]
    else:
        whole, after = chunks[1].split("</s>")
        ids = [
            [1, *_pieces(folder, chunks[0], prefix=True)],
            [*_pieces(folder, whole, prefix=True), 2, *_pieces(folder, after, prefix=False)],
            _pieces(folder, chunks[2], prefix=True),
        ]
    parts = []
    for number, chunk in enumerate(ids):
        parts.append(model.llm.model.embed_tokens(torch.tensor([chunk])))
        if number < 2:
            squashed = Image.fromarray((PICTURE, OVERLAY)[number]).resize((384, 384), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.asarray(squashed, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
            states = model.tower(pixel_values=pixels.to(model.llm.dtype), output_hidden_states=True).hidden_states
            parts.append(model.projector(states[2]))  # three layers: states 0 to 3, the one before the last
            assert parts[-1].shape == (1, 196, model.llm.config.hidden_size)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("size", ["3B", "8B", "13B"])
def test_an_answer_is_the_greedy_one_over_hand_spliced_embeddings_whatever_the_settings_say(folders, tmp_path, size):
    """13B's settings ask for sampling; every step here is one argmax over everything encoded again."""
    folder = stopping(folders[size], tmp_path / size, size)
    model = VilaM3.load(folder, dtype=torch.float32)
    assert bool(model.llm.generation_config.do_sample) == (size == "13B")
    torch.manual_seed(1)
    made = model.generate(TURNS, [PICTURE, OVERLAY], max_new_tokens=200)
    assert made.prompt == (LLAMA_3_PROMPT if size == "8B" else VICUNA_PROMPT)
    stops = {*range(3, 400, 8), *((401, 409) if size == "8B" else (2,))}
    expected: list[int] = []
    with torch.inference_mode():
        embeddings = hand_spliced(model, folder, size)
        while not expected or expected[-1] not in stops:
            expected.append(int(model.llm(inputs_embeds=embeddings).logits[0, -1].argmax()))
            embeddings = torch.cat([embeddings, model.llm.model.embed_tokens(torch.tensor([[expected[-1]]]))], dim=1)
    assert list(made.token_ids) == expected
    assert made.token_count == len(expected)
    torch.manual_seed(2)
    assert model.generate(TURNS, [PICTURE, OVERLAY], max_new_tokens=200) == made


def _edit(folder: Path, name: str, change) -> None:
    state = load_file(folder / name)
    change(state)
    save_file(state, folder / name, metadata={"format": "pt"})
    seal_published(folder, "3B")


@pytest.mark.parametrize("part", [SHARD, "vision_tower/model.safetensors", "mm_projector/model.safetensors"])
@pytest.mark.parametrize("fault", ["missing", "surplus", "misshaped"])
def test_a_tensor_that_does_not_fit_is_refused_by_name_in_each_part(own, part, fault):
    name = next(
        key for key in sorted(load_file(own / part)) if key.endswith(("bias", "norm.weight", "embed_tokens.weight"))
    )

    def change(state: dict[str, torch.Tensor]) -> None:
        if fault == "missing":
            del state[name]
        elif fault == "surplus":
            state["surplus.weight"] = torch.zeros(2)
        else:
            state[name] = torch.zeros(3, 5)

    _edit(own, part, change)
    wanted = "surplus.weight" if fault == "surplus" else name.removeprefix("vision_model.")
    with pytest.raises(ModelPackageError, match=wanted.replace(".", r"\.")):
        VilaM3.load(own)


def test_a_missing_shard_is_refused_by_name(own):
    (own / SHARD).unlink()
    seal_published(own, "3B")
    with pytest.raises(ModelPackageError, match=r"shard model-00001-of-00003\.safetensors is missing"):
        VilaM3.load(own)


def test_an_index_that_names_a_tensor_no_shard_has_is_refused(own):
    path = own / "llm" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.ghost.weight"] = SHARD.removeprefix("llm/")
    path.write_text(json.dumps(index))
    seal_published(own, "3B")
    with pytest.raises(ModelPackageError, match=r"model\.ghost\.weight is in no shard"):
        VilaM3.load(own)


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(own, content):
    (own / "llm" / "model.safetensors.index.json").write_text(content)
    seal_published(own, "3B")
    with pytest.raises(ModelPackageError):
        VilaM3.load(own)


@pytest.mark.parametrize("part", [SHARD, "vision_tower/model.safetensors", "mm_projector/model.safetensors"])
@pytest.mark.parametrize("damage", ["cut short", "no header", "empty"])
def test_damaged_weights_are_refused_even_when_the_manifest_was_made_of_them(own, part, damage):
    content = (own / part).read_bytes()
    made = {"cut short": content[: len(content) // 2], "no header": b"\xff" * len(content), "empty": b""}
    (own / part).write_bytes(made[damage])
    seal_published(own, "3B")
    with pytest.raises(ModelPackageError):
        VilaM3.load(own)


def test_a_damaged_tokenizer_is_refused(own):
    (own / "llm" / "tokenizer.model").write_bytes(b"\xff" * 400)
    seal_published(own, "3B")
    with pytest.raises(ModelPackageError):
        VilaM3.load(own)


@pytest.mark.parametrize("name", ["llm/tokenizer.model", "llm/config.json", "vision_tower/preprocessor_config.json"])
def test_a_folder_without_a_needed_file_is_refused(own, name):
    (own / name).unlink()
    seal_published(own, "3B")
    with pytest.raises(ModelPackageError):
        VilaM3.load(own)


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_aspect_ratio", "pad"), ("mm_vision_select_layer", -1), ("s2", True), ("mm_use_im_start_end", True)],
)
def test_another_front_end_is_refused_by_key(own, key, value):
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {key: value}))
    seal_published(own, "3B")
    with pytest.raises(ModelPackageError, match=f"{key} is {value!r}"):
        VilaM3.load(own)


def test_a_template_whose_stop_tokens_the_tokenizer_lacks_is_refused(own):
    seal_published(own, "8B")  # llama_3 over a Llama-2 tokenizer
    with pytest.raises(ModelPackageError, match=r"<\|eot_id\|>, which the tokenizer does not have"):
        VilaM3.load(own)


def test_more_tokens_than_rows_are_refused(own):
    path = own / "llm" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["added_tokens_decoder"]["460"] = config["added_tokens_decoder"]["2"] | {"content": "<extra>"}
    path.write_text(json.dumps(config))
    seal_published(own, "3B")
    with pytest.raises(ModelPackageError, match="461 tokens, the decoder 460 rows"):
        VilaM3.load(own)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("quantization", "kind"), [("8bit", "Linear8bitLt"), ("4bit", "Linear4bit")])
def test_quantised_weights_are_the_decoders_only(folders, quantization, kind):
    plain = VilaM3.load(folders["8B"], dtype=torch.bfloat16)
    model = VilaM3.load(folders["8B"], dtype=torch.bfloat16, quantization=quantization)
    assert type(model.llm.model.layers[0].mlp.up_proj).__name__ == kind
    assert {p.dtype for part in (model.tower, model.projector) for p in part.parameters()} == {torch.bfloat16}
    assert model.llm.get_memory_footprint() < plain.llm.get_memory_footprint()
    assert (model.runtime["quantization"], model.runtime["dtype"]) == (quantization, "bfloat16")
    close = model.answer_each([TURNS[0]], [PICTURE], [""])[0], plain.answer_each([TURNS[0]], [PICTURE], [""])[0]
    signed = [answer.margin if answer.text == "yes" else -answer.margin for answer in close]
    assert signed[0] == pytest.approx(signed[1], abs=1.5)


def test_quantisation_without_bitsandbytes_is_a_configuration_error(folders, monkeypatch):
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == "bitsandbytes":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ConfigurationError, match="bitsandbytes, which is not installed"):
        VilaM3.load(folders["8B"], quantization="4bit")


def test_accelerate_places_the_decoder(folders):
    model = VilaM3.load(folders["8B"], dtype=torch.float32, device_map="auto")
    alone = VilaM3.load(folders["8B"], dtype=torch.float32)
    assert model.runtime["device_map"] == "auto"
    assert model.answer_each([TURNS[0]], [PICTURE], [""]) == alone.answer_each([TURNS[0]], [PICTURE], [""])


def test_what_a_draft_records_of_the_computation(loaded):
    runtime = loaded["8B"].runtime
    assert all(isinstance(value, str) and value for value in runtime.values())
    assert (runtime["dtype"], runtime["device"], runtime["quantization"]) == ("bfloat16", "cpu", "none")
    assert runtime["attention"] == "sdpa"
    assert runtime["torch"] == torch.__version__
    card = loaded["8B"].card
    assert (card.research_only, card.style) == (True, "trained")


def test_the_style_can_be_set_where_the_model_is_loaded(folders):
    assert VilaM3.load(folders["3B"], style="demo").card.style == "demo"


def test_a_batch_of_bfloat16_answers_like_one_by_one_on_these_weights(folders, tmp_path):
    """Not promised in bfloat16 in general: rounding may tip a near tie. Here no tie is near."""
    model = VilaM3.load(stopping(folders["8B"], tmp_path / "8B", "8B"), dtype=torch.bfloat16, kv_cache_mb=0)
    talks = [Conversation((TURNS[0],), (picture,)) for picture in (PICTURE, OVERLAY, PICTURE.swapaxes(0, 1))]
    together = model.generate_batch(talks, max_new_tokens=100)
    assert [model.generate(talk.messages, talk.images, max_new_tokens=100) for talk in talks] == together

"""Keys and values of the pretrained VLMs against transformers' own processor and forward pass."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from vlm_checkpoints import FAMILIES, TEXT_LAYERS, write_checkpoint

from ulna.policies.vlm import VlmBackbone, VlmConfig, VlmContext

WORDS = ("pick up the red cube", "push the blue plate to the left")
EXACT_SIZE = {
    "smolvlm": (32, 32),
    "paligemma": (28, 28),
    "qwen2_5_vl": (32, 48),
    "qwen3_vl": (32, 48),
}
"""Frames that no processor resizes, once SmolVLM's first resize is set to the same 32."""


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("vlm")
    return {family: write_checkpoint(root / family, family) for family in FAMILIES}


def build(folder: Path, **config: object) -> VlmBackbone:
    return VlmBackbone(VlmConfig(weights=str(folder), dtype="float32", **config)).eval()  # type: ignore[arg-type]


def frames(height: int, width: int, rows: int = 2, cameras: Sequence[str] = ("front", "wrist")):
    generator = torch.Generator().manual_seed(height)
    return {
        camera: torch.randint(
            0, 256, (rows, height, width, 3), dtype=torch.uint8, generator=generator
        )
        for camera in cameras
    }


def reference(
    folder: Path, family: str, images: Mapping[str, Tensor], words: str, row: int
) -> tuple[dict, list[Tensor], list[Tensor]]:
    """What plain transformers says about one row: processor inputs, keys, values."""
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").eval()
    pictures = [tensor[row].permute(2, 0, 1) for tensor in images.values()]
    options: dict = {}
    if family == "paligemma":
        text = "<image>" * len(pictures) + words
    else:
        content: list[dict] = [{"type": "image"} for _ in pictures]
        content.append({"type": "text", "text": words})
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
    if family == "smolvlm":
        options["do_image_splitting"] = False
    inputs = processor(text=[text], images=[pictures], return_tensors="pt", **options)
    inputs.pop("labels", None)
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    return dict(inputs), [layer.keys for layer in cache.layers], [x.values for x in cache.layers]


def of_row(tensor: Tensor, context: VlmContext, row: int) -> Tensor:
    """A row's keys or values without its padding."""
    return tensor[row : row + 1, :, context.valid[row]]


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(family, tmp_path) -> None:
    folder = write_checkpoint(tmp_path, family)
    settings = folder / "preprocessor_config.json"
    # SmolVLM's first resize is to 128 otherwise
    settings.write_text(settings.read_text().replace('"longest_edge": 128', '"longest_edge": 32'))
    backbone, images = build(folder), frames(*EXACT_SIZE[family])
    context = backbone.context(images, WORDS)
    for row, words in enumerate(WORDS):
        _, keys, values = reference(folder, family, images, words, row)
        for layer in range(TEXT_LAYERS):
            mine = of_row(context.keys[layer], context, row)
            assert mine.shape == keys[layer].shape
            torch.testing.assert_close(mine, keys[layer], atol=2e-5, rtol=0)
            mine = of_row(context.values[layer], context, row)
            torch.testing.assert_close(mine, values[layer], atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_its_neighbours(checkpoints, family) -> None:
    """A missing camera in one row, other words in another: as if each row were alone."""
    backbone, images = build(checkpoints[family]), frames(40, 52, rows=3)
    words = (WORDS[0], WORDS[1], "go")
    valid = {
        "front": torch.tensor([True, True, False]),
        "wrist": torch.tensor([False, True, True]),
    }
    context = backbone.context(images, words, valid)
    for row in range(3):
        alone = {name: x[row : row + 1] for name, x in images.items() if valid[name][row]}
        single = backbone.context(alone, words[row : row + 1])
        assert single.valid.all()
        assert single.next_position == context.next_position[row]
        for layer in range(TEXT_LAYERS):
            torch.testing.assert_close(
                of_row(context.keys[layer], context, row), single.keys[layer], atol=2e-5, rtol=0
            )
            torch.testing.assert_close(
                of_row(context.values[layer], context, row), single.values[layer], atol=2e-5, rtol=0
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_cameras_are_not_encoded(checkpoints, family, monkeypatch) -> None:
    backbone, images = build(checkpoints[family]), frames(40, 52)
    encoded: list[int] = []
    encode = backbone.family.encode

    def counted(model, pixels):
        encoded.append(len(pixels))
        return encode(model, pixels)

    monkeypatch.setattr(backbone.family, "encode", counted)
    valid = {"wrist": torch.tensor([False, False]), "front": torch.tensor([True, False])}
    context = backbone.context(images, WORDS, valid)
    assert sum(encoded) == 1
    groups = [group for group, _ in context.layout]
    assert "image.wrist" not in groups and "image.front" in groups
    assert sum(length for _, length in context.layout) == context.valid.shape[1]
    encoded.clear()
    context = backbone.context({}, WORDS)
    assert not encoded and {group for group, _ in context.layout} == {"text"}


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_go_on_where_the_model_would(checkpoints, family) -> None:
    """`next_position` is the position transformers gives the token after the prompt."""
    backbone, images = build(checkpoints[family]), frames(*EXACT_SIZE[family])
    context = backbone.context(images, WORDS)
    inputs, _, _ = reference(checkpoints[family], family, images, WORDS[0], 0)
    if family.startswith("qwen"):
        model = AutoModelForImageTextToText.from_pretrained(checkpoints[family]).model
        kinds = (inputs["input_ids"] == model.config.image_token_id).int()
        _, delta = model.get_rope_index(
            inputs["input_ids"], mm_token_type_ids=kinds, image_grid_thw=inputs["image_grid_thw"]
        )
        expected = inputs["input_ids"].shape[1] + int(delta)
    else:
        expected = inputs["input_ids"].shape[1] + (family == "paligemma")
    assert int(context.next_position[0]) == expected
    key = context.keys[0]
    assert key.shape[1] == backbone.kv_heads and key.shape[3] == backbone.head_dim
    assert backbone.rope_theta == backbone.text_model.config.rope_parameters["rope_theta"]


IMAGES = {"image.front", "image.wrist"}


def changed_groups(backbone: VlmBackbone, first: tuple, second: tuple) -> set[str]:
    """Groups whose keys differ in the last layer between two inputs of one layout."""
    contexts = [backbone.context(*given) for given in (first, second)]
    assert contexts[0].layout == contexts[1].layout
    difference = (contexts[0].keys[-1] - contexts[1].keys[-1]).abs().amax(dim=(0, 1, 3))
    changed, start = set(), 0
    for index, (group, length) in enumerate(contexts[0].layout):
        if difference[start : start + length].max() > 1e-6:
            first_text = group == "text" and index == 0
            changed.add("head" if first_text else group)
        start += length
    return changed


@pytest.mark.parametrize(
    ("family", "mask", "by_text", "by_wrist"),
    [
        ("smolvlm", "native", set(), {"image.wrist", "text"}),
        ("qwen2_5_vl", "native", set(), {"image.wrist", "text"}),
        ("qwen3_vl", "native", set(), {"image.wrist", "text"}),
        ("paligemma", "native", IMAGES, {*IMAGES, "text"}),
        ("smolvlm", "mma", IMAGES, {*IMAGES, "text"}),
        ("qwen2_5_vl", "mma", IMAGES, {*IMAGES, "text"}),
        ("qwen3_vl", "mma", IMAGES, {*IMAGES, "text"}),
        ("smolvlm", "bidirectional_vision", set(), {*IMAGES, "text"}),
        ("qwen3_vl", "bidirectional_vision", set(), {*IMAGES, "text"}),
        ("smolvlm", "prefix", {"head", *IMAGES}, {"head", *IMAGES, "text"}),
    ],
)
def test_who_sees_whom(checkpoints, family, mask, by_text, by_wrist) -> None:
    """Which groups' keys move when a word of the instruction or the second image changes. (Under
    `mma` the first image learns of the second through the instruction, in two layers.)"""
    backbone, images = build(checkpoints[family], mask=mask), frames(40, 52, rows=1)
    other = {**images, "wrist": 255 - images["wrist"]}
    words = ("pick q",), ("pick w",)  # as many tokens
    moved = changed_groups(backbone, (images, words[0]), (images, words[1]))
    assert moved == by_text | {"text"}
    assert changed_groups(backbone, (images, words[0]), (other, words[0])) == by_wrist


def test_mma_image_sees_text_in_one_layer(checkpoints) -> None:
    """The first layer's keys are the embeddings'; the second's have seen the text once."""
    backbone, images = build(checkpoints["smolvlm"], mask="mma"), frames(40, 52, rows=1)
    one, other = (backbone.context(images, (w,)) for w in ("pick q", "pick w"))
    start = one.layout[0][1]
    front = slice(start, start + one.layout[1][1])
    assert torch.equal(one.keys[0][:, :, front], other.keys[0][:, :, front])
    assert not torch.equal(one.keys[1][:, :, front], other.keys[1][:, :, front])


@pytest.mark.parametrize("family", FAMILIES)
def test_truncation_keeps_the_first_layers(checkpoints, family) -> None:
    images = frames(40, 52)
    whole = build(checkpoints[family])
    part = build(checkpoints[family], layers=2)
    long, short = whole.context(images, WORDS), part.context(images, WORDS)
    assert part.layers == len(short.keys) == 2
    for layer in range(2):
        assert torch.equal(long.keys[layer], short.keys[layer])
        assert torch.equal(long.values[layer], short.values[layer])
    names = set(part.state_dict())
    assert not any("lm_head" in name or ".layers.2." in name for name in names if "vis" not in name)
    last = {name for name in names if f"{part.family.text_name}.layers.1." in name}
    assert {
        name.split(".layers.1.")[1].split(".weight")[0] for name in last if "weight" in name
    } >= {
        "input_layernorm",
        "self_attn.k_proj",
        "self_attn.v_proj",
    }
    assert not any("mlp" in name or "q_proj" in name or "o_proj" in name for name in last)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(checkpoints, family) -> None:
    backbone = VlmBackbone(VlmConfig(weights=str(checkpoints[family])))
    assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}
    context = backbone.context(frames(40, 52), WORDS)
    exact = build(checkpoints[family]).context(frames(40, 52), WORDS)
    assert context.keys[-1].dtype == torch.bfloat16
    error = (context.keys[-1].float() - exact.keys[-1])[
        exact.valid[:, None].expand_as(exact.keys[-1][..., 0])
    ]
    assert error.square().mean().sqrt() < 0.05 * exact.keys[-1].std()


def test_words_are_tokenised_once(checkpoints, monkeypatch) -> None:
    backbone, images = build(checkpoints["smolvlm"]), frames(40, 52)
    calls: list[str] = []
    tokenizer = backbone.planner.prompt.tokenizer
    encode = tokenizer.encode
    monkeypatch.setattr(
        tokenizer, "encode", lambda text, **k: calls.append(text) or encode(text, **k)
    )
    backbone.context(images, WORDS)
    seen = len(calls)
    assert seen
    backbone.context(images, WORDS[::-1])
    backbone.context(images, (WORDS[0], WORDS[0]))
    assert len(calls) == seen


def test_smolvla_prompt(checkpoints) -> None:
    """No chat, no marks around images, and text first if the template says so."""
    plain = build(checkpoints["smolvlm"], prompt="{images}{instruction}\n", image_marks=False)
    context = plain.context(frames(40, 52), ("go", "go on"))
    assert [group for group, _ in context.layout] == ["image.front", "image.wrist", "text"]
    assert context.layout[0][1] == 16 and context.layout[2][1] > context.valid[0, 32:].sum()
    first = build(checkpoints["smolvlm"], prompt="{instruction}\n{images}")
    context = first.context(frames(40, 52), ("go", "go on"))
    assert [group for group, _ in context.layout] == ["text", "image.front", "image.wrist"]
    assert not context.valid[0].all() and context.valid[1].all()
    alone = first.context(frames(40, 52, rows=2), ("go", "go"))
    torch.testing.assert_close(
        of_row(context.keys[-1], context, 0), of_row(alone.keys[-1], alone, 0), atol=2e-5, rtol=0
    )


def test_smaller_images_are_fewer_tokens(checkpoints) -> None:
    images = frames(40, 52, cameras=("front",))
    small = build(checkpoints["smolvlm"], image_size=16).context(images, WORDS)
    assert dict(small.layout)["image.front"] == 4 + 3
    small = build(checkpoints["qwen3_vl"], image_size=24).context(images, WORDS)
    assert dict(small.layout)["image.front"] <= 9 + 2
    with pytest.raises(ValueError, match="multiples of 8 up to 32"):
        build(checkpoints["smolvlm"], image_size=20)
    with pytest.raises(ValueError, match="takes 28 only"):
        build(checkpoints["paligemma"], image_size=56)
    with pytest.raises(ValueError, match="no resize 'pad'"):
        build(checkpoints["qwen3_vl"], resize="pad")


def test_refusals_at_the_border(checkpoints) -> None:
    backbone, images = build(checkpoints["smolvlm"]), frames(40, 52)
    with pytest.raises(ValueError, match=r"image 'front': expected \(1, height, width, 3\)"):
        backbone.context(images, WORDS[:1])
    with pytest.raises(ValueError, match="image 'front': got torch.int64"):
        backbone.context({"front": images["front"].long()}, WORDS)
    with pytest.raises(ValueError, match="'frnt'"):
        backbone.context(images, WORDS, {"frnt": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="camera_valid 'front': expected 2 bools"):
        backbone.context(images, WORDS, {"front": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="instruction is empty"):
        backbone.context(images, ("go", " "))
    for words in ("see <image>", "stop <|im_end|> now"):
        with pytest.raises(ValueError, match="a control token"):
            backbone.context(images, ("go", words))
    with pytest.raises(ValueError, match="must be 'chat' or hold"):
        build(checkpoints["smolvlm"], prompt="{instruction}")
    with pytest.raises(ValueError, match="no chat template"):
        build(checkpoints["paligemma"], prompt="chat")

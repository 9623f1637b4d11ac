"""The zero-shot reward by CLIP: its formula by hand, and a random miniature of the model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from rewards.exported import episodes, picture, row
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lit_ixc.records import UserError
from lit_ixc.rewards.similarity import ClipSimilarity, projected_similarity

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPModel, PreTrainedTokenizerFast, str]:
    """A CLIP of width 16 that reads 8 tokens and images of 8 pixels."""
    folder = tmp_path_factory.mktemp("clip")
    core = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]", "<start>", "<end>"], show_progress=False)
    core.train_from_iterator(["a red thing a blue picture of it"], trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<start>", eos_token="<end>", pad_token="<end>"
    )
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 8, "eos_token_id": 2, "bos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 8, "patch_size": 4}, projection_dim=12)
    torch.manual_seed(3)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(folder)
    return model, tokenizer, str(folder)


def unit(*numbers: float) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(numbers), dim=0)


def test_the_similarity_by_hand() -> None:
    goal, baseline, state = unit(1.0, 0.0, 0.0), unit(0.0, 1.0, 0.0), unit(0.0, 0.0, 1.0)
    # On the line through (1,0,0) and (0,1,0), the point next to (0,0,1) is (1/2, 1/2, 0).
    # alpha 1: |(1/2, 1/2, 0) - (1, 0, 0)|^2 / 2 = 1/4; alpha 0: |(-1, 0, 1)|^2 / 2 = 1;
    # alpha 1/2: (1/4, 1/4, 1/2) - (1, 0, 0) has the square 9/16 + 1/16 + 1/4 = 7/8
    for alpha, expected in ((1.0, 0.75), (0.0, 0.0), (0.5, 0.5625)):
        assert projected_similarity(state, goal, baseline, alpha).item() == pytest.approx(expected, abs=1e-6)
        assert projected_similarity(goal, goal, baseline, alpha).item() == pytest.approx(1.0)
    assert projected_similarity(state[None].expand(4, 3), goal, baseline, 0.5).shape == (4,)
    # alpha 0 is the cosine whatever the baseline; a baseline at the goal is a point, no line: s is moved to it
    assert projected_similarity(unit(3.0, 4.0, 0.0), goal, baseline, 0.0).item() == pytest.approx(0.6)
    assert projected_similarity(state, goal, goal, 1.0).item() == pytest.approx(1.0)


def test_answers_are_states_and_the_images_the_goal(clip: tuple[CLIPModel, PreTrainedTokenizerFast, str]) -> None:
    model, tokenizer, path = clip
    reward = ClipSimilarity(path, baseline="a picture", alpha=0.25)
    reward.prepare(CPU, None)  # type: ignore[arg-type]

    def text(words: str) -> torch.Tensor:
        inputs = tokenizer([words], return_tensors="pt")
        found = model.get_text_features(inputs["input_ids"], inputs["attention_mask"], return_dict=True)
        return torch.nn.functional.normalize(getattr(found, "pooler_output", found)[0], dim=0)

    def image(colour: str) -> torch.Tensor:
        red, green, blue = {"red": (255, 0, 0), "blue": (0, 0, 255)}[colour]
        mean, std = (
            torch.tensor([0.48145466, 0.4578275, 0.40821073]),
            torch.tensor([0.26862954, 0.26130258, 0.27577711]),
        )
        pixels = ((torch.tensor([red, green, blue]) / 255 - mean) / std)[None, :, None, None].expand(1, 3, 8, 8)
        found = model.get_image_features(pixels, return_dict=True)
        return torch.nn.functional.normalize(getattr(found, "pooler_output", found)[0], dim=0)

    with torch.no_grad():
        baseline, both = text("a picture"), torch.nn.functional.normalize(image("red") + image("blue"), dim=0)
        expected = [
            projected_similarity(text(words), goal, baseline, 0.25).item()
            for goal in (image("red"), both)
            for words in ("a red thing", "it", "a blue picture of it")
        ]
    answers = ["a red thing", "it", "a blue picture of it"]
    one, two = row("What?", picture(20, 14)), row("What?", picture(), picture(colour="blue"))
    found = reward([*episodes(one, *answers), *episodes(two, *answers)])
    assert [judgement.score for judgement in found] == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) == 6  # or nothing would be told apart


def test_what_clip_cannot_judge_has_its_reason(
    clip: tuple[CLIPModel, PreTrainedTokenizerFast, str], caplog: pytest.LogCaptureFixture
) -> None:
    reward = ClipSimilarity(clip[2], baseline="a picture", truncate=False)
    reward.prepare(CPU, None)  # type: ignore[arg-type]
    image, text, long = row("What?", picture()), row("What?"), "a red thing a blue picture of"  # 7 words and two ends
    broken = row("What?", type(picture())("broken.png", b"no picture"))
    found = reward([*episodes(text, "it", ""), *episodes(image, "", "it", long), *episodes(broken, "it")])
    assert [one.reason for one in found[:5]] == ["no_image", "no_image", "empty_answer", "", "too_long"]
    assert found[5].reason and math.isnan(found[5].score) and math.isfinite(found[3].score)
    cutting = ClipSimilarity(clip[2], baseline="a picture")
    cutting.prepare(CPU, None)  # type: ignore[arg-type]
    (cut,) = cutting(episodes(image, long))
    (same,) = cutting(episodes(image, " ".join(long.split()[:6])))  # six words and two ends are 8 tokens
    assert reward(episodes(image, " ".join(long.split()[:6]))) == [same]  # just short enough
    assert cut == same and "reads the first 8 tokens" in caplog.text
    assert reward([]) == []


def test_what_is_no_clip_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no CLIP model can be read"):
        ClipSimilarity(str(tmp_path), baseline="a picture").prepare(CPU, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"alpha = 1.5"):
        ClipSimilarity("x", baseline="a", alpha=1.5)
    with pytest.raises(UserError, match=r"baseline is empty"):
        ClipSimilarity("x", baseline=" ")

"""Zero-shot rewards by CLIP (VLM-RMs, arXiv 2310.12921), here for answers about images."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lit_ixc.batch import ChatProcessor
from lit_ixc.ixc25.image import load_image
from lit_ixc.records import ImagePart, Prompt, RecordError, UserError
from lit_ixc.rewards.interface import Episode, Judgement, Reward, by_prompt, unjudged

log = logging.getLogger(__name__)


class ClipSimilarity(Reward):
    """How well an answer describes the prompt's images, by a CLIP model that was never trained for it.

    VLM-RMs scores images (states) by a text (goal); here the answer is the state and the images are the goal. See
    :func:`projected_similarity`. Several images count by the mean of their embeddings; videos are not looked at.
    Prompts without an image are not judged (``no_image``), empty answers neither (``empty_answer``).

    Args:
        path: Folder of a CLIP model with tokenizer and image processor. Nothing is fetched.
        baseline: What every answer would be without the goal in mind, e.g. ``a picture``.
        alpha: Share of the projection onto the line through baseline and goal; 0 is plain cosine similarity.
        weight: Factor of the reward in the total.
        truncate: Read the start of an answer that is longer than the model's text window; else it is not judged
            (``too_long``).

    Raises:
        UserError: ``alpha`` is no share, or the baseline is empty.
    """

    def __init__(
        self, path: str, baseline: str, alpha: float = 0.5, weight: float = 1.0, truncate: bool = True
    ) -> None:
        super().__init__(weight)
        if not 0 <= alpha <= 1:
            raise UserError(f"ClipSimilarity: alpha = {alpha}: choose a share between 0 and 1")
        if not baseline.strip():
            raise UserError("ClipSimilarity: baseline is empty: describe what an answer is without the goal")
        self.path, self.baseline, self.alpha, self.truncate = path, baseline, alpha, truncate

    def prepare(self, device: torch.device, processor: ChatProcessor) -> None:
        """Load the model.

        Raises:
            UserError: The folder holds no CLIP model.
        """
        try:
            self.model = cast(Any, CLIPModel.from_pretrained(self.path, local_files_only=True))
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
            self.images: Any = CLIPImageProcessorPil.from_pretrained(self.path, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"ClipSimilarity: path = {self.path}: no CLIP model can be read ({reason})") from error
        self.model.to(device).eval().requires_grad_(False)
        self.window: int = self.model.config.text_config.max_position_embeddings
        self._baseline = self._texts([self.baseline])[0]
        self._said = False

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        found: list[Judgement] = []
        for group in by_prompt(episodes):
            try:
                goal = self._goal(episodes[group[0]].record.prompt)
            except RecordError as error:
                found += [unjudged(error.reason)] * len(group)
                continue
            texts = [episodes[index].text for index in group]
            reasons = [self._reason(text) for text in texts]
            states = iter(self._texts([text for text, reason in zip(texts, reasons, strict=True) if not reason]))
            found += [unjudged(reason) if reason else self._judge(next(states), goal) for reason in reasons]
        return found

    def _judge(self, state: Tensor, goal: Tensor) -> Judgement:
        score = projected_similarity(state, goal, self._baseline, self.alpha).item()
        return Judgement(score) if math.isfinite(score) else unjudged("not_finite")

    def _reason(self, text: str) -> str:
        """Why an answer is not judged."""
        if not text:
            return "empty_answer"
        if len(self.tokenizer(text)["input_ids"]) <= self.window:
            return ""
        if not self.truncate:
            return "too_long"
        if not self._said:
            log.warning("ClipSimilarity reads the first %d tokens of longer answers", self.window)
            self._said = True
        return ""

    @torch.no_grad()
    def _texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) embeddings of unit length."""
        if not texts:
            return torch.zeros(0)
        inputs = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.window, return_tensors="pt")
        inputs = {name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        return _unit(self.model.get_text_features(**inputs, return_dict=True))

    @torch.no_grad()
    def _goal(self, prompt: Prompt) -> Tensor:
        """(D,) the mean embedding of the prompt's images, of unit length."""
        images = [load_image(part.data, part.name) for part in prompt.media if isinstance(part, ImagePart)]
        if not images:
            raise RecordError("no_image", "prompt", prompt.modality, "this reward needs a prompt with an image")
        pixels = self.images(images=images, return_tensors="pt")["pixel_values"].to(self.model.device, self.model.dtype)
        each = _unit(self.model.get_image_features(pixel_values=pixels, return_dict=True))
        return torch.nn.functional.normalize(each.mean(dim=0), dim=0)


def projected_similarity(state: Tensor, goal: Tensor, baseline: Tensor, alpha: float) -> Tensor:
    """Goal-baseline regularised similarity (arXiv 2310.12921, definition 1).

    ``1 - |alpha * proj_L(s) + (1 - alpha) * s - g|^2 / 2`` with L the line through baseline b and goal g: what moves
    the state across that line counts less, the more so the larger alpha. For alpha = 0 it is the cosine of s and g.

    Args:
        state: (..., D) of unit length.
        goal: (D,) of unit length.
        baseline: (D,) of unit length.
        alpha: Strength of the projection.

    Returns:
        (...,) rewards of at most 1.
    """
    direction = goal - baseline
    length = direction.square().sum().clamp(min=torch.finfo(goal.dtype).tiny)  # a baseline at the goal: a point
    projected = baseline + ((state - baseline) @ direction / length)[..., None] * direction
    return 1 - (alpha * projected + (1 - alpha) * state - goal).square().sum(dim=-1) / 2


def _unit(output: Any) -> Tensor:
    """(N, D) fp32 of unit length; later versions of transformers give an output object."""
    features = output if isinstance(output, Tensor) else output.pooler_output
    return torch.nn.functional.normalize(features.float(), dim=-1)

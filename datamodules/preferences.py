"""LightningDataModules of preferences and SFT rows: one mixture, and the three modalities as views of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.checks import at_least, check_mix, check_sft, check_shares
from datamodules.choice import RowChoice
from datamodules.comparisons import ComparisonDataset, SetView
from datamodules.encoding import SftAnswers, TooLong
from datamodules.loading import Collate, ComparisonLoader, RowLoader
from datamodules.media import DEFAULT_MAX_PIXELS
from datamodules.mixing import Mixer, tempered
from datamodules.opening import DataRoot, mixture_batches
from datamodules.sampling import MixtureBatches, SequentialBatches, normalised_weights
from lit_ixc.batch import ComparisonBatch, ConversationProcessor, Ending, TrainableProcessor
from lit_ixc.records import Comparison, Modality

log = logging.getLogger(__name__)


class MixtureDataModule(L.LightningDataModule):
    """A weighted mixture of any sets of a data root, for reward training or supervised fine-tuning.

    Training draws ``samples_per_epoch`` items, shared out by weight; each set goes through shuffled passes that carry
    on from epoch to epoch. The order depends on seed, epoch, rank and number of processes alone. Validation uses the
    rows that an id hash holds out, testing uses all rows of the root; both take every row once, shared out over the
    processes without repeats. Batches are shared out here: the Trainer's ``use_distributed_sampler`` does not matter.

    Args:
        data_root: Folder written by ``convert``, or folder of released JSON files; the latter is only read, and
            converted into ``cache_dir`` on first use. A glob pattern takes the sets of several folders. A URL that
            fsspec knows (``https://``, ``s3://``) streams the shards of a converted root through ``cache_dir``.
        processor: The model family's template, tokenizer and image path.
        ending: ``reward`` loads comparisons of two or more responses; ``sft`` loads answers to imitate: rows of one
            response, or of several that are equally good.
        sets: Weight of each set in training, by name (``easy_vqa``, ``image/general/easy_vqa``) or glob pattern
            (``*_sft``, ``image/*/*``). A pattern's weight is shared out by size; a name has precedence over patterns.
            None: every set of ``text/*/*``, ``image/*/*`` and ``video/*/*`` (in a root without these folders: every set
            directly in it), weighted by the samples that a ``data.txt`` list gave it or else by its size.
        amounts: What the numbers in ``sets`` mean: ``weights``, or ``thousands`` of samples that an epoch draws, more
            or fewer than the set has, as in the release's ``data.txt``.
        temperature: Weights are raised to ``1 / temperature``: above 1, small sets count for more.
        mixer: Changes the shares after each epoch by the sets' losses; needs the callback ``ReportSetLosses``. Make
            ``samples_per_epoch`` the length of a round.
        test_sets: Names or patterns of the sets to test on. None: every set, as above.
        samples_per_epoch: Items of a training epoch over all processes. None: as many as the sets have, or as their
            ``data.txt`` list says.
        batch_size: Most comparisons in a batch of one process; an epoch's batches are equal in size to within one.
        test_batch_size: The same in validation and testing. None: ``batch_size``.
        max_length: Most tokens of a sequence, its prompt included.
        test_max_length: The same in validation and testing. None: ``max_length``.
        too_long: What becomes of a longer one in training: ``drop`` counts it and takes the next row of its set in its
            place; ``truncate`` cuts the answer's tail, then the oldest prompt text.
        test_too_long: The same in validation and testing, where a dropped row is not replaced.
        min_answer_share: Share of an answer's tokens that truncation keeps.
        sft_from_pairs: With ``ending: sft``, also train on comparisons.
        sft_answers: With ``ending: sft``, the responses of a row that are imitated: the ``best`` one (the first of
            equals), all ``equals`` of the best, or ``all``. Several share their prompt, and each token of each counts
            as in a row of its own; ``batch_size`` counts rows. If one is too long to keep, the row is dropped.
        rows_per_image: With ``ending: sft``, put up to so many rows about one image into one training item, whose
            sequences share the image: it is encoded once. ``batch_size`` and ``samples_per_epoch`` count items.
        validation_fraction: Share of each set's rows that is held out of training, by a hash of source and id.
        validation_by: ``id`` hashes source and id; ``media`` hashes the images, so that no image is on both sides;
            ``prompt`` hashes text and images of the prompt, so that no prompt is, in whatever sets and rows it stands.
        bucket: Sort so many batches' items by length class (powers of two) before they are cut into batches, against
            padding. 0: do not.
        shuffle_shards: Shuffle shards, and the rows of so many shards at a time, so that few files are read at once
            (for remote or slow disks). 0: shuffle all rows of a set.
        row_tokens: Pack the comparisons of a batch into rows of at most so many tokens, against padding; one that is
            longer has a row of its own. None: a row for each comparison.
        pad_to_multiple_of: Round padded lengths up.
        cache_encoded_mb: Keep encoded comparisons and media in memory, about so many MiB in each loading process.
        num_workers: Processes that load; 0 loads in the training process.
        pin_memory: Copy batches to page-locked memory, for GPUs.
        seed: Seed of the order.
        cache_dir: Where JSON is converted to, in folders keyed by content. None: ``lit_ixc`` under
            ``$XDG_CACHE_HOME`` or ``~/.cache``.
        remote_cache_gb: Most 10^9 bytes of shards that a remote root keeps in ``cache_dir``. None: no limit.
        verify: Check the checksums of all shards at the start.
        on_damage: A damaged or missing shard or row stops the run (``error``), or is counted, logged and left out
            (``skip``).
        max_pixels: Rows with a larger image or video are dropped in the conversion.

    Raises:
        UserError: A value is out of range, the root or a set does not exist, or the mix is empty.
    """

    modality: Modality | None = None
    training_stage = "train"  # its name in the log

    def __init__(
        self,
        data_root: str | Path,
        processor: ConversationProcessor,
        ending: Ending = "reward",
        sets: dict[str, float] | None = None,
        amounts: Literal["weights", "thousands"] = "weights",
        temperature: float = 1.0,
        mixer: Mixer | None = None,
        test_sets: list[str] | None = None,
        samples_per_epoch: int | None = None,
        batch_size: int = 8,
        test_batch_size: int | None = None,
        max_length: int = 4096,
        test_max_length: int | None = None,
        too_long: TooLong = "drop",
        test_too_long: TooLong = "truncate",
        min_answer_share: float = 0.5,
        sft_from_pairs: bool = False,
        sft_answers: SftAnswers = "best",
        rows_per_image: int = 1,
        validation_fraction: float = 0.0,
        validation_by: Literal["id", "media", "prompt"] = "id",
        bucket: int = 0,
        shuffle_shards: int = 0,
        row_tokens: int | None = None,
        pad_to_multiple_of: int = 1,
        cache_encoded_mb: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        remote_cache_gb: float | None = None,
        verify: bool = False,
        on_damage: Literal["error", "skip"] = "error",
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        super().__init__()
        at_least(1, samples_per_epoch=samples_per_epoch, batch_size=batch_size, test_batch_size=test_batch_size)
        at_least(1, max_length=max_length, test_max_length=test_max_length, max_pixels=max_pixels)
        at_least(1, rows_per_image=rows_per_image, row_tokens=row_tokens, pad_to_multiple_of=pad_to_multiple_of)
        at_least(0, bucket=bucket, shuffle_shards=shuffle_shards, cache_encoded_mb=cache_encoded_mb)
        at_least(0, num_workers=num_workers, seed=seed)
        check_shares(validation_fraction, min_answer_share)
        check_sft(ending, rows_per_image, sft_from_pairs, sft_answers)
        check_mix(sets, amounts, samples_per_epoch, temperature)
        self.sets = normalised_weights(sets) if sets is not None else None
        if sets is not None and amounts == "thousands":
            samples_per_epoch = round(1000 * math.fsum(sets.values()))
        self.temperature, self.mixer, self.shuffle_shards = temperature, mixer, shuffle_shards
        self._set_losses: list[dict[str, float]] = []
        self.test_sets, self.samples_per_epoch = test_sets, samples_per_epoch
        self.data_root, self.processor, self.ending = data_root, processor, ending
        self.root = DataRoot(data_root, cache_dir, max_pixels, verify, on_damage, remote_cache_gb)
        self.batch_size, self.test_batch_size = batch_size, test_batch_size or batch_size
        self.max_length, self.test_max_length = max_length, test_max_length or max_length
        self.too_long, self.test_too_long, self.min_answer_share = too_long, test_too_long, min_answer_share
        self.sft_from_pairs, self.sft_answers, self.rows_per_image = sft_from_pairs, sft_answers, rows_per_image
        self.validation_fraction, self.validation_by, self.bucket = validation_fraction, validation_by, bucket
        self.row_tokens, self.pad_to_multiple_of = row_tokens, pad_to_multiple_of
        self.cache_encoded_mb, self.num_workers, self.pin_memory = cache_encoded_mb, num_workers, pin_memory
        self.seed = seed

    def prepare_data(self) -> None:
        """Convert the root's JSON files if that has not been done, in one process of each machine.

        A test needs the test sets alone: the root may lack sets that training names.
        """
        if self._tests_alone:
            self.root.sets(self.test_sets)
            return
        self.root.sets(self.patterns)
        if isinstance(self.processor, TrainableProcessor):
            self.processor.prepare(self._training_texts)

    def save_processor(self, folder: Path) -> None:
        """Write the processor beside an exported model."""
        self.processor.save_pretrained(folder)

    def validation_samples(self, number: int) -> list[tuple[Comparison, ComparisonBatch]]:
        """The first held-out comparisons, each with its batch of one; what the length policy drops is left out."""
        loader = self.val_dataloader()
        return [] if isinstance(loader, list) else loader.samples(number)

    def _training_texts(self) -> Iterator[str]:
        """Every text of the training rows, for a tokenizer that is made from them."""
        for view in self._views(held_out=False):
            yield from view.texts()

    def train_dataloader(self) -> RowLoader[Any, Any]:
        """Batches of the mixture without the held-out rows."""
        views, weights = self.root.mixture(self.sets, self._choice(held_out=False), self.rows_per_image)
        samples = self.samples_per_epoch or round(math.fsum(weights))
        self._start = tempered(dict(zip([view.name for view in views], weights, strict=True)), self.temperature)
        self._sampler = sampler = mixture_batches(
            views, self._start, samples, self.batch_size, self.seed, self._rank, self.bucket, self.shuffle_shards
        )
        mix = ", ".join(
            f"{view.name} {count} of {len(view)}" for view, count in zip(views, sampler.counts, strict=True)
        )
        stage = self.training_stage
        log.info("%s: an epoch is %d items in %d batches: %s", stage, samples, len(sampler), mix)
        return self._loader(stage, views, sampler, self.max_length, self.too_long, self.cache_encoded_mb)

    def every_training_row(self) -> RowLoader[Any, Any]:
        """Every row that training may draw, once and in the order of the sets, shared out over the processes.

        For what is computed once for each row without gradients. Rows are as long as in training, and those that
        training drops are dropped here; batches are those of validation in size.
        """
        views = self._views(held_out=False)
        sampler = SequentialBatches(np.arange(sum(map(len, views))), self.test_batch_size, *self._rank)
        return self._loader("training rows", views, sampler, self.max_length, self.too_long, 0)

    def update_mixture(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Share the next epoch out by the mixer; called at the end of an epoch.

        Args:
            losses: Mean training loss of each set in the epoch, over all processes.

        Returns:
            Share of each set from the next epoch on; the present ones where there is no mixer.
        """
        if self.mixer is None:
            return self._start
        self._set_losses.append(dict(losses))
        shares = self.mixer.shares(self._start, self._set_losses)
        self._sampler.reweight(self._sampler.epoch + 1, [shares[name] for name in self._start])
        return shares

    def state_dict(self) -> dict[str, Any]:
        """The losses that the mixer has seen; the loader keeps its own state."""
        return {"set_losses": self._set_losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._set_losses = list(state_dict["set_losses"])

    def val_dataloader(self) -> RowLoader[Any, Any] | list[RowLoader[Any, Any]]:
        """The held-out rows of the training sets, in the order of their hash: any part of them has rows of all sets."""
        if not self.validation_fraction:
            return []
        order = np.argsort(np.concatenate([view.places for view in self._held_out]), kind="stable")
        return self._evaluation("validation", self._held_out, order)

    def test_dataloader(self) -> RowLoader[Any, Any]:
        """All rows of the test sets, set by set."""
        views = self.root.views(self.test_sets, self._choice(held_out=None))
        return self._evaluation("test", views, np.arange(sum(map(len, views))))

    def predict_dataloader(self) -> RowLoader[Any, Any]:
        """The rows of :meth:`test_dataloader`."""
        return self.test_dataloader()

    @cached_property
    def _held_out(self) -> list[SetView]:
        """The held-out rows of the training sets; made once, since every validation asks for them."""
        return self._views(held_out=True)

    @property
    def patterns(self) -> list[str] | None:
        """Names and patterns of the training sets."""
        return None if self.sets is None else list(self.sets)

    @property
    def _tests_alone(self) -> bool:
        """Whether the Trainer neither trains nor validates."""
        stage = self.trainer.state.fn if self.trainer is not None else None
        return stage in (TrainerFn.TESTING, TrainerFn.PREDICTING)

    @property
    def _rank(self) -> tuple[int, int]:
        """Rank and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _choice(self, held_out: bool | None) -> RowChoice:
        """The rows of one side that this module uses; of both sides without one."""
        by_media, by_prompt = self.validation_by == "media", self.validation_by == "prompt"
        choice = RowChoice(self.ending, self.sft_from_pairs, self.modality, self.validation_fraction, by_media)
        return choice._replace(held_out=held_out, by_prompt=by_prompt)

    def _views(self, held_out: bool) -> list[SetView]:
        """Views of the training sets that have such rows, row by row."""
        return self.root.views(self.patterns, self._choice(held_out))

    def _evaluation(self, stage: str, views: list[SetView], order: np.ndarray) -> RowLoader[Any, Any]:
        sampler = SequentialBatches(order, self.test_batch_size, *self._rank)
        cache_mb = self.cache_encoded_mb if stage == "validation" else 0
        return self._loader(stage, views, sampler, self.test_max_length, self.test_too_long, cache_mb)

    def _loader(
        self,
        stage: str,
        views: list[SetView],
        sampler: MixtureBatches | SequentialBatches,
        max_length: int,
        too_long: TooLong,
        cache_mb: int,
    ) -> RowLoader[Any, Any]:
        dataset = ComparisonDataset(
            views,
            self.processor,
            self.ending,
            max_length,
            too_long,
            self.min_answer_share,
            stage == self.training_stage,  # elsewhere the place of a dropped row stays empty
            cache_mb,
            self.sft_answers,
        )
        collate_fn = Collate(self.processor.pad_token_id, self.pad_to_multiple_of, self.row_tokens)
        return ComparisonLoader(stage, dataset, sampler, collate_fn, self.num_workers, self.pin_memory)


class TextPreferenceDataModule(MixtureDataModule):
    """The rows without images or videos; everything else as in MixtureDataModule."""

    modality = "text"


class ImagePreferenceDataModule(MixtureDataModule):
    """The rows with images and no video; everything else as in MixtureDataModule."""

    modality = "image"


class VideoPreferenceDataModule(MixtureDataModule):
    """The rows with videos; everything else as in MixtureDataModule."""

    modality = "video"

"""LightningDataModules of preferences and SFT rows: one mixture, and the three modalities as views of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.comparisons import ComparisonDataset, RowChoice, SetView
from datamodules.conversion import Options
from datamodules.corpus import open_sets, short_names
from datamodules.encoding import TooLong
from datamodules.loading import Collate, ComparisonLoader
from datamodules.media import DEFAULT_MAX_PIXELS
from datamodules.mixing import Mixer, share_out, tempered
from datamodules.sampling import MixtureBatches, SequentialBatches, normalised_weights
from datamodules.shards import ShardSet
from lit_ixc.batch import ComparisonBatch, ConversationProcessor, Ending, TrainableProcessor
from lit_ixc.records import Comparison, Modality, UserError

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
        ending: ``reward`` loads comparisons of two or more responses, ``sft`` single answers.
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
        sft_from_pairs: With ``ending: sft``, also train on the chosen answers of comparisons.
        rows_per_image: With ``ending: sft``, put up to so many rows about one image into one training item, whose
            sequences share the image: it is encoded once. ``batch_size`` and ``samples_per_epoch`` count items.
        validation_fraction: Share of each set's rows that is held out of training, by a hash of source and id.
        validation_by: ``id`` hashes source and id; ``media`` hashes the images, so that no image is on both sides.
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
        rows_per_image: int = 1,
        validation_fraction: float = 0.0,
        validation_by: Literal["id", "media"] = "id",
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
        for name, value, least in (
            ("samples_per_epoch", samples_per_epoch, 1),
            ("batch_size", batch_size, 1),
            ("test_batch_size", test_batch_size, 1),
            ("max_length", max_length, 1),
            ("test_max_length", test_max_length, 1),
            ("rows_per_image", rows_per_image, 1),
            ("row_tokens", row_tokens, 1),
            ("pad_to_multiple_of", pad_to_multiple_of, 1),
            ("max_pixels", max_pixels, 1),
            ("bucket", bucket, 0),
            ("shuffle_shards", shuffle_shards, 0),
            ("cache_encoded_mb", cache_encoded_mb, 0),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise UserError(f"{name} = {value}: choose at least {least}")
        if not 0 <= validation_fraction < 1:
            raise UserError(f"validation_fraction = {validation_fraction}: choose a share from 0 to below 1")
        if not 0 <= min_answer_share <= 1:
            raise UserError(f"min_answer_share = {min_answer_share}: choose a share between 0 and 1")
        if rows_per_image > 1 and ending != "sft":
            raise UserError(
                f"rows_per_image = {rows_per_image}: only SFT rows can share an image; use ending: sft or 1"
            )
        if sft_from_pairs and ending != "sft":
            raise UserError("sft_from_pairs = True: has a meaning with ending: sft only")
        if temperature <= 0:
            raise UserError(f"temperature = {temperature}: choose a positive number; 1 keeps the weights")
        if amounts == "thousands" and (sets is None or samples_per_epoch is not None):
            raise UserError("amounts = thousands: give sets, whose sum is the epoch, and no samples_per_epoch")
        self.sets = normalised_weights(sets) if sets is not None else None
        if sets is not None and amounts == "thousands":
            samples_per_epoch = round(1000 * math.fsum(sets.values()))
        self.temperature, self.mixer, self.shuffle_shards = temperature, mixer, shuffle_shards
        self._set_losses: list[dict[str, float]] = []
        self.test_sets, self.samples_per_epoch = test_sets, samples_per_epoch
        self.data_root, self.processor, self.ending = data_root, processor, ending
        self.remote_cache_gb, self.on_damage = remote_cache_gb, on_damage
        self.batch_size, self.test_batch_size = batch_size, test_batch_size or batch_size
        self.max_length, self.test_max_length = max_length, test_max_length or max_length
        self.too_long, self.test_too_long = too_long, test_too_long
        self.min_answer_share, self.sft_from_pairs, self.rows_per_image = (
            min_answer_share,
            sft_from_pairs,
            rows_per_image,
        )
        self.validation_fraction, self.validation_by, self.bucket = validation_fraction, validation_by, bucket
        self.row_tokens, self.pad_to_multiple_of, self.cache_encoded_mb = (
            row_tokens,
            pad_to_multiple_of,
            cache_encoded_mb,
        )
        self.num_workers, self.pin_memory, self.seed = num_workers, pin_memory, seed
        self.cache_dir, self.verify, self.max_pixels = Path(cache_dir) if cache_dir else None, verify, max_pixels

    def prepare_data(self) -> None:
        """Convert the root's JSON files if that has not been done, in one process of each machine.

        A test needs the test sets alone: the root may lack sets that training names.
        """
        stage = self.trainer.state.fn if self.trainer is not None else None
        if stage in (TrainerFn.TESTING, TrainerFn.PREDICTING):
            self._open(self.test_sets)
            return
        self._open(self._patterns)
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
        for view in self._views(self._open(self._patterns), held_out=False):
            for row in view.rows.tolist():
                comparison = view.shards.read_comparison(row)
                for message in (
                    *comparison.prompt.messages,
                    *(m for response in comparison.responses for m in response),
                ):
                    yield message.text

    def train_dataloader(self) -> ComparisonLoader:
        """Batches of the mixture without the held-out rows."""
        views, weights = self._mixture()
        samples = self.samples_per_epoch or round(math.fsum(weights))
        self._start = tempered(dict(zip([view.name for view in views], weights, strict=True)), self.temperature)
        self._sampler = sampler = MixtureBatches(
            list(self._start),
            [len(view) for view in views],
            list(self._start.values()),
            samples,
            self.batch_size,
            self.seed,
            *self._rank,
            np.concatenate([view.costs for view in views]),
            self.bucket,
            np.concatenate([view.item_shards for view in views]) if self.shuffle_shards else None,
            self.shuffle_shards,
        )
        mix = ", ".join(
            f"{view.name} {count} of {len(view)}" for view, count in zip(views, sampler.counts, strict=True)
        )
        log.info("train: an epoch is %d items in %d batches: %s", samples, len(sampler), mix)
        return self._loader("train", views, sampler, self.max_length, self.too_long)

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

    def val_dataloader(self) -> ComparisonLoader | list[ComparisonLoader]:
        """The held-out rows of the training sets, in the order of their hash: any part of them has rows of all sets."""
        if not self.validation_fraction:
            return []
        order = np.argsort(np.concatenate([view.places for view in self._held_out]), kind="stable")
        return self._evaluation("validation", self._held_out, order)

    def test_dataloader(self) -> ComparisonLoader:
        """All rows of the test sets, set by set."""
        views = self._views(self._open(self.test_sets), held_out=None)
        return self._evaluation("test", views, np.arange(sum(map(len, views))))

    def predict_dataloader(self) -> ComparisonLoader:
        """The rows of :meth:`test_dataloader`."""
        return self.test_dataloader()

    @cached_property
    def _opened(self) -> dict[tuple[str, ...] | None, dict[str, ShardSet]]:
        return {}

    @cached_property
    def _held_out(self) -> list[SetView]:
        """The held-out rows of the training sets; made once, since every validation asks for them."""
        return self._views(self._open(self._patterns), held_out=True)

    @property
    def _patterns(self) -> list[str] | None:
        """Names and patterns of the training sets."""
        return None if self.sets is None else list(self.sets)

    def _open(self, patterns: Sequence[str] | None) -> dict[str, ShardSet]:
        key = None if patterns is None else tuple(patterns)
        if key not in self._opened:
            options = Options(max_pixels=self.max_pixels)
            self._opened[key] = open_sets(
                self.data_root, patterns, self.cache_dir, options, self.verify, self.on_damage, self.remote_cache_gb
            )
        return self._opened[key]

    @property
    def _rank(self) -> tuple[int, int]:
        """Rank and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _views(self, opened: Mapping[str, ShardSet], held_out: bool | None, rows_per_image: int = 1) -> list[SetView]:
        """Views of the sets that have such rows; an error if none has."""
        by_media = self.validation_by == "media"
        choice = RowChoice(
            self.ending, self.sft_from_pairs, self.modality, self.validation_fraction, by_media, held_out
        )
        names = short_names(list(opened))
        views = [SetView(names[name], shards, choice, rows_per_image) for name, shards in opened.items()]
        empty = [view.name for view in views if not len(view)]
        if len(empty) == len(views):
            which = " held out" if held_out else ""
            remedy = "raise validation_fraction, or set it to 0" if held_out else "choose other sets"
            raise UserError(f"{self.data_root}: no {self._wanted} rows{which} in {', '.join(opened)}; {remedy}")
        if empty:
            log.info("no %s rows%s: %s left out", self._wanted, " held out" if held_out else "", ", ".join(empty))
        return [view for view in views if len(view)]

    @property
    def _wanted(self) -> str:
        kind = "comparison" if self.ending == "reward" else "SFT or comparison" if self.sft_from_pairs else "SFT"
        return kind if self.modality is None else f"{self.modality} {kind}"

    def _mixture(self) -> tuple[list[SetView], list[float]]:
        """The training sets and their weights, whose sum is the default number of samples."""
        opened = self._open(self._patterns)
        views = self._views(opened, held_out=False, rows_per_image=self.rows_per_image)
        if self.sets is None:
            return views, [float(view.shards.manifest["samples"] or len(view)) for view in views]
        sizes = {name: len(view) for name, shards in opened.items() for view in views if view.shards is shards}
        weights = share_out(self.sets, opened, sizes)
        total = sum(map(len, views))
        return views, [weights[name] * total for name in sizes]

    def _evaluation(self, stage: str, views: list[SetView], order: np.ndarray) -> ComparisonLoader:
        sampler = SequentialBatches(order, self.test_batch_size, *self._rank)
        return self._loader(stage, views, sampler, self.test_max_length, self.test_too_long)

    def _loader(
        self,
        stage: str,
        views: list[SetView],
        sampler: MixtureBatches | SequentialBatches,
        max_length: int,
        too_long: TooLong,
    ) -> ComparisonLoader:
        dataset = ComparisonDataset(
            views,
            self.processor,
            self.ending,
            max_length,
            too_long,
            self.min_answer_share,
            stage == "train",  # evaluation leaves the place of a dropped row empty
            self.cache_encoded_mb if stage != "test" else 0,
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

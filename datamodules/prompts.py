"""Prompts for a policy to answer, with demonstrations for a supervised loss beside the policy's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.checks import at_least
from datamodules.choice import RowChoice
from datamodules.comparisons import Loaded, RowDataset, SetView, sequence_bytes
from datamodules.encoding import Encoded, TooLong, encode_prompt
from datamodules.loading import Events, RowLoader, sum_events
from datamodules.preferences import MixtureDataModule
from datamodules.sampling import MixtureBatches, SequentialBatches
from lit_ixc.batch import ChatProcessor, ComparisonBatch, EncodedMedia, EncodedPrompt, PromptBatch
from lit_ixc.records import Comparison, UserError


class PromptDataset(RowDataset[EncodedPrompt]):
    """Prompts of several sets, each with the record it comes from. One that is too long is dropped, never cut.

    Args:
        views, processor, max_length, replace_dropped, cache_mb: As in RowDataset.
    """

    truncates = False

    def __init__(
        self,
        views: Sequence[SetView],
        processor: ChatProcessor,
        max_length: int,
        replace_dropped: bool = False,
        cache_mb: int = 0,
    ) -> None:
        super().__init__(views, processor, max_length, "drop", replace_dropped, cache_mb)
        self.chat = processor

    def encode(self, record: Comparison, source: str, media: EncodedMedia | None) -> Encoded[EncodedPrompt]:
        return encode_prompt(record, self.chat, self.max_length, source, media)

    def join(self, rows: Sequence[EncodedPrompt]) -> EncodedPrompt:
        (row,) = rows
        return row

    def nbytes(self, row: EncodedPrompt) -> int:
        record = row.record
        media = sum(len(part.data) for part in record.prompt.media)
        text = sum(len(record.response_text(k)) for k in range(len(record.responses)))
        return media + text + sequence_bytes(row.sequence) + 1000


def collate_prompts(items: Sequence[Loaded[EncodedPrompt]]) -> tuple[PromptBatch | None, Events]:
    """Loaded items to a batch (None if all were dropped) and the sum of their events."""
    prompts = tuple(item.comparison for item in items if item.comparison is not None)
    return PromptBatch(prompts=prompts, demonstrations=None) if prompts else None, sum_events(items)


class PromptLoader(RowLoader[EncodedPrompt, PromptBatch]):
    """Batches of prompts. Those of training carry demonstrations, where there are some.

    The demonstrations go through their own epochs, one after another, whatever the prompts' epoch is.

    Attributes:
        demonstrations: What each batch takes its next batch of demonstrations from; None for none.
    """

    demonstrations: RowLoader[Any, ComparisonBatch] | None = None
    _stream: Iterator[ComparisonBatch] | None = None

    def __iter__(self) -> Iterator[PromptBatch]:
        for batch in super().__iter__():
            if self.demonstrations is not None:
                if self._stream is None:
                    self._stream = _endless(self.demonstrations)
                batch.demonstrations = next(self._stream)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, and where its demonstrations do."""
        beside = {} if self.demonstrations is None else {"demonstrations": self.demonstrations.state_dict()}
        return super().state_dict() | beside

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`. At the end of an epoch other demonstrations may begin, with their first batch.

        Raises:
            UserError: The state is from the middle of an epoch of other data, batches or processes, or with other
                demonstrations.
        """
        super().load_state_dict(state)
        own, saved = self.demonstrations, state.get("demonstrations")
        same = own is None if saved is None else own is not None and not own.differences(saved)
        if not same and 0 < state["batches"] < state.get("length", len(self)):
            raise UserError(
                f"the checkpoint is from the middle of epoch {state['epoch']} (batch {state['batches']}) with other "
                "demonstrations: resume with the old ones, or from a checkpoint at the end of an epoch"
            )
        if own is not None and same:
            own.load_state_dict(state["demonstrations"])
        self._stream = None


def _endless(loader: RowLoader[Any, ComparisonBatch]) -> Iterator[ComparisonBatch]:
    """Epoch after epoch of a loader, from where it stands."""
    epoch, sampler = loader.epoch, loader.sampler
    assert isinstance(sampler, MixtureBatches)
    while True:
        sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


class _Demonstrations(MixtureDataModule):
    """Answers to imitate, drawn beside the prompts."""

    training_stage = "demonstrations"


class PromptDataModule(MixtureDataModule):
    """A weighted mixture of the prompts of any sets of a data root, for a policy to answer.

    Mixture, order, held-out rows, tests, processes and resume are those of MixtureDataModule. A row is taken however
    many responses it has; they stay in the record, as does its metadata, for rewards that read them. Yields
    ``lit_ixc.batch.PromptBatch``.

    Args:
        data_root: As in MixtureDataModule.
        processor: The policy's template, tokenizer and image path.
        max_length: Most tokens of a prompt, the header of the answer included. A longer one is dropped and counted; in
            training the next one of its set takes its place.
        with_truth: Only rows whose metadata have a ``truth``, the rule by which a verifier tells right answers.
        unique: Of rows with the same prompt and media, in all sets together, take the first alone. The others are
            counted in the log.
        demonstrations: Weight of each set, by name or pattern, of which training batches carry answers to imitate: SFT
            rows, and the best responses of comparisons. Rows that are held out are not among them;
            ``validation_by: prompt`` keeps other rows with a held-out prompt away too.
        demonstration_batch_size: Most demonstrations beside a batch of prompts, in each process.
        demonstration_max_length: Most tokens of prompt and answer of a demonstration; longer ones are dropped and
            counted. None: ``max_length``.
        kwargs: As in MixtureDataModule. ``row_tokens`` and ``pad_to_multiple_of`` lay the demonstrations out.

    Raises:
        UserError: As MixtureDataModule.
    """

    def __init__(
        self,
        data_root: str | Path,
        processor: ChatProcessor,
        max_length: int = 4096,
        with_truth: bool = False,
        unique: bool = True,
        demonstrations: dict[str, float] | None = None,
        demonstration_batch_size: int = 8,
        demonstration_max_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            data_root,
            processor,
            ending="sft",
            max_length=max_length,
            too_long="drop",
            test_too_long="drop",
            min_answer_share=1.0,
            sft_from_pairs=True,
            sft_answers="best",
            rows_per_image=1,
            **kwargs,
        )
        at_least(1, demonstration_batch_size=demonstration_batch_size)
        at_least(1, demonstration_max_length=demonstration_max_length)
        self.processor: ChatProcessor = processor
        self.with_truth, self.unique = with_truth, unique
        self._beside: _Demonstrations | None = None
        if demonstrations is not None:
            self._beside = _Demonstrations(
                data_root,
                processor,
                ending="sft",
                sets=demonstrations,
                batch_size=demonstration_batch_size,
                max_length=demonstration_max_length or max_length,
                sft_from_pairs=True,
                validation_fraction=self.validation_fraction,
                validation_by=self.validation_by,
                bucket=self.bucket,
                shuffle_shards=self.shuffle_shards,
                row_tokens=self.row_tokens,
                pad_to_multiple_of=self.pad_to_multiple_of,
                cache_encoded_mb=self.cache_encoded_mb,
                num_workers=self.num_workers,
                pin_memory=self.pin_memory,
                seed=self.seed,
            )
            self._beside.root = self.root

    def prepare_data(self) -> None:
        """Convert the JSON files of prompts and demonstrations, see MixtureDataModule."""
        super().prepare_data()
        if self._beside is not None and not self._tests_alone:
            self.root.sets(self._beside.patterns)

    def train_dataloader(self) -> PromptLoader:
        """Batches of the mixture without the held-out rows, with their demonstrations."""
        loader: PromptLoader = super().train_dataloader()  # type: ignore[assignment]
        if self._beside is not None:
            self._beside.trainer, self._beside.processor = self.trainer, self.processor
            loader.demonstrations = self._beside.train_dataloader()
        return loader

    def _choice(self, held_out: bool | None) -> RowChoice:
        choice = super()._choice(held_out)
        return choice._replace(ending="prompt", with_truth=self.with_truth, unique=self.unique)

    def _loader(
        self,
        stage: str,
        views: list[SetView],
        sampler: MixtureBatches | SequentialBatches,
        max_length: int,
        too_long: TooLong,
        cache_mb: int,
    ) -> PromptLoader:
        dataset = PromptDataset(views, self.processor, max_length, stage == self.training_stage, cache_mb)
        return PromptLoader(stage, dataset, sampler, collate_prompts, self.num_workers, self.pin_memory)

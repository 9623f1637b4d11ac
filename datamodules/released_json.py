"""Reader of the JSON of the released IXC-2.5-Reward training code.

A file is a list of rows with ``conversations_a`` (chosen), ``conversations_b`` (rejected; absent throughout an SFT
file) and ``image`` (a path or a list of paths, relative to the file's folder; absent, null or an empty list for text).
A turn is ``{"from": ..., "value": ...}``. The rules of placeholders and roles: architecture notes, sections 1 and 5.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.media import MediaFile
from lit_ixc.records import Comparison, MediaPart, Message, Part, Prompt, RecordError, Role, TextPart, UserError

PLACEHOLDER = "<ImageHere>"
ROW_KEYS = frozenset("id conversations_a conversations_b image domain source".split())
_CHAT_MARKERS = ("<|im_start|>", "<|im_end|>")
_ROLES: dict[str, Role] = {"human": "user", "user": "user", "system": "system"}


class NotConversations(UserError):
    """A valid JSON file that holds no rows of this format."""


class _RepeatedKeys(dict[str, Any]):
    """A JSON object in which a key stands twice: Python would keep the last value without a word."""


class ListedFile(NamedTuple):
    """One line of a ``data.txt`` list: the JSON file and the number of samples to draw from it in an epoch."""

    path: Path
    samples: int


def read_rows(path: Path) -> list[Any]:
    """The rows of a JSON file, unchecked; a UTF-8 byte order mark is accepted.

    Raises:
        UserError: The file cannot be read, is not UTF-8 or not valid JSON; the message names the position.
        NotConversations: It is valid JSON, but not a list with at least one object that has ``conversations_a``.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        rows = json.loads(text, object_pairs_hook=_object)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno} (character {error.pos} of {len(text)})"
        raise UserError(
            f"{path}: not valid JSON at {at}: {error.msg}; the file may be cut off: fetch it again or repair it there"
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets nested too deep
        raise UserError(f"{path}: not readable JSON: {str(error)[:120]}; repair the file") from error
    if not isinstance(rows, list) or not any(isinstance(row, dict) and "conversations_a" in row for row in rows):
        raise NotConversations(
            f"{path}: not a conversation file: expected a list of rows with 'conversations_a' (and 'conversations_b')"
        )
    return rows


def is_preference_file(rows: Sequence[Any]) -> bool:
    """Whether any row has a rejected side; then a row without one is incomplete, not an SFT row."""
    return any(isinstance(row, dict) and "conversations_b" in row for row in rows)


def build_comparison(
    row: Any, index: int, source: str, preference: bool, load: Callable[[str, str], MediaFile], row_filter: bool = False
) -> tuple[Comparison, tuple[MediaFile, ...]]:
    """The comparison of one row and its media in the order of ``Prompt.media``.

    Args:
        row: The row as read.
        index: Its number in the file; names rows that have no ``id`` key (``row-7``).
        source: Used where the row names no source.
        preference: Whether the file holds pairs; see :func:`is_preference_file`.
        load: Reads a media file, given the path as in the row and the name of the field.
        row_filter: Leave out what the released training code leaves out (architecture notes, section 7).

    Raises:
        RecordError: The row cannot be used; its ``reason`` is the key under which it is counted.
    """
    if not isinstance(row, dict):
        raise RecordError("wrong_type", "row", row, "a row is an object with 'conversations_a'")
    if isinstance(row, _RepeatedKeys):
        raise RecordError("repeated_key", "row", sorted(row), "a key stands twice in the row; keep one")
    sides = [_turns(row, "conversations_a")]
    if "conversations_b" in row:
        sides.append(_turns(row, "conversations_b"))
    elif preference:
        raise RecordError(
            "missing_conversations_b",
            "conversations_b",
            None,
            "other rows of the file have it; SFT rows go in their own",
        )
    identifier = row.get("id", f"row-{index}")
    if not isinstance(identifier, str):
        raise RecordError("wrong_type", "id", identifier, "an id is a string")
    prompt_turns, responses = _split(sides)
    if row_filter:
        for side, response in zip("ab", responses, strict=False):
            _released_filter(f"conversations_{side}[-1].value", response[-1][1] if response else "")
    for number, response in enumerate(responses):
        if any(PLACEHOLDER in text for _, text in response):
            field = f"conversations_{'ab'[number]}"
            raise RecordError("placeholder_in_answer", field, PLACEHOLDER, "put placeholders into the prompt")
    media = tuple(load(name, field) for field, name in _media_names(row))
    comparison = Comparison(
        id=identifier,
        prompt=_prompt(prompt_turns, [file.part for file in media]),
        responses=tuple(tuple(Message(role, (TextPart(text),)) for role, text in turns) for turns in responses),
        ranks=tuple(range(len(responses))),
        domain=row.get("domain", "general"),
        source=row.get("source", source),
    )
    for field in ("id", "domain", "source"):
        _check_unicode(field, getattr(comparison, field))
    if len(responses) == 2 and [t.strip() for _, t in responses[0]] == [t.strip() for _, t in responses[1]]:
        raise RecordError(
            "same_answer", "conversations_b", responses[1][-1][1], "the sides must differ in their answer"
        )
    return comparison, media


def read_list(path: Path) -> list[ListedFile]:
    """Lines ``<json path> <k>``: draw ``k`` thousand samples of the file in an epoch, more or fewer than it has.

    Paths are relative to the list's folder. Blank lines and lines that start with ``#`` are skipped.

    Raises:
        UserError: Naming the line that is not of this form, names no file, or repeats one.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    listed: dict[Path, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        name, _, amount = re.sub(r"\s+(?=\S+$)", "\n", line.strip()).partition("\n")  # the path may hold spaces
        try:
            thousands = float(amount)
        except ValueError:
            thousands = math.nan
        if not math.isfinite(thousands) or round(thousands * 1000) < 1:
            raise UserError(f"{where}: {line.strip()!r} is not '<json path> <thousands of samples>', e.g. 'a.json 2.5'")
        file = path.parent / name
        if not file.is_file():
            raise UserError(f"{where}: there is no file {file}; paths are relative to the list's folder")
        if file in listed:
            raise UserError(f"{where}: {name} stands in the list twice; give one line with the sum")
        listed[file] = round(thousands * 1000)
    if not listed:
        raise UserError(f"{path}: the list is empty; give lines '<json path> <thousands of samples>'")
    return [ListedFile(file, samples) for file, samples in listed.items()]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    return row if len(row) == len(pairs) else _RepeatedKeys(row)


def _turns(row: dict[str, Any], key: str) -> list[tuple[Role, str]]:
    """Role and text of each turn, or a RecordError that names the field at fault."""
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise RecordError("wrong_type", key, value, "a conversation is a non-empty list of turns")
    turns: list[tuple[Role, str]] = []
    for index, turn in enumerate(value):
        field = f"{key}[{index}]"
        if not isinstance(turn, dict) or isinstance(turn, _RepeatedKeys):
            raise RecordError("wrong_type", field, turn, "a turn is an object with one 'from' and one 'value'")
        for name in ("from", "value"):
            if not isinstance(turn.get(name), str):
                raise RecordError("wrong_type", f"{field}.{name}", turn.get(name), "give a string")
        _check_unicode(f"{field}.value", turn["value"])
        turns.append((_ROLES.get(turn["from"], "assistant"), turn["value"]))
    return turns


def _split(sides: list[list[tuple[Role, str]]]) -> tuple[list[tuple[Role, str]], list[list[tuple[Role, str]]]]:
    """The longest common prefix that ends in a user turn, and what is left of each side."""
    common = 0
    while all(len(side) > common for side in sides) and all(side[common] == sides[0][common] for side in sides):
        common += 1
    while common and sides[0][common - 1][0] != "user":
        common -= 1
    if not common:
        remedy = (
            "the conversation needs a user turn" if len(sides) == 1 else "both sides must share their first user turn"
        )
        raise RecordError("no_shared_prompt", "conversations_a", sides[0][0][1], remedy)
    return sides[0][:common], [side[common:] for side in sides]


def _media_names(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Field and path of each image or video."""
    value = row.get("image")
    if value is None:
        return []
    names = [(f"image[{i}]", name) for i, name in enumerate(value)] if isinstance(value, list) else [("image", value)]
    for field, name in names:
        if not isinstance(name, str) or not name:
            raise RecordError("wrong_type", field, name, "give the path of an image or video as a string")
    return names


def _prompt(turns: list[tuple[Role, str]], media: list[MediaPart]) -> Prompt:
    """Media at their placeholders; a single item without one leads the conversation (architecture notes, section 5)."""
    count = sum(text.count(PLACEHOLDER) for _, text in turns)
    if count == 0 and len(media) == 1:
        return Prompt(tuple(Message(role, (TextPart(text),)) for role, text in turns), tuple(media))
    if count != len(media):
        remedy = f"the prompt has {count} {PLACEHOLDER} for {len(media)} images; give as many as there are images"
        raise RecordError("placeholder_count", "image", [part.name for part in media], remedy)
    rest = iter(media)
    messages = []
    for role, text in turns:
        first, *others = text.split(PLACEHOLDER)
        parts: list[Part] = [TextPart(first)] if first or not others else []
        for piece in others:
            parts.append(next(rest))
            if piece:
                parts.append(TextPart(piece))
        messages.append(Message(role, tuple(parts)))
    return Prompt(tuple(messages))


def _released_filter(field: str, text: str) -> None:
    """The released training code's filter of the last turn (architecture notes, section 7)."""
    if any(marker in text for marker in _CHAT_MARKERS):
        raise RecordError("filter_chat_marker", field, text, "the answer holds a chat marker; remove it")
    if len(text) > 500 and any(len(word) > 100 for word in text.split()):
        raise RecordError("filter_long_word", field, text, "an answer over 500 characters has a word of over 100")


def _check_unicode(field: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        remedy = f"character {error.start} is half of a surrogate pair, which no tokenizer reads; repair the text"
        raise RecordError("invalid_unicode", field, text[max(0, error.start - 5) : error.end + 5], remedy) from error

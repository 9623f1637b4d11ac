"""Rewards that other code computes: a Python function, or a server."""

from __future__ import annotations

import json
import math
import mimetypes
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, cast
from urllib.parse import urlsplit

from lit_ixc.judges.endpoint import retry_after
from lit_ixc.judges.media import data_url
from lit_ixc.records import ImagePart, Prompt, UserError, VideoPart
from lit_ixc.rewards.interface import Episode, Judgement, Reward, prompt_text, unjudged

_PASSING = (408, 409, 425, 429)
_LONGEST_WAIT_S = 60.0


class CallableReward(Reward):
    """A Python function in TRL's form: ``f(prompts=[...], completions=[...], **columns) -> list[float | None]``.

    Prompts and completions are strings (a prompt's messages line by line, media left out) or, with ``conversational``,
    lists of ``{"role", "content"}``. Columns are the keys of the rows' metadata, None where a row lacks one, and
    ``completion_ids``; a function without ``**kwargs`` is given those that it names. Where it returns None or NaN, the
    answer is not judged (``no_reward``).

    Args:
        function: Where it is: ``package.module:name``.
        weight: Factor of the reward in the total.
        conversational: Give conversations in place of strings.

    Raises:
        UserError: There is no such function.
    """

    def __init__(self, function: str, weight: float = 1.0, conversational: bool = False) -> None:
        super().__init__(weight)
        self.name, self.conversational = function, conversational
        self.function = _imported(function)

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        keys = {key for episode in episodes for key in episode.record.metadata}
        columns: dict[str, Any] = {key: [one.record.metadata.get(key) for one in episodes] for key in sorted(keys)}
        columns["completion_ids"] = [list(episode.ids) for episode in episodes]
        if self.conversational:
            columns["prompts"] = [
                [{"role": message.role, "content": message.text} for message in episode.record.prompt.messages]
                for episode in episodes
            ]
            columns["completions"] = [[{"role": "assistant", "content": episode.text}] for episode in episodes]
        else:
            columns["prompts"] = [prompt_text(episode.record.prompt) for episode in episodes]
            columns["completions"] = [episode.text for episode in episodes]
        parameters = signature(self.function).parameters
        if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in parameters.values()):
            needed = {name for name, parameter in parameters.items() if parameter.default is Parameter.empty}
            nothing = {name: [None] * len(episodes) for name in needed - columns.keys()}
            columns = {name: values for name, values in (columns | nothing).items() if name in parameters}
        try:
            scores = self.function(**columns)
        except Exception as error:  # whatever the user's code raises
            said = f"{type(error).__name__}: {error}"
            raise UserError(f"CallableReward: function = {self.name}: it raised {said}; --debug shows where") from error
        return read_scores(scores, len(episodes), f"CallableReward: function = {self.name}")


class EndpointReward(Reward):
    """A server with OpenRLHF's interface: POST ``{"query", "prompts", "labels"}``, reply ``{"rewards": [...]}``.

    ``prompts`` are a prompt's messages line by line, ``query`` the same with the answer behind them. Pictures and
    videos go beside them as ``images`` and ``videos``, for each answer a list of data URLs; servers of text leave the
    keys aside. Where the server replies null, the answer is not judged (``no_reward``).

    Args:
        url: Address, usually one that ends in ``/get_reward``.
        weight: Factor of the reward in the total.
        label: Key of the rows' metadata that is sent as the label; null where a row lacks it.
        batch_size: Most answers of one request.
        timeout: Longest silence of the server, in seconds.
        retries: Repetitions of a request that failed for a passing reason: no connection, HTTP 5xx or 429.
        backoff: Wait before the first repetition, in seconds; it doubles each time, 60 s at most.
        api_key_env: Environment variable with the key that is sent as bearer token; None: no key.
        headers: Further headers.
        send_media: Send pictures and videos.

    Raises:
        UserError: An option is out of range, or the variable of the key is not set.
    """

    def __init__(
        self,
        url: str,
        weight: float = 1.0,
        label: str = "truth",
        batch_size: int = 64,
        timeout: float = 60.0,
        retries: int = 4,
        backoff: float = 1.0,
        api_key_env: str | None = None,
        headers: dict[str, str] | None = None,
        send_media: bool = True,
    ) -> None:
        super().__init__(weight)
        self.send_media = send_media
        if not _is_address(url):
            raise UserError(f"EndpointReward: url = {url}: give an address such as http://localhost:5000/get_reward")
        for name, value, least in (("batch_size", batch_size, 1), ("retries", retries, 0), ("backoff", backoff, 0)):
            if not least <= value < math.inf:
                raise UserError(f"EndpointReward: {name} = {value}: choose at least {least}")
        if not 0 < timeout < math.inf:
            raise UserError(f"EndpointReward: timeout = {timeout}: choose a positive number of seconds")
        key = os.environ.get(api_key_env, "").strip() if api_key_env else ""
        if api_key_env and not key:
            raise UserError(f"EndpointReward: api_key_env = {api_key_env}: the variable is not set; set it")
        self.url, self.label, self.batch_size = url, label, batch_size
        self.timeout, self.retries, self.backoff = timeout, retries, backoff
        self._key = key
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        found = []
        for start in range(0, len(episodes), self.batch_size):
            some = episodes[start : start + self.batch_size]
            prompts = [prompt_text(episode.record.prompt) for episode in some]
            request: dict[str, list[Any]] = {
                "query": [f"{prompt}\n{episode.text}" for prompt, episode in zip(prompts, some, strict=True)],
                "prompts": prompts,
                "labels": [episode.record.metadata.get(self.label) for episode in some],
            }
            if self.send_media and any(episode.record.prompt.media for episode in some):
                for name, kind in (("images", ImagePart), ("videos", VideoPart)):
                    request[name] = [_data_urls(episode.record.prompt, kind) for episode in some]
            reply = self._ask(json.dumps(request).encode())
            if not isinstance(reply, Mapping) or "rewards" not in reply:
                raise UserError(f"EndpointReward: {self.url}: the reply has no rewards; see to the server")
            found += read_scores(reply["rewards"], len(some), f"EndpointReward: {self.url}")
        return found

    def _ask(self, body: bytes) -> Any:
        """The JSON of the reply.

        Raises:
            UserError: The server refuses, cannot be reached after all retries, or replies no JSON.
        """
        problem = ""
        for attempt in range(self.retries + 1):
            request = urllib.request.Request(self.url, body, self._headers, method="POST")
            asked = None
            try:
                with self._opener.open(request, timeout=self.timeout) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                problem = self._said(error)
                if error.code < 500 and error.code not in _PASSING:
                    raise UserError(f"EndpointReward: {self.url}: {problem}; check url, key and server") from None
                asked = retry_after(dict(error.headers))
            except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
                problem = str(getattr(error, "reason", "") or error) or type(error).__name__
            except ValueError as error:
                raise UserError(
                    f"EndpointReward: {self.url}: the reply is no JSON ({error}); see to the server"
                ) from None
            if attempt < self.retries:
                time.sleep(min(_LONGEST_WAIT_S, self.backoff * 2.0**attempt if asked is None else asked))
        raise UserError(
            f"EndpointReward: {self.url}: {problem}, attempts: {self.retries + 1}; see to the server, or raise retries "
            "or timeout"
        )

    def _said(self, error: urllib.error.HTTPError) -> str:
        """Status and message of a refusal, in one line; servers may repeat the key."""
        try:
            text = " ".join(error.read(2000).decode(errors="replace").split())[:200]
        except (OSError, HTTPException):
            text = ""
        return f"HTTP {error.code} {text.replace(self._key, '***') if self._key else text}".rstrip()


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, an address with half a bracket
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the key would go to another server, and the body would be lost."""

    def redirect_request(self, *args: Any) -> None:
        return None


def read_scores(values: Any, count: int, who: str) -> list[Judgement]:
    """Judgements from what foreign code gives.

    Args:
        values: One number or None for each answer.
        count: How many.
        who: What messages name.

    Raises:
        UserError: The values are of another number or type.
    """
    if hasattr(values, "tolist"):  # arrays and tensors
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise UserError(f"{who} gave a {type(values).__name__}; a list with a number for each answer is needed")
    if len(values) != count:
        raise UserError(f"{who} gave {len(values)} rewards for {count} answers; one for each is needed")
    return [_read(value, index, who) for index, value in enumerate(values)]


def _read(value: Any, index: int, who: str) -> Judgement:
    if hasattr(value, "item"):
        value = value.item()
    if value is None:
        return unjudged("no_reward")
    if not isinstance(value, int | float):
        raise UserError(f"{who} gave {value!r} as reward {index}; a number or None is needed")
    if math.isfinite(value):
        return Judgement(float(value))
    return unjudged("no_reward" if math.isnan(value) else "not_finite")


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"CallableReward: function = {path}: {error}; give package.module:name") from error
    if not callable(found):
        raise UserError(f"CallableReward: function = {path}: a {type(found).__name__} cannot be called")
    return cast(Callable[..., Any], found)


def _data_urls(prompt: Prompt, kind: type[ImagePart] | type[VideoPart]) -> list[str]:
    """The files of a prompt's pictures, or of its videos."""
    parts = [part for part in prompt.media if isinstance(part, kind)]
    return [data_url(mimetypes.guess_type(part.name)[0] or "application/octet-stream", part.data) for part in parts]

"""Rewards of Python functions and of servers."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rewards.exported import episodes, picture, row
from rewards.functions import SEEN

from lit_ixc.records import UserError
from lit_ixc.rewards import Judgement
from lit_ixc.rewards.external import CallableReward, EndpointReward


def test_a_function_has_texts_and_the_metadata_as_columns() -> None:
    first = row("What is it?", metadata={"level": 2, "tag": "a"})
    second = row("Is it blue?", picture(), metadata={"tag": "b"})
    answers = [*episodes(first, "red", "skip", tokens=2), *episodes(second, "blue", tokens=2)]
    found = CallableReward("rewards.functions:lengths")(answers)
    assert found[0] == Judgement(3.0) and found[2] == Judgement(4.0)
    assert math.isnan(found[1].score) and found[1].reason == "no_reward"
    assert {
        "prompts": ["What is it?", "What is it?", "Is it blue?"],
        "completions": ["red", "skip", "blue"],
        "level": [2, 2, None],
        "tag": ["a", "a", "b"],
        "completion_ids": [[100, 101]] * 3,
    } == SEEN


def test_a_function_may_name_what_it_takes() -> None:
    answers = episodes(row("What is it?", metadata={"level": 2, "tag": "a"}), "red", "blue")
    assert CallableReward("rewards.functions:strict")(answers) == [Judgement(2.0)] * 2  # a tensor
    assert CallableReward("rewards.functions:Scorer.one")(answers) == [Judgement(0.0)] * 2
    chat = CallableReward("rewards.functions:chat", conversational=True)
    assert chat(answers) == [Judgement(14.0), Judgement(15.0)]  # 11 characters and 3, 11 and 4


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short", r"rewards.functions:broken gave 1 rewards for 2 answers"),
        ("number", r"gave a float; a list"),
        ("none", r"gave a NoneType; a list"),
    ],
)
def test_a_function_that_gives_something_else_is_named(kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CallableReward("rewards.functions:broken")(episodes(row("What?"), kind, "more"))


def test_a_functions_numbers_are_looked_at() -> None:
    reward = CallableReward("rewards.functions:broken")
    with pytest.raises(UserError, match=r"broken gave '1' as reward 0; a number"):
        reward(episodes(row("What?"), "text"))
    assert [reward(episodes(row("What?"), kind))[0].reason for kind in ("odd", "big")] == ["no_reward", "not_finite"]


@pytest.mark.parametrize(
    "path", ["nowhere:f", "rewards.functions:g", "rewards.functions", "rewards.functions:NUMBER", ":f"]
)
def test_a_function_that_is_not_there_is_refused_at_once(path: str) -> None:
    with pytest.raises(UserError, match=f"CallableReward: function = {path}"):
        CallableReward(path)


class Server:
    """A local server: ``replies`` are (status, body, headers) in order, the last one for good."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.replies: list[tuple[int, Any, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.headers.append(dict(self.headers))
                status, body, headers = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                if callable(body):
                    body = body(outer.requests[-1])
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/get_reward"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def lengths(request: dict[str, Any]) -> dict[str, Any]:
    return {"rewards": [len(query) for query in request["query"]], "scores": [0] * 9, "extra_logs": {}}


ANSWERS = [*episodes(row("What?", metadata={"truth": {"a": 1}}), "red", "blue"), *episodes(row("Who?"), "é")]


def test_a_server_is_asked_in_batches(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.replies = [(200, lengths, {})]
    monkeypatch.setenv("REWARD_KEY", "secret")
    reward = EndpointReward(server.url, batch_size=2, api_key_env="REWARD_KEY", headers={"X-Team": "7"})
    assert reward(ANSWERS) == [Judgement(9.0), Judgement(10.0), Judgement(6.0)]  # "What?" + line end + "red"
    assert server.requests == [
        {"query": ["What?\nred", "What?\nblue"], "prompts": ["What?"] * 2, "labels": [{"a": 1}] * 2},
        {"query": ["Who?\né"], "prompts": ["Who?"], "labels": [None]},
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret" and server.headers[0]["X-Team"] == "7"


def test_a_passing_failure_is_repeated(server: Server) -> None:
    server.replies = [(500, {}, {}), (429, {}, {"Retry-After": "0"}), (503, b"busy", {}), (200, lengths, {})]
    assert len(EndpointReward(server.url, retries=3, backoff=0.0)(ANSWERS)) == 3
    assert len(server.requests) == 4 and server.requests[0] == server.requests[3]


def test_a_server_that_stays_away_is_named(server: Server) -> None:
    server.replies = [(503, b"busy", {})]
    with pytest.raises(UserError, match=rf"{server.url}: HTTP 503 busy, attempts: 3"):
        EndpointReward(server.url, retries=2, backoff=0.0)(ANSWERS)
    assert len(server.requests) == 3
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/get_reward"
        with pytest.raises(UserError, match=r"Connection refused.*, attempts: 2; see to the server"):
            EndpointReward(url, retries=1, backoff=0.0)(ANSWERS)


def test_a_silent_server_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        start = time.monotonic()
        with pytest.raises(UserError, match=r"timed out, attempts: 1"):
            EndpointReward(url, retries=0, timeout=0.2)(ANSWERS)
        assert time.monotonic() - start < 4


def test_a_refusal_is_not_repeated_and_hides_the_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_KEY", "secret")
    server.replies = [(401, b"no such key: secret", {})]
    with pytest.raises(UserError, match=r"HTTP 401 no such key: \*\*\*; check url, key and server"):
        EndpointReward(server.url, api_key_env="REWARD_KEY", backoff=0.0)(ANSWERS)
    server.replies = [(302, b"", {"Location": server.url})]
    with pytest.raises(UserError, match=r"HTTP 302"):
        EndpointReward(server.url, backoff=0.0)(ANSWERS)
    assert len(server.requests) == 2  # neither repeated nor followed


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"no json", "the reply is no JSON"),
        ([1, 2, 3], "the reply has no rewards"),
        ({"scores": [1, 2, 3]}, "the reply has no rewards"),
        ({"rewards": [1, 2]}, "gave 2 rewards for 3 answers"),
        ({"rewards": 3}, "gave a int; a list"),
        ({"rewards": [1, 2, "3"]}, "gave '3' as reward 2"),
    ],
)
def test_a_reply_of_another_form_is_named(server: Server, body: Any, message: str) -> None:
    server.replies = [(200, body, {})]
    with pytest.raises(UserError, match=message):
        EndpointReward(server.url)(ANSWERS)
    assert len(server.requests) == 1


def test_a_server_need_not_judge_every_answer(server: Server) -> None:
    server.replies = [(200, b'{"rewards": [1.5, null, NaN]}', {})]
    first, second, third = EndpointReward(server.url)(ANSWERS)
    assert first == Judgement(1.5) and second.reason == third.reason == "no_reward"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:5000"}, "url = localhost:5000"),
        ({"url": "ftp://x/"}, "url = ftp://x/"),
        ({"url": "http://[x/"}, "url = "),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"retries": -1}, "retries = -1"),
        ({"timeout": 0}, "timeout = 0"),
        ({"api_key_env": "NOT_SET_HERE"}, "api_key_env = NOT_SET_HERE: the variable is not set"),
    ],
)
def test_options_of_an_endpoint_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        EndpointReward(**{"url": "http://localhost/", **options})
    assert message in str(caught.value)

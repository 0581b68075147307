# SPDX-License-Identifier: Apache-2.0
"""What clients ask in the soak, and what a plain server answered to it: text, tokens and reason, word for word."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from openai import AsyncOpenAI

from tests.support.server import MODEL_NAME

_PROMPTS = (
    "def add(a, b):\n    return",
    "import os\n\n\ndef",
    "class Stack:\n    def __init__(self):\n",
    "for i in range(",
    "    try:\n        import json\n    except",
    "# The following code reads a file\nwith open(",
)
_NUM_IDS = 200  # token ids below are ordinary words of the tiny model
KINDS = ("whole", "streamed", "given up", "stopped", "grammar", "long")


@dataclass(frozen=True)
class Question:
    """Holds one request. give_up_at: number of events after which the client goes away; 0 for never."""

    kind: str
    body: dict[str, Any]
    streams: bool
    give_up_at: int = 0


@dataclass(frozen=True)
class Answer:
    """Holds what came: of a given-up stream, the events until then, without a reason.

    beyond: the tokens that would have followed where a stop string ended it. The API server finds that string, in
    whole steps of the engine: with drafts the last step may have tokens behind it, which clients get as ids, and
    the engine goes on until it is told to stop.
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    beyond: tuple[int, ...] = ()


def make_questions(number: int, seed: int) -> list[Question]:
    """Returns `number` questions of all kinds in turn, the same for the same seed."""
    rng = random.Random(seed)
    return [_question(KINDS[index % len(KINDS)], rng) for index in range(number)]


def _question(kind: str, rng: random.Random) -> Question:
    body: dict[str, Any] = {"prompt": rng.choice(_PROMPTS), "max_tokens": rng.randint(8, 64)}
    extra: dict[str, Any] = {"return_token_ids": True}
    if kind == "stopped":
        body["stop"] = rng.choice([["\n"], [")"], ["self", "return"], [":", "="]])
    elif kind == "grammar":
        choices = ["yes", "no", "perhaps", "an answer of more words"]
        extra["structured_outputs"] = rng.choice([{"choice": choices}, {"regex": "[a-f]{3,9}-[0-9]{2}"}])
    elif kind == "long":
        body["prompt"] = [5 + rng.randrange(_NUM_IDS) for _ in range(rng.randint(120, 300))]
        body["max_tokens"] = rng.randint(60, 150)
        extra["ignore_eos"] = True
    give_up_at = rng.randint(1, 12) if kind == "given up" else 0
    if give_up_at:
        body["max_tokens"] = 200
        extra["ignore_eos"] = True
    return Question(kind, body | {"extra_body": extra}, kind in ("streamed", "given up", "stopped"), give_up_at)


async def ask(client: AsyncOpenAI, question: Question) -> Answer:
    """Returns the answer to a question; the client's errors pass."""
    arguments = {"model": MODEL_NAME, "temperature": 0, **question.body}
    if not question.streams:
        reply = await client.completions.create(**arguments)
        choice: Any = reply.choices[0]
        return Answer(reply.id, choice.text, tuple(choice.token_ids), choice.finish_reason)
    text, token_ids, reason, request_id, num_events = "", [], None, "", 0
    events = await client.completions.create(stream=True, **arguments)
    async with events:
        async for event in events:
            request_id = event.id
            for choice in event.choices:
                assert reason is None, "text after the last event"
                text += choice.text
                token_ids += choice.token_ids or []
                reason = choice.finish_reason
            num_events += 1
            if question.give_up_at and num_events >= question.give_up_at:
                break
    return Answer(request_id, text, tuple(token_ids), reason)


async def answers_alone(client: AsyncOpenAI, questions: Sequence[Question]) -> list[Answer]:
    """Returns the answers to questions that nobody gives up, each asked alone."""
    answers = []
    for question in questions:
        body = {name: value for name, value in question.body.items() if name != "stop"}
        answer = await asyncio.wait_for(ask(client, Question(question.kind, question.body, question.streams)), 120)
        if body != question.body:
            longer = await asyncio.wait_for(ask(client, Question(question.kind, body, question.streams)), 120)
            answer = replace(answer, beyond=longer.token_ids[len(answer.token_ids) :])
        answers.append(answer)
    return answers


def is_right(question: Question, answer: Answer, right: Answer) -> bool:
    """Tells whether an answer is the plain server's: a given-up stream's is a part of it from the beginning, and
    behind a stop string there may be tokens of the same step."""
    if question.give_up_at:
        length = len(answer.token_ids)
        return answer.token_ids == right.token_ids[:length] and right.text.startswith(answer.text)
    said = (answer.text, answer.finish_reason) == (right.text, right.finish_reason)
    return said and is_up_to(answer.token_ids, right.token_ids, right.beyond)


def is_up_to(tokens: tuple[int, ...], least: tuple[int, ...], beyond: tuple[int, ...]) -> bool:
    """Tells whether tokens are at least `least`, and follow it no otherwise than by `beyond`."""
    return len(tokens) >= len(least) and tokens == (least + beyond)[: len(tokens)]

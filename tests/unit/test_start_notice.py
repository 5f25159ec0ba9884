"""The notice of a process to its parent that it works."""

import asyncio
import os

import pytest

from queue_engine.processes.start_notice import NOTICE_VARIABLE, NoticePipe, notice_fd, send_notice

FACTS = {"key_problem": None, "has_one_tenant": True}


async def test_the_parent_gets_the_first_notice() -> None:
    pipe = NoticePipe()
    try:
        waiting = asyncio.create_task(pipe.first())
        send_notice({NOTICE_VARIABLE: str(pipe.fd)}, FACTS)
        send_notice({NOTICE_VARIABLE: str(pipe.fd)}, {"key_problem": "later"})
        assert await waiting == FACTS
    finally:
        pipe.close()


def test_a_process_without_a_waiting_parent_sends_nothing() -> None:
    assert notice_fd({}) is None
    send_notice({}, FACTS)


def test_a_process_that_is_restarted_often_does_not_wait_for_its_parent() -> None:
    pipe = NoticePipe()
    try:
        for _ in range(2000):
            send_notice({NOTICE_VARIABLE: str(pipe.fd)}, FACTS)
    finally:
        pipe.close()
        pipe.close()


def test_a_descriptor_that_is_no_pipe_is_refused() -> None:
    with open(os.devnull) as other, pytest.raises(ValueError, match="is not a pipe"):
        send_notice({NOTICE_VARIABLE: str(other.fileno())}, FACTS)

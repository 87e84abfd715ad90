"""The steps of a running graph, heard over ComfyUI's WebSocket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SILENCE_SECONDS = 1.0
LAST_EVENTS = {"execution_success", "execution_error", "execution_interrupted"}


@dataclass(frozen=True)
class Progress:
    """Node `node_id` has done `value` of `maximum` steps; both are 0 when it only begins."""

    node_id: str
    value: int
    maximum: int


def follow(
    address: str,
    queue: Callable[[], str],
    is_queued: Callable[[str], bool],
    on_progress: Callable[[Progress], None],
    deadline: float,
) -> str:
    """Listen at `address`, call `queue`, report until the graph has ended, and return its prompt id.

    It also returns when the connection is lost or time.monotonic() passes `deadline`: how the graph ended is for
    ComfyUI's history to say. Not for use inside a running event loop.
    """
    return asyncio.run(_follow(address, queue, is_queued, on_progress, deadline))


async def _follow(
    address: str,
    queue: Callable[[], str],
    is_queued: Callable[[str], bool],
    on_progress: Callable[[Progress], None],
    deadline: float,
) -> str:
    import aiohttp  # one of ComfyUI's own requirements; the launcher, which runs anywhere, never comes here

    # 0 lifts the limit on the size of a message: previews are large
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as connection:
        prompt_id = queue()
        while time.monotonic() < deadline:
            try:
                message = await connection.receive(timeout=SILENCE_SECONDS)
            except asyncio.TimeoutError:
                if is_queued(prompt_id):
                    continue
                break
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
                break
            if message.type is not aiohttp.WSMsgType.TEXT:  # a preview picture
                continue
            event = json.loads(message.data)
            if event["data"].get("prompt_id") != prompt_id:
                continue
            if event["type"] in LAST_EVENTS:
                break
            _report(event["type"], event["data"], on_progress)
    return prompt_id


def _report(kind: str, data: Mapping[str, Any], on_progress: Callable[[Progress], None]) -> None:
    if kind == "executing" and data["node"] is not None:
        on_progress(Progress(str(data["node"]), 0, 0))
    elif kind == "progress":
        on_progress(Progress(str(data["node"]), int(data["value"]), int(data["max"])))

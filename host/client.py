"""What one says to a running ComfyUI over HTTP, and the three ways in which a run can end badly."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .progress import Progress, follow

Graph = Mapping[str, Mapping[str, Any]]  # ComfyUI's API format: {node id: {"class_type": str, "inputs": {...}}}
REQUEST_SECONDS = 60.0
POLL_SECONDS = 0.05


class ComfyError(RuntimeError):
    """ComfyUI is gone or answered with something unexpected."""


class GraphRejected(ComfyError):
    """ComfyUI refused the graph or a branch of it; `node_errors` is its own account, by node id."""

    def __init__(self, message: str, node_errors: Mapping[str, Any]) -> None:
        super().__init__("\n".join([message, *_complaints(node_errors)]))
        self.node_errors = node_errors


class RunFailed(ComfyError):
    """A node raised; `node_id`, `node_class`, `exception_type`, `exception_message` and `trace` tell which and why."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        self.node_id = str(event["node_id"])
        self.node_class = str(event["node_type"])
        self.exception_type = str(event["exception_type"])
        self.exception_message = str(event["exception_message"]).strip()
        self.trace: Sequence[str] = event.get("traceback", ())
        super().__init__(f"node {self.node_id} ({self.node_class}): {self.exception_message}")


class RunInterrupted(ComfyError):
    """The run was interrupted."""


class ComfyClient:
    """Talks to the ComfyUI at `url`, for example "http://127.0.0.1:8188"."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business here

    def is_ready(self) -> bool:
        """Whether a ComfyUI answers."""
        try:
            self.system_stats()
        except (ComfyError, ValueError):  # ValueError: something else answers there, and not in JSON
            return False
        return True

    def system_stats(self) -> dict[str, Any]:
        """Return the versions, devices and memory that ComfyUI reports."""
        return self._json("/system_stats")

    def object_info(self, node_class: str = "") -> dict[str, Any]:
        """Return the schema of one node class, or of all."""
        return self._json(f"/object_info/{urllib.parse.quote(node_class)}" if node_class else "/object_info")

    def queue(self, graph: Graph, extra_data: Mapping[str, Any] | None = None) -> str:
        """Queue a graph and return its prompt id.

        `extra_data` is ComfyUI's: {"extra_pnginfo": {"workflow": ...}} is what lands in saved pictures.

        Raises:
            GraphRejected: the graph, or a branch that leads to one of its outputs, is not valid.
        """
        message = {"prompt": graph, "client_id": self.client_id, "extra_data": dict(extra_data or {})}
        status, content = self._exchange("/prompt", json.dumps(message).encode(), "application/json")
        if status not in (200, 400):
            raise ComfyError(f"ComfyUI answered {status} to the graph: {content[:500].decode(errors='replace')}")
        answer = json.loads(content)
        if status == 400:
            reason = answer["error"]
            text = reason["message"] if isinstance(reason, dict) else str(reason)
            raise GraphRejected(f"ComfyUI refused the graph: {text}", answer.get("node_errors", {}))
        if answer["node_errors"]:  # accepted for the sake of another output; the bad branch would be dropped in silence
            self._drop(answer["prompt_id"])
            raise GraphRejected("ComfyUI refused a branch of the graph:", answer["node_errors"])
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 600.0) -> dict[str, Any]:
        """Wait for a queued graph to end and return its history entry; entry["outputs"] is by node id.

        Raises:
            RunFailed, RunInterrupted: how it ended otherwise.
            TimeoutError: it still runs after `timeout` seconds, and goes on running.
            ComfyError: it is neither queued nor finished, or ComfyUI is gone.
        """
        deadline = time.monotonic() + timeout
        while True:
            waiting = self._is_queued(prompt_id)  # asked first: it leaves the queue and enters the history at once
            entry = self._json(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return _finished(entry)
            if not waiting:
                raise ComfyError(f"ComfyUI neither runs nor remembers the prompt {prompt_id}: was its queue cleared?")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the graph {prompt_id} still runs after the time allowed")
            time.sleep(POLL_SECONDS)

    def run(
        self,
        graph: Graph,
        extra_data: Mapping[str, Any] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        timeout: float = 600.0,
    ) -> dict[str, Any]:
        """Queue a graph, wait for it and return its history entry; `on_progress` hears of every step of every node.

        Raises: as `queue` and `wait` do.
        """
        deadline = time.monotonic() + timeout
        if on_progress is None:
            prompt_id = self.queue(graph, extra_data)
        else:
            address = f"{self.url}/ws?clientId={self.client_id}"
            start = partial(self.queue, graph, extra_data)
            prompt_id = follow(address, start, self._is_queued, on_progress, deadline)
        return self.wait(prompt_id, deadline - time.monotonic())

    def upload(self, path: Path, name: str | None = None) -> str:
        """Put a picture into ComfyUI's input folder and return the name by which Load Image knows it."""
        boundary = uuid.uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'.encode(),
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name or path.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode(),
            path.read_bytes(),
            f"\r\n--{boundary}--\r\n".encode(),
        ]
        body = b"".join(parts)
        answer = json.loads(self._bytes("/upload/image", body, f"multipart/form-data; boundary={boundary}"))
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def view(self, image: Mapping[str, str]) -> bytes:
        """Return the file behind one entry of outputs[node]["images"]: {"filename", "subfolder", "type"}."""
        return self._bytes("/view?" + urllib.parse.urlencode(image))

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupt what runs now, or one prompt only."""
        self._post("/interrupt", {} if prompt_id is None else {"prompt_id": prompt_id})

    def free(self) -> None:
        """Unload all models and drop cached results, once what runs now has ended."""
        self._post("/free", {"unload_models": True, "free_memory": True})

    def _drop(self, prompt_id: str) -> None:
        self._post("/queue", {"delete": [prompt_id]})
        self.interrupt(prompt_id)

    def _is_queued(self, prompt_id: str) -> bool:
        queue = self._json("/queue")
        return any(item[1] == prompt_id for item in queue["queue_running"] + queue["queue_pending"])

    def _json(self, path: str) -> dict[str, Any]:
        value = json.loads(self._bytes(path))
        if not isinstance(value, dict):
            raise ComfyError(f"{self.url}{path} did not answer as ComfyUI does")
        return value

    def _post(self, path: str, message: Mapping[str, Any]) -> None:
        self._bytes(path, json.dumps(message).encode(), "application/json")

    def _bytes(self, path: str, body: bytes | None = None, content_type: str = "") -> bytes:
        status, content = self._exchange(path, body, content_type)
        if status != 200:
            raise ComfyError(f"{self.url}{path} answered {status}: {content[:500].decode(errors='replace')}")
        return content

    def _exchange(self, path: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": content_type} if body else {})
        try:
            with self._opener.open(request, timeout=REQUEST_SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except (urllib.error.URLError, OSError) as error:
            raise ComfyError(f"no ComfyUI answers at {self.url}: {error}") from error


def _complaints(node_errors: Mapping[str, Any]) -> list[str]:
    return [
        f"node {node_id} ({account['class_type']}): {error['message']}: {error['details']}"
        for node_id, account in node_errors.items()
        for error in account["errors"]
    ]


def _finished(entry: dict[str, Any]) -> dict[str, Any]:
    status = entry["status"]
    if status["status_str"] == "success":
        return entry
    for name, event in reversed(status["messages"]):
        if name == "execution_error":
            raise RunFailed(event)
        if name == "execution_interrupted":
            raise RunInterrupted(f"the run was interrupted at node {event['node_id']} ({event['node_type']})")
    raise ComfyError(f"the run ended with the status {status['status_str']} and no reason")

"""A server on this machine that speaks OpenAI's chat API and fails as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | int | dict[str, Any]  # the model's words, an HTTP status, or a whole message


class ChatServer:
    """Answers every chat with `reply(prompt, number)`, numbers counting from 0.

    A reply may also be "<drop>" (the connection ends), "<garbage>" (200 with what is no JSON) or "<slow>" (5 s).
    """

    def __init__(self) -> None:
        self.reply: Callable[[str, int], Reply] = lambda prompt, number: f"a made caption {number}"
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.at_once = self.most_at_once = 0
        self.url = ""
        self._lock = threading.Lock()

    def prompts(self) -> list[str]:
        """The text of each request."""
        return [prompt_of(request) for request in self.requests]


def prompt_of(request: dict[str, Any]) -> str:
    content = request["messages"][0]["content"]
    return content if isinstance(content, str) else next(p["text"] for p in content if p["type"] == "text")


@contextmanager
def serving() -> Iterator[ChatServer]:
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with chat._lock:
                number = len(chat.requests)
                chat.requests.append(request)
                chat.keys.add(self.headers.get("Authorization"))
                chat.at_once += 1
                chat.most_at_once = max(chat.most_at_once, chat.at_once)
            try:
                self.answer(chat.reply(prompt_of(request), number))
            finally:
                with chat._lock:
                    chat.at_once -= 1

        def answer(self, reply: Reply) -> None:
            if reply == "<slow>":
                time.sleep(5)
            if reply == "<drop>":
                self.close_connection = True
                return
            status, message = 200, reply if isinstance(reply, dict) else {"content": reply}
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"} | message}
            content: dict[str, Any] = {"choices": [choice]}
            if isinstance(reply, int):  # as some servers do, it repeats the key
                status, content = reply, {"error": {"message": f"scripted, {self.headers.get('Authorization')}"}}
            body = b"{this is no JSON" if reply == "<garbage>" else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == 429:
                self.send_header("Retry-After-Ms", "20")
            self.end_headers()
            with suppress(ConnectionError):  # who asked is gone
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()

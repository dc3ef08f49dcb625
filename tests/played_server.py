"""A local HTTP server that answers chat completions as it is told, and remembers what it was asked."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text="It is a lung.", *, finish="stop", logprobs=None, **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    if logprobs is not None:
        choice["logprobs"] = {"content": logprobs}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return {"id": "1", "object": "chat.completion", "model": "served/m3", "choices": [choice], "usage": usage} | more


def place(token, **top):
    return {"token": token, "top_logprobs": [{"token": t.replace("_", " "), "logprob": p} for t, p in top.items()]}


@dataclass
class Played:
    """A server that answers as it is told and remembers what it was asked."""

    status: int = 200
    body: object = field(default_factory=completion)
    delay_s: float = 0.0
    headers: dict = field(default_factory=dict)
    cut_off: bool = False
    requests: list = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @contextmanager
    def serving(self, context=None):
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()


def _handler(played):
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                played.requests.append((self.path, dict(self.headers), json.loads(body)))
                played.at_once += 1
                played.most_at_once = max(played.most_at_once, played.at_once)
            time.sleep(played.delay_s)
            said = played.body(json.loads(body)) if callable(played.body) else played.body
            raw = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            with lock:
                played.at_once -= 1
            try:
                self.send_response(played.status)
                for name, value in played.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw) + (50 if played.cut_off else 0)))
                self.end_headers()
                self.wfile.write(raw)
            except OSError:
                pass  # the client did not wait

        def log_message(self, *args):
            pass

    return Handler

"""A small web server: each request is a task of one `ThreadPool`, so that a slow one does not hold up the others.

작은 웹 서버: 요청마다 `ThreadPool`의 작업 하나가 됩니다. 느린 요청 하나가 다른 요청을 막지 않습니다.

It listens on this machine only (127.0.0.1), answers 50 requests of its own client that come at once, and stops.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import manyhands
from manyhands import ThreadPool

WORKERS = 10
REQUESTS = 50


class Handler(BaseHTTPRequestHandler):
    """Answers after a little while, as if it had asked a database."""

    timeout = 5.0  # a client that says nothing must not keep a thread for ever

    def do_GET(self) -> None:
        """Answer a request; called in a thread of the pool."""
        if self.path == "/broken":
            raise RuntimeError("이 요청은 실패합니다 (this request fails)")
        time.sleep(0.05)
        body = f"{self.path} by {threading.current_thread().name}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing for each request."""


class PoolServer(HTTPServer):
    """Accepts connections in one thread and hands each to the pool."""

    request_queue_size = 128

    def __init__(self, pool: ThreadPool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self._pool = pool

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Hand a new connection to the pool, and go on accepting."""
        self._pool.submit(self._answer, request, client_address)

    def _answer(self, request: socket.socket, client_address: object) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception as error:  # one request's trouble is its own
            manyhands.print("서버 (server):", error)
        finally:
            self.shutdown_request(request)


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def main() -> None:
    with ThreadPool(WORKERS, thread_name_prefix="hand") as pool:
        server = PoolServer(pool)
        accepting = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        accepting.start()
        try:
            port = server.server_address[1]
            try:
                get(port, "/broken")
            except http.client.RemoteDisconnected:
                print("클라이언트 (client): /broken 은 답이 없습니다 (no answer); 서버는 계속됩니다 (the server goes on)")
            began = time.perf_counter()
            paths = [f"/item/{number}" for number in range(REQUESTS)]
            answers = list(manyhands.map(lambda path: get(port, path), paths, kind="thread", max_workers=REQUESTS))
            took_s = time.perf_counter() - began
        finally:
            server.shutdown()
            accepting.join()
            server.server_close()
    right = sum(status == 200 and body.startswith(f"{path} ") for path, (status, body) in zip(paths, answers, strict=True))
    hands = {body.rpartition(" ")[2] for _, body in answers}
    print(f"요청 (requests) {REQUESTS}, 바른 답 (right answers) {right}, 스레드 (threads) {len(hands)}")
    print(f"{took_s:.2f} s; 하나씩이면 적어도 (one by one at least) {REQUESTS * 0.05:.2f} s")


if __name__ == "__main__":
    main()

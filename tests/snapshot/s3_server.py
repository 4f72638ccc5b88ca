"""An S3 server for tests: moto's, in a process of its own. `python s3_server.py` is that process.

Around moto stands what S3 promises and moto leaves out: a request whose body was cut off is refused, and a conditional
write is one step. Its buckets are in memory: a server that was killed has forgotten them.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MISSING = " ".join(
    package for module, package in (("obstore", "obstore"), ("moto", "'moto[server]'")) if find_spec(module) is None
)
"""What to install before these tests can run."""
REGION = "us-east-1"

Options = dict[str, str]


class S3Server:
    """A server on a port of this machine, which is another one after `kill` and `start`; `stop` ends it."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, os.fspath(Path(__file__).resolve())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "moto's server did not start"
        self.port = int(line)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, endpoint: str | None = None) -> Options:
        """What obstore needs to be told to come here, or to `endpoint` on the way here."""
        keys = {"access_key_id": "tests", "secret_access_key": "a-secret-of-tests", "region": REGION}
        return keys | {"endpoint": endpoint or self.endpoint, "allow_http": "true"}

    def make_bucket(self, bucket: str) -> None:
        request = urllib.request.Request(f"{self.endpoint}/{bucket}", method="PUT")
        urllib.request.urlopen(request, timeout=120).close()

    def new_bucket(self) -> tuple[str, Options]:
        """(URL with a prefix in it, options) of a bucket of its own."""
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        self.make_bucket(bucket)
        return f"s3://{bucket}/some/prefix", self.options()


Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def as_s3_promises(application: Application) -> Application:
    turn = threading.Lock()

    def serve(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(size) if size else b""
        if len(body) < size:
            start("400 Bad Request", [])
            return [b"<Error><Code>IncompleteBody</Code></Error>"]
        environ["wsgi.input"] = io.BytesIO(body)
        with turn:
            return list(application(environ, start))

    return serve


def end_with_the_tests() -> None:
    """However they end: this end of the pipe tells."""
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    application = as_s3_promises(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    threading.Thread(target=end_with_the_tests, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()

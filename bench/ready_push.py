"""A registry's own limit: blobs that are ready and have their names, sent as fast as it takes them.

ready_push.py HOST:PORT/REPOSITORY FOLDER

Every file in the folder is named by the hexadecimal digits of its SHA-256, as in an OCI layout. Two connections take
the next largest in turn: a POST, and one PUT whose body the kernel copies out of the page cache.
"""

from __future__ import annotations

import http.client
import sys
import threading
from collections import deque
from pathlib import Path
from urllib.parse import urljoin, urlsplit

_CONNECTIONS = 2


def send(connection: http.client.HTTPConnection, repository: str, file: Path) -> None:
    """Upload one blob."""
    start = f"/v2/{repository}/blobs/uploads/"
    connection.request("POST", start)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 202:
        raise SystemExit(f"POST: status {answer.status}")
    location = urlsplit(urljoin(start, answer.headers["Location"]))
    connection.putrequest("PUT", f"{location.path}?{location.query}&digest=sha256:{file.name}")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(file.stat().st_size))
    connection.endheaders()
    with file.open("rb") as data:
        connection.sock.sendfile(data)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 201:
        raise SystemExit(f"PUT: status {answer.status}")


def main() -> None:
    """Send all; the status is not 0 when one is not taken."""
    host, _, repository = sys.argv[1].partition("/")
    files = deque(sorted(Path(sys.argv[2]).iterdir(), key=lambda file: (-file.stat().st_size, file.name)))
    failures: list[BaseException] = []

    def work() -> None:
        connection = http.client.HTTPConnection(host)
        try:
            while True:
                try:
                    file = files.popleft()
                except IndexError:
                    return
                send(connection, repository, file)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    main()

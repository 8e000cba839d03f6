"""A source of AWS credentials that takes its time, as a container's does on a bad day; prints its url as JSON.

python -m benchmarks.slow_keys SECONDS
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Keys(BaseHTTPRequestHandler):
    """Answers every GET with keys so near their end that whoever has them wants new ones soon."""

    takes_s = 0.0

    def do_GET(self) -> None:
        time.sleep(self.takes_s)
        expires = (datetime.now(UTC) + timedelta(minutes=12)).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": "AKEY", "SecretAccessKey": "secret", "Token": "token", "Expiration": expires}
        body = json.dumps(keys).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the bench has its own output."""


def main(takes_s: float) -> None:
    Keys.takes_s = takes_s
    server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_address[1]}/keys"}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(float(sys.argv[1]))

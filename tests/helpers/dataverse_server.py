"""Serve on loopback the part of Dataverse's HTTP API that `ham-hf data download` uses.

Written after the guides (https://guides.dataverse.org/en/latest/api/, native API and data access API) and Dataverse's
own JsonPrinter; Harvard's server was not asked.

    GET /api/datasets/:persistentId/?persistentId=…   the listing
    GET /api/access/datafile/{id}                     303 to the storage, another host; an ingested table is sent from
                                                      here, in chunks: as .tab, and with ?format=original as uploaded
    GET /storage/{id}                                 the file, with ranges

Any answer can be an error (`fail`), be cut or stand still in its middle (`cut`, `stall`), or have other bytes
(`replace`); `listing` is what is listed, to be spoiled at will.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

PERSISTENT_ID = "doi:10.7910/DVN/DBW86T"


@dataclass
class Asked:
    """A request: "GET /path", its headers, and the bytes of a file that were sent for it."""

    what: str
    headers: dict[str, str]
    sent: int = 0


@dataclass
class Fault:
    """A fault in the next `times` requests whose "GET /path" matches."""

    pattern: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    data: bytes | None = None  # instead of the file
    cut: int | None = None  # bytes of the response before the connection closes
    stall: int | None = None  # bytes of the response before it stalls
    ranges: bool = True  # False: the range is ignored


class DataverseServer:
    """The server and its state; a context manager. `asked` lists the requests received."""

    def __init__(self):
        self.data: dict[int, bytes] = {}
        self.tables: dict[int, bytes] = {}  # Dataverse's conversion of an ingested table
        self.files: list[dict] = []
        self.listing: dict = {
            "status": "OK",
            "data": {
                "id": 3081,
                "latestVersion": {
                    "license": {"name": "CC BY-NC 4.0", "uri": "http://creativecommons.org/licenses/by-nc/4.0"},
                    "termsOfUse": "<p>Not for\x1b[2J commercial purposes &amp; cite</p>",
                    "files": self.files,
                },
            },
        }
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()

    def add(self, label: str, data: bytes, table: bytes | None = None) -> int:
        """List a file, with its conversion `table` if it was ingested, and return its id."""
        number = 3172584 + len(self.files)
        self.data[number] = data
        md5 = hashlib.md5(data).hexdigest()  # of the upload, ingested or not
        entry = {
            "id": number,
            "persistentId": "",
            "filename": label,
            "contentType": "application/zip",
            "filesize": len(data),
            "storageIdentifier": "s3://dvn-cloud:1658f7b3a2c-f1d0a4b2a1d0",
            "md5": md5,
            "checksum": {"type": "MD5", "value": md5},
        }
        if table is not None:
            self.tables[number] = table
            entry |= {
                "contentType": "text/tab-separated-values",
                "filesize": len(table),
                "originalFileFormat": "text/csv",
                "originalFileSize": len(data),
                "originalFileName": label.replace(".tab", ".csv"),
                "tabularData": True,
            }
        self.files.append({"label": label, "restricted": False, "version": 1, "dataFile": entry})
        return number

    def entry(self, label: str) -> dict:
        """Return the entry of a file in the listing, for tests to corrupt."""
        return next(entry for entry in self.files if entry["label"] == label)

    def __enter__(self) -> "DataverseServer":
        handler = type("Handler", (Handler,), {"dataverse": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        port = self.server.server_address[1]
        self.url, self.storage_url = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def fault(self, pattern: str, times: int = 1, **what) -> None:
        """See `Fault`."""
        self.faults.append(Fault(pattern, times, **what))

    def next_fault(self, asked: Asked) -> Fault | None:
        with self.lock:
            self.asked.append(asked)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, asked.what):
                    fault.times -= 1
                    return fault
        return None

    def loaded(self, number: int) -> list[tuple[str | None, int]]:
        """Return (range, bytes sent) of every response with a file's bytes, in order."""
        return [(a.headers.get("Range"), a.sent) for a in self.asked if re.search(rf"/{number}\b", a.what) and a.sent]

    def file_requests(self) -> list[str]:
        return [asked.what for asked in self.asked if "/datasets/" not in asked.what]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    dataverse: DataverseServer
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            pass  # the client closed the connection or was killed

    def do_GET(self) -> None:
        self.asked = Asked(f"GET {self.path}", dict(self.headers))
        self.fault = self.dataverse.next_fault(self.asked)
        self.answer()

    def answer(self) -> None:
        if self.fault and self.fault.status:
            self.start(self.fault.status, {"Content-Length": str(len(self.fault.body))} | self.fault.headers)
            self.wfile.write(self.fault.body)
            return
        path, _, query = self.path.partition("?")
        match = re.fullmatch(r"/(api/access/datafile|storage)/(\d+)", path)
        number = int(match[2]) if match else 0
        if path == "/api/datasets/:persistentId/" and parse_qs(query)["persistentId"] == [PERSISTENT_ID]:
            self.send_json(200, self.dataverse.listing)
        elif number not in self.dataverse.data:
            self.send_json(404, {"status": "ERROR", "message": f"Not found: {path}"})
        elif match[1] == "storage":
            self.send_file(self.dataverse.data[number])
        elif number in self.dataverse.tables:
            original = query == "format=original"
            self.send_chunks((self.dataverse.data if original else self.dataverse.tables)[number])
        else:
            location = f"{self.dataverse.storage_url}/storage/{number}?X-Amz-Expires=3600&X-Amz-Signature=0f"
            self.start(303, {"Location": location, "Content-Length": "0"})

    def send_file(self, data: bytes) -> None:
        data = self.fault.data if self.fault and self.fault.data is not None else data
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is None or (self.fault and not self.fault.ranges):
            self.start(200, {"Content-Length": str(len(data))})
        elif int(match[1]) >= len(data):
            self.start(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
            return
        else:
            size, data = len(data), data[int(match[1]) :]
            given = f"bytes {match[1]}-{size - 1}/{size}"
            self.start(206, {"Content-Range": given, "Content-Length": str(len(data))})
        self.send_data(data)

    def send_chunks(self, data: bytes) -> None:
        data = self.fault.data if self.fault and self.fault.data is not None else data
        self.start(200, {"Transfer-Encoding": "chunked"})
        self.wfile.write(f"{len(data):x}\r\n".encode())
        self.send_data(data)
        if not self.close_connection:
            self.wfile.write(b"\r\n0\r\n\r\n")

    def send_data(self, data: bytes) -> None:
        ends = [end for end in (self.fault.cut, self.fault.stall) if end is not None] if self.fault else []
        for end in ends:
            data = data[:end]
            self.close_connection = True
        self.wfile.write(data)
        self.asked.sent = len(data)
        if self.fault and self.fault.stall is not None:
            self.dataverse.closing.wait()

    def send_json(self, status: int, answer: dict) -> None:
        data = json.dumps(answer).encode()
        self.start(status, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        self.wfile.write(data)

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_) -> None:
        pass

"""A shop that answers the calls of docs/contract.md, with the standard library alone.

    python3 shop.py --port 8001 --database shop.db --guard none

Start it again with port 8002 for two processes with one database. --guard is the lesson:
  none       reads the stock, then writes what is left: sells one unit to several buyers
  process    the same under a lock of this process: right until a second one is started
  statement  one UPDATE that checks and takes: the database decides, for all processes
"""
import argparse, base64, contextlib, json, sqlite3, threading, urllib.parse, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("--port", type=int, required=True, help="0 chooses a free one")
options.add_argument("--database", required=True, help="a file, shared by all processes")
options.add_argument("--guard", choices=["none", "process", "statement"], required=True)
options.add_argument("--admin-token", default="admin")
options = options.parse_args()
lock = threading.Lock() if options.guard == "process" else contextlib.nullcontext()


class Problem(Exception):
    def __init__(self, status, slug):
        self.status, self.body = status, {"type": "/errors/" + slug, "title": slug, "status": status}


def take(db, sku, quantity):
    """Takes units of a SKU, or raises: the whole race is in here."""
    if options.guard == "statement":
        done = db.execute("UPDATE stock SET available = available - ? WHERE sku = ? AND available >= ?", (quantity, sku, quantity))
        if done.rowcount == 0:
            raise Problem(409, "sold-out")
        return
    left = stock(db, sku)["available"]
    if left < quantity:
        raise Problem(409, "sold-out")
    db.execute("UPDATE stock SET available = ? WHERE sku = ?", (left - quantity, sku))


def stock(db, sku):
    row = db.execute("SELECT sku, units, available FROM stock WHERE sku = ?", (sku,)).fetchone()
    if row is None:
        raise Problem(404, "unknown-sku")
    return dict(row)


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    wbufsize = -1  # one packet for each answer

    def place_order(self, db):
        order = self.body()
        stock(db, order["sku"])  # unknown SKUs
        claims = self.headers["Authorization"].split(".")[1]  # a real shop also checks the signature
        customer = json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"]
        key, order_id = self.headers["Idempotency-Key"], str(uuid.uuid4())
        with lock:
            take(db, order["sku"], order["quantity"])
            db.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, 'reserved')", (order_id, customer, key, order["sku"], order["quantity"]))
            db.commit()
        return 201, {"id": order_id, "status": "reserved", **order}

    def put_on_sale(self, db, sku):
        units = self.body()["units"]
        db.execute("INSERT INTO stock VALUES (?, ?, ?)", (sku, units, units))
        db.commit()
        return 201, stock(db, sku)

    def withdraw(self, db, sku):
        db.execute("DELETE FROM stock WHERE sku = ?", (sku,))  # its orders stay
        db.commit()
        return 200, {}

    def list_orders(self, db, sku):
        return 200, {"items": [dict(row) for row in db.execute("SELECT * FROM orders WHERE sku = ?", (sku,))], "next_cursor": None}

    def answer(self):
        url = urllib.parse.urlsplit(self.path)
        call, last = (self.command, url.path.rpartition("/")[0]), url.path.rpartition("/")[2]
        try:
            with contextlib.closing(connect()) as db:  # its transaction ends with it
                if call[1].startswith("/v1/admin") and self.headers["Authorization"] != "Bearer " + options.admin_token:
                    raise Problem(401, "unauthorized")
                if (*call, last) == ("POST", "/v1", "orders"):
                    status, body = self.place_order(db)
                elif call == ("PUT", "/v1/admin/skus"):
                    status, body = self.put_on_sale(db, last)
                elif call == ("DELETE", "/v1/admin/skus"):
                    status, body = self.withdraw(db, last)
                elif call == ("GET", "/v1/skus"):
                    status, body = 200, stock(db, last)
                elif (*call, last) == ("GET", "/v1/admin", "orders"):
                    status, body = self.list_orders(db, urllib.parse.parse_qs(url.query)["sku"][0])
                else:
                    raise Problem(404, "not-found")
        except Problem as problem:
            status, body = problem.status, problem.body
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Replica", f"python-{self.server.server_port}")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # connections that wait: the default of 5 is too few for a sale


def connect():
    db = sqlite3.connect(options.database, timeout=30)
    db.row_factory = sqlite3.Row
    return db


with contextlib.closing(connect()) as db:
    db.executescript("""PRAGMA journal_mode = WAL;
        CREATE TABLE IF NOT EXISTS stock (sku TEXT PRIMARY KEY, units INTEGER, available INTEGER);
        CREATE TABLE IF NOT EXISTS orders (id TEXT, customer TEXT, idempotency_key TEXT UNIQUE, sku TEXT, quantity INTEGER, status TEXT);
        CREATE INDEX IF NOT EXISTS of_sku ON orders (sku);""")
server = Server(("127.0.0.1", options.port), Shop)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()

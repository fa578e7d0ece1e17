# A Route 53 for tests: checks every signature (Signature Version 4, written from Amazon's description of it) and
# writes what it is told into a name server, so that an authority can see it.
import hashlib, hmac, os, re, subprocess, sys, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY, SECRET, ZONE = "AKIATEST", "s3cr3t/key+", "sea.test."
records, asked = {}, {}


def digest(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def refusal(handler, body):
    """Why a request is not signed as it must be."""
    given = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/route53/aws4_request, ?"
        r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})",
        handler.headers.get("Authorization", ""),
    )
    if not given or given[1] != KEY:
        return "MissingAuthenticationToken"
    _, day, region, names, signature = given.groups()
    if "host" not in names.split(";") or "x-amz-date" not in names.split(";"):
        return "IncompleteSignature"
    path, _, query = handler.path.partition("?")
    pairs = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
    quote = lambda text: urllib.parse.quote(text, safe="-_.~")
    canonical = "\n".join([
        handler.command,
        urllib.parse.quote(path, safe="/-_.~"),
        "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs),
        "".join(f"{name}:{' '.join(handler.headers[name].split())}\n" for name in names.split(";")),
        names,
        hashlib.sha256(body).hexdigest(),
    ])
    scope = f"{day}/{region}/route53/aws4_request"
    to_sign = "\n".join([
        "AWS4-HMAC-SHA256", handler.headers["x-amz-date"], scope,
        hashlib.sha256(canonical.encode()).hexdigest(),
    ])
    key = b"AWS4" + SECRET.encode()
    for part in [day, region, "route53", "aws4_request"]:
        key = digest(key, part)
    expected = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    return None if hmac.compare_digest(expected, signature) else "SignatureDoesNotMatch"


def record_set(name):
    values = "".join(f"<ResourceRecord><Value>{v}</Value></ResourceRecord>" for v in records[name])
    return (f"<ResourceRecordSet><Name>{name}</Name><Type>TXT</Type><TTL>60</TTL>"
            f"<ResourceRecords>{values}</ResourceRecords></ResourceRecordSet>")


def write(name, values):
    lines = [f"server 127.0.0.1 {os.environ['DNS_PORT']}", "key hmac-sha256:" + os.environ["DNS_KEY"],
             f"update delete {name} TXT"]
    lines += [f"update add {name} 1 TXT {value}" for value in values]
    subprocess.run(["nsupdate", "-v"], input="\n".join(lines + ["send", ""]), text=True, check=True)


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def say(self, status, text):
        body = ("<?xml version=\"1.0\"?>\n" + text).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        why = refusal(self, body)
        if why:
            return self.say(403, f"<ErrorResponse><Error><Code>{why}</Code><Message>not signed so</Message></Error></ErrorResponse>")
        path, _, query = self.path.partition("?")
        words = dict(urllib.parse.parse_qsl(query))
        if path == "/2013-04-01/hostedzonesbyname":
            return self.say(200, f"<R><HostedZones><HostedZone><Id>/hostedzone/Z1</Id><Name>{ZONE}</Name></HostedZone></HostedZones></R>")
        if path == "/2013-04-01/hostedzone/Z1/rrset" and self.command == "GET":
            name = words["name"]
            return self.say(200, "<R>" + (record_set(name) if name in records else "") + "</R>")
        if path == "/2013-04-01/hostedzone/Z1/rrset":
            text = body.decode()
            verb, name = (re.search(f"<{tag}>(.*?)</{tag}>", text)[1] for tag in ["Action", "Name"])
            values = re.findall("<Value>(.*?)</Value>", text)
            if verb == "DELETE" and records.get(name) != values:
                return self.say(400, "<E><Code>InvalidChangeBatch</Code><Message>other values are there</Message></E>")
            if verb == "DELETE":
                del records[name]
            else:
                records[name] = values
            write(name, records.get(name, []))
            return self.say(200, "<R><ChangeInfo><Id>/change/C1</Id><Status>PENDING</Status></ChangeInfo></R>")
        if path == "/2013-04-01/change/C1":
            return self.say(200, "<R><ChangeInfo><Id>/change/C1</Id><Status>INSYNC</Status></ChangeInfo></R>")
        self.say(404, "<E><Code>NoSuchHostedZone</Code><Message>no such thing</Message></E>")

    do_GET = do_POST = answer


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Api).serve_forever()

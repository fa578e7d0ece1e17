"""An independent client (aioquic) asks an edge over HTTP/3; one line for each check, and how many passed.

Usage: http3_peer.py PORT HOST CA. Not here: the edge, malformed input (the tests in crates/seaworthy send that), and
HEAD: this client takes a length for a promise there too, against RFC 9110, section 9.3.2.
"""

import asyncio
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

PORT, HOST, CA = int(sys.argv[1]), sys.argv[2], sys.argv[3]
TICKETS = []


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.answers, self.ended = {}, asyncio.get_event_loop().create_future()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated) and not self.ended.done():
            self.ended.set_result(event.error_code)
        if isinstance(event, StreamReset) and event.stream_id in self.answers:
            self.answers[event.stream_id][2].set_exception(ConnectionResetError(event.error_code))
        for one in self.http.handle_event(event):
            if not isinstance(one, (HeadersReceived, DataReceived)) or one.stream_id not in self.answers:
                continue
            answer = self.answers[one.stream_id]
            if isinstance(one, HeadersReceived):
                answer[0].update(one.headers)
            else:
                answer[1].extend(one.data)
            if one.stream_ended:
                answer[2].set_result((int(answer[0][b":status"]), answer[0], bytes(answer[1])))

    def ask(self, method, path, body=None, more=()):
        stream = self._quic.get_next_available_stream_id()
        done = asyncio.get_event_loop().create_future()
        self.answers[stream] = ({}, bytearray(), done)
        head = [(b":method", method), (b":scheme", b"https"), (b":authority", HOST.encode()), (b":path", path)]
        self.http.send_headers(stream, head + list(more), end_stream=body is None)
        if body is not None:
            self.http.send_data(stream, body, end_stream=True)
        self.transmit()
        return asyncio.wait_for(done, 20)


def configuration(**more):
    own = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=HOST, **more)
    own.load_verify_locations(CA)
    return own


def dial(own=None, **more):
    return connect("127.0.0.1", PORT, configuration=own or configuration(), create_protocol=Client,
                   session_ticket_handler=TICKETS.append, wait_connected=True, **more)


async def a_page_and_its_length():
    async with dial() as client:
        status, head, body = await client.ask(b"GET", b"/")
        assert (status, body) == (200, b"<p>here</p>"), (status, body)
        assert head[b"content-length"] == b"11" and b"date" in head and b"x-request-id" in head, head
        assert b"alt-svc" not in head and b"connection" not in head, head


async def a_hundred_at_once():
    async with dial() as client:
        answers = await asyncio.gather(*(client.ask(b"GET", b"/") for _ in range(100)))
        assert all(status == 200 for status, _, _ in answers)


async def more_than_the_window():
    async with dial() as client:
        status, _, body = await client.ask(b"GET", b"/large.bin")
        assert (status, len(body)) == (200, 4 << 20)


async def a_part():
    async with dial() as client:
        status, _, body = await client.ask(b"GET", b"/large.bin", more=[(b"range", b"bytes=10-19")])
        assert (status, len(body)) == (206, 10), status


async def a_body_that_is_too_long():
    async with dial() as client:
        try:
            status, _, _ = await client.ask(b"POST", b"/small", b"x" * 4096, [(b"content-length", b"4096")])
        except ConnectionResetError:
            status = 413
        assert status == 413, status


async def a_fixed_answer_to_a_body():
    async with dial() as client:
        status, _, body = await client.ask(b"POST", b"/said", b"x" * 100, [(b"content-length", b"100")])
        assert (status, body) == (200, b"said"), (status, body)


async def keys_are_changed():
    async with dial() as client:
        for _ in range(3):
            client.request_key_update()
            assert (await client.ask(b"GET", b"/"))[0] == 200


async def other_connection_ids():
    async with dial() as client:
        for _ in range(3):
            client.change_connection_id()
            assert (await client.ask(b"GET", b"/"))[0] == 200


async def each_cipher():
    from aioquic.tls import CipherSuite
    for suite in (CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384,
                  CipherSuite.CHACHA20_POLY1305_SHA256):
        async with dial(configuration(cipher_suites=[suite])) as client:
            assert (await client.ask(b"GET", b"/"))[0] == 200, suite


async def a_session_is_resumed_and_sends_nothing_early():
    async with dial() as client:
        await client.ask(b"GET", b"/")
    ticket = TICKETS[-1]
    assert not ticket.max_early_data_size, ticket.max_early_data_size
    async with dial(configuration(session_ticket=ticket)) as client:
        assert (await client.ask(b"GET", b"/"))[0] == 200
        assert client._quic.tls.session_resumed and not client._quic.tls.early_data_accepted


async def a_version_that_nobody_speaks():
    own = configuration()
    own.original_version, own.supported_versions = 0x1A2A3A4A, [0x1A2A3A4A, 1]
    async with dial(own) as client:
        assert (await client.ask(b"GET", b"/"))[0] == 200


async def no_other_protocol():
    own = QuicConfiguration(is_client=True, alpn_protocols=["hq-interop"], server_name=HOST)
    own.load_verify_locations(CA)
    try:
        async with dial(own):
            raise AssertionError("accepted")
    except ConnectionError:
        pass


async def another_name_shows_no_certificate_of_this_one():
    own = configuration()
    own.server_name = "other.example"
    own.verify_mode = ssl.CERT_NONE
    async with dial(own) as client:
        assert (await client.ask(b"GET", b"/"))[0] in (200, 421)


async def a_name_that_is_none_counts_as_none_sent():
    own = configuration()
    own.server_name = HOST + ":443"
    own.verify_mode = ssl.CERT_NONE
    async with dial(own) as client:
        assert (await client.ask(b"GET", b"/"))[0] == 200


async def a_packet_of_rubbish_is_survived():
    async with dial() as client:
        for length in (1, 20, 1200):
            client._transport.sendto(bytes([0x40]) + b"\xff" * length, ("::ffff:127.0.0.1", PORT, 0, 0))
        assert (await client.ask(b"GET", b"/"))[0] == 200


CHECKS = [a_page_and_its_length, a_hundred_at_once, more_than_the_window, a_part,
          a_body_that_is_too_long, a_fixed_answer_to_a_body, keys_are_changed, other_connection_ids, each_cipher,
          a_session_is_resumed_and_sends_nothing_early, a_version_that_nobody_speaks, no_other_protocol,
          another_name_shows_no_certificate_of_this_one, a_name_that_is_none_counts_as_none_sent,
          a_packet_of_rubbish_is_survived]


async def main():
    passed = 0
    for check in CHECKS:
        try:
            await asyncio.wait_for(check(), 60)
            passed += 1
            print("ok  ", check.__name__)
        except BaseException as error:
            print("FAIL", check.__name__, repr(error))
    print(f"aioquic: {passed} of {len(CHECKS)} checks passed")
    return passed == len(CHECKS)


sys.exit(0 if asyncio.run(main()) else 1)

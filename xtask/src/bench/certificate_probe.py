"""Shakes hands with an edge until it shows a certificate with this name, and prints when, in nanoseconds since 1970.

Usage: certificate_probe.py PORT HOST NAME. One process for all handshakes: starting one takes longer than what is measured.
"""

import socket
import ssl
import sys
import time

PORT, HOST, NAME = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
while True:
    with socket.create_connection(("127.0.0.1", PORT), 10) as plain:
        with context.wrap_socket(plain, server_hostname=HOST) as secure:
            if NAME in secure.getpeercert(True):
                print(time.time_ns())
                break
    # The edge is not to be busy with us.
    time.sleep(0.002)

#!/usr/bin/env bash
# A TLS server that refuses a handshake sends an alert that says why (RFC 8446 section 6.2). OpenSSL writes it,
# but asyncio and uvloop close the socket without sending it.
# Needs: python3 with venv, openssl.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check uvloop==0.23.0
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost 2>/dev/null
cat > see.py <<'PYTHON'
import asyncio, socket, ssl, sys, threading, uvloop

def server_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    context.load_verify_locations("cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED  # the client has no certificate: refused
    return context

def client(port):
    context = ssl.create_default_context(cafile="cert.pem")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as secure:
                secure.recv(1)
        except OSError as error:
            return getattr(error, "reason", None) or str(error)

def blocking():
    listening = socket.create_server(("127.0.0.1", 0))
    def serve():
        accepted, _ = listening.accept()
        try:
            server_context().wrap_socket(accepted, server_side=True)
        except ssl.SSLError:
            accepted.close()
    thread = threading.Thread(target=serve)
    thread.start()
    seen = client(listening.getsockname()[1])
    thread.join()
    return seen

async def on_a_loop():
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=server_context())
    seen = await asyncio.to_thread(client, server.sockets[0].getsockname()[1])
    server.close()
    return seen

print(f"Python {sys.version.split()[0]}, {ssl.OPENSSL_VERSION}, uvloop {uvloop.__version__}")
seen = {"blocking ssl": blocking(), "asyncio": asyncio.run(on_a_loop()), "uvloop": uvloop.run(on_a_loop())}
for server, error in seen.items():
    print(f"server with {server}: the client without certificate sees {error}")
told = {server for server, error in seen.items() if "ALERT" in str(error)}
sys.exit(0 if told == {"blocking ssl"} else 1)
PYTHON
venv/bin/python see.py

#!/usr/bin/env bash
# Authlib keeps the data of a pending login in the session of the browser under a key that contains the state of that
# login, so two tabs should be able to sign in at once (RFC 6749 section 10.12 binds a state to a browser, not to one
# login). The second login removes the data of the first, whose callback then fails with mismatching_state: a browser
# that restores several tabs completes one login only.
# examples/login/app.py offers to sign in again.
# Needs: python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check Authlib==1.9.10 httpx2==2.16.2 itsdangerous==2.2.0 starlette==1.10.0
cat > see.py <<'PYTHON'
import asyncio, sys
from urllib.parse import parse_qs, urlsplit

import authlib
from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import OAuth
from starlette.requests import Request

provider = OAuth().register(
    "provider", client_id="a", authorize_url="http://127.0.0.1:1/authorize", access_token_url="http://127.0.0.1:1/token"
)
session = {}


def request(query=""):
    return Request({"type": "http", "method": "GET", "headers": [], "query_string": query.encode(), "session": session})


async def main():
    states = []
    for tab in (1, 2):
        redirect = await provider.authorize_redirect(request(), "http://127.0.0.1:1/callback")
        states += parse_qs(urlsplit(redirect.headers["location"]).query)["state"]
        print(f"after tab {tab} the session holds {len(session)} login(s)")
    try:
        await provider.authorize_access_token(request(f"code=c&state={states[0]}"))
    except OAuthError as error:
        print("Authlib", authlib.__version__, "the callback of tab 1:", error.error)
        return error.error == "mismatching_state"
    return False

seen = asyncio.run(main())
print("seen: the second login ends the first" if seen else "not seen")
sys.exit(0 if seen else 1)
PYTHON
venv/bin/python see.py

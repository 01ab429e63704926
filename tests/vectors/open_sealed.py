"""Opens sealing vectors by docs/spec/sealing.md alone: python open_sealed.py FILE..."""

import base64
import hashlib
import hmac
import pathlib
import sys
import uuid

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

for file in sys.argv[1:]:
    head, _, body = pathlib.Path(file).read_text("utf-8").partition("\n\n")
    given = dict(line.split(": ", 1) for line in head.split("\n"))
    key, nonce = bytes.fromhex(given["master key"]), bytes.fromhex(given["nonce"])
    company = b"" if given["company id"] == "none" else uuid.UUID(given["company id"]).bytes
    fields = company, uuid.UUID(given["secret id"]).bytes, given["name"].encode(), given["key id"].encode()
    aad = b"".join(len(field).to_bytes(4, "big") + field for field in (b"company-agents/secret/v1", *fields))
    ours = hmac.digest(key, b"company-agents/key-id/v1", "sha256")[:8].hex() == given["key id"]
    try:
        print(ours and hashlib.sha256(AESGCM(key).decrypt(nonce, base64.b64decode(body), aad)).hexdigest())
    except InvalidTag:
        print(False)

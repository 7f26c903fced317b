"""What PostgreSQL keeps of a password: a SCRAM-SHA-256 verifier (RFC 5803).

It is sent in the place of the password, so that no log of the server holds the password.
"""

import base64
import hashlib
import hmac
import secrets

SCRAM_ITERATIONS = 4096  # PostgreSQL's default; the passwords are random, so more would only cost time at each login
SALT_BYTES = 16


def verifier(password: str) -> str:
    """The verifier of an ASCII password, with a random salt."""
    salt = secrets.token_bytes(SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (
        base64.b64encode(part).decode("ascii") for part in (salt, stored_key, server_key)
    )
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt_text}${stored_text}:{server_text}"

"""JWTs of another issuer: the accepted ones, the refused ones, and the keys that check them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from uuid_utils.compat import uuid7

from service.access.json_web_tokens import build_verifier
from service.access.key_sets import KeySet
from service.access.principal import Principal
from service.config import Settings
from service.db.pool import Connection
from service.errors import ConfigError, KeysAway, Unauthorized
from tests.support.access import CLOSED, bearer, create_token, status_with
from tests.support.fixture_types import RegisterAgents, StartApi
from tests.support.websocket_client import chat_url, open_socket

ISSUER, AUDIENCE, SECRET = "https://issuer.test", "treadle", "a-secret-of-the-issuer-and-of-the-api"
RULES = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def jwks(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public(rsa_key, "one")]}))
    return path


def public(key: Any, key_id: str, **more: Any) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig", **more}


def claims(**changes: Any) -> dict[str, Any]:
    """`exp`, `nbf` and `iat` are in seconds from now; a claim that is None is left out."""
    now = int(time.time())
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "scope": "read submit openid", "iat": now, "exp": now + 300}
    for name in {"exp", "nbf", "iat"} & {name for name, value in changes.items() if value is not None}:
        changes[name] += now
    return {name: value for name, value in (given | changes).items() if value is not None}


def sign(key: Any, algorithm: str = "RS256", key_id: str | None = "one", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": key_id} if key_id else {})


def settings(**changes: Any) -> Settings:
    return Settings(**{**RULES, **changes})


async def check(token: str, **changes: Any) -> Principal:
    verifier = build_verifier(settings(**changes))
    assert verifier is not None
    return await verifier.principal(token)


async def refusal(token: str, **changes: Any) -> str:
    with pytest.raises(Unauthorized) as caught:
        await check(token, **changes)
    return str(caught.value)


async def test_a_jwt_becomes_a_principal(rsa_key: rsa.RSAPrivateKey, jwks: Path) -> None:
    found = await check(sign(rsa_key, org="acme"), jwt_jwks=str(jwks), jwt_tenant_claim="org")
    assert (found.tenant, found.subject, found.scopes, found.name) == (
        "acme",
        "ann",
        frozenset({"read", "submit"}),
        "jwt ann",
    )
    listed = await check(sign(rsa_key, scp=["operate", 7, ["read"], {}]), jwt_jwks=str(jwks), jwt_scope_claim="scp")
    assert (listed.tenant, listed.scopes) == ("default", frozenset({"operate"}))
    whole = await check(sign(rsa_key), jwt_jwks=str(jwks), jwt_subject_claim="none")
    assert (whole.subject, whole.name) == (None, "jwt ann")
    assert (await check(sign(SECRET, "HS256"), jwt_secret=SECRET)).subject == "ann"
    assert (await check(sign(rsa_key, key_id=None), jwt_jwks=str(jwks))).subject == "ann"  # the only key of the set


async def test_other_algorithms_are_refused(rsa_key: rsa.RSAPrivateKey, jwks: Path) -> None:
    """No token without a signature, and none that is signed with the public key as if that were a secret."""
    pem = rsa_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = rsa_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    forged = [with_hmac(text) for text in (pem, pem.strip(), der)]
    unsigned = jwt.encode(claims(), None, "none", headers={"kid": "one"})  # type: ignore[arg-type]
    for token in (*forged, unsigned, unsigned.replace(unsigned.split(".")[0], unsigned.split(".")[0].lower())):
        assert await refusal(token, jwt_jwks=str(jwks)) in {
            "The algorithm of the JWT is not accepted.",
            "The JWT is not valid.",
        }
    head = jwt.utils.base64url_encode(b'{"alg": ["RS256"], "kid": "one"}').decode()
    assert await refusal(f"{head}.{unsigned.split('.')[1]}.eHg", jwt_jwks=str(jwks)) == (
        "The algorithm of the JWT is not accepted."
    )
    assert await refusal(sign(rsa_key, "RS384"), jwt_jwks=str(jwks), jwt_algorithms=("RS256",)) == (
        "The algorithm of the JWT is not accepted."
    )
    assert await refusal(sign(rsa_key), jwt_secret=SECRET) == "The algorithm of the JWT is not accepted."


def with_hmac(secret: bytes) -> str:
    """Signed with HS256 and this secret; PyJWT refuses to take a public key for one."""
    whole = jwt.encode(claims(), "x" * 32, "HS256", headers={"kid": "one"}).rpartition(".")[0]
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = algorithm.sign(whole.encode(), secret)
    return f"{whole}.{jwt.utils.base64url_encode(signature).decode()}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"aud": "another"}, "The JWT is for another audience."),
        ({"iss": "https://another.test"}, "The JWT is of another issuer."),
        ({"aud": None}, "The JWT is not valid."),
        ({"iss": None}, "The JWT is not valid."),
        ({"exp": None}, "The JWT is not valid."),
        ({"exp": 10**400}, "The JWT is not valid."),
        ({"exp": -90}, "The JWT has expired."),
        ({"nbf": 600}, "The JWT is not valid yet."),
        ({"sub": None}, "The claim sub of the JWT must be a text of 1 to 255 printable characters."),
        ({"sub": "a\nb"}, "The claim sub of the JWT must be a text of 1 to 255 printable characters."),
        ({"org": ["acme"]}, "The claim org of the JWT must be a text of 1 to 100 printable characters."),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_wrong_claims_are_refused(changes: dict[str, Any], said: str) -> None:
    token = sign(SECRET, "HS256", **{"org": "acme", **changes})
    assert await refusal(token, jwt_secret=SECRET, jwt_tenant_claim="org") == said


async def test_the_clock_of_the_issuer_may_differ_by_a_minute() -> None:
    token = sign(SECRET, "HS256", exp=-20)  # the other forty seconds are for a busy machine
    late = await check(token, jwt_secret=SECRET)
    assert late.expires_at == jwt.decode(token, options={"verify_signature": False})["exp"] + 60  # of its streams, too
    assert await check(sign(SECRET, "HS256", nbf=50, iat=50), jwt_secret=SECRET)


async def test_a_key_of_another_kind_is_not_used(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "jwks.json"
    kept = [public(curve, "curve"), public(rsa_key, "one", alg="RS256"), {"kty": "oct", "kid": "secret", "k": "eHh4"}]
    path.write_text(json.dumps({"keys": [*kept, public(rsa_key, "encrypts") | {"use": "enc"}, "nonsense"]}))
    assert (await check(sign(curve, "ES256", "curve"), jwt_jwks=str(path))).subject == "ann"
    for token in (
        sign(rsa_key, "RS256", "curve"),
        sign(rsa_key, "RS384", "one"),
        sign(rsa_key, "RS256", "encrypts"),
        sign(rsa_key, "RS256", None),
        sign(rsa_key, "RS256", "unknown"),
    ):
        assert await refusal(token, jwt_jwks=str(path)) == "The JWT is signed with an unknown key."


async def test_keys_of_two_kinds_may_have_one_id(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public(rsa_key, "one"), public(curve, "one")]}))
    for token in (sign(rsa_key), sign(curve, "ES256")):
        assert (await check(token, jwt_jwks=str(path))).subject == "ann"


ODD_USES = [{"use": "enc"}, {"use": 5}, {"key_ops": ["encrypt"]}, {"key_ops": []}, {"key_ops": "verify"}]


@pytest.mark.parametrize("more", ODD_USES)
async def test_a_key_for_another_use_verifies_nothing(
    more: dict[str, Any], tmp_path: Path, rsa_key: rsa.RSAPrivateKey
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public(rsa_key, "one", **more)]}))
    assert await refusal(sign(rsa_key), jwt_jwks=str(path)) == "The JWT is signed with an unknown key."


# Rotation


class Issuer:
    """Serves a JWKS and counts how often it is read."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.reads = 0
        self.away = False

    async def read(self) -> bytes:
        self.reads += 1
        await asyncio.sleep(0)
        if self.away:
            raise OSError("away")
        return json.dumps({"keys": self.keys}).encode()


async def test_a_new_key_of_the_issuer_is_found(rsa_key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = Issuer(public(rsa_key, "one"))
    keys = KeySet(issuer)
    assert await keys.find("one", "RS256") is not None
    issuer.keys = [public(rsa_key, "two")]
    assert await keys.find("two", "RS256") is None  # it was read a moment ago
    monkeypatch.setattr("service.access.key_sets.AGAIN_SECONDS", 0.0)
    assert await keys.find("two", "RS256") is not None
    assert await keys.find("one", "RS256") is None


async def test_unknown_keys_do_not_flood_the_issuer(rsa_key: rsa.RSAPrivateKey) -> None:
    issuer = Issuer(public(rsa_key, "one"))
    keys = KeySet(issuer)
    found = await asyncio.gather(*(keys.find(f"made up {number}", "RS256") for number in range(200)))
    assert (set(found), issuer.reads) == ({None}, 1)


async def test_the_keys_outlive_an_issuer_that_is_away(
    rsa_key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.access.key_sets.AGAIN_SECONDS", 0.0)
    issuer = Issuer(public(rsa_key, "one"))
    keys = KeySet(issuer)
    issuer.away = True
    with pytest.raises(KeysAway):
        await keys.find("one", "RS256")
    issuer.away = False
    assert await keys.find("one", "RS256") is not None
    issuer.away = True
    assert await keys.find("two", "RS256") is None
    assert await keys.find("one", "RS256") is not None


# Over HTTP


@pytest.fixture
async def issuer_url(rsa_key: rsa.RSAPrivateKey) -> AsyncIterator[str]:
    body = json.dumps({"keys": [public(rsa_key, "one")]}).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"


async def test_an_api_takes_the_jwts_of_its_issuer(
    start_api: StartApi, issuer_url: str, rsa_key: rsa.RSAPrivateKey
) -> None:
    api = await start_api(**CLOSED, **RULES, jwt_jwks=issuer_url)
    assert (await api.get("/agents", headers=bearer(sign(rsa_key)))).status_code == 200
    refused = await api.get("/queues", headers=bearer(sign(rsa_key)))
    assert (refused.status_code, refused.json()["detail"]) == (403, "The key or token lacks the scope operate.")
    assert (await api.get("/agents", headers=bearer(sign(rsa_key, aud="another")))).status_code == 401


async def test_a_jwt_of_an_unknown_tenant_is_refused_everywhere(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection
) -> None:
    """Also after its tenant was deleted, and a token that it made also after another one has the name."""
    await register_agents()
    await sql.execute("select treadle.create_tenant('acme')")
    api = await start_api(**CLOSED, **RULES, jwt_secret=SECRET, jwt_tenant_claim="org")
    known, unknown = [sign(SECRET, "HS256", org=tenant, scope="read submit operate") for tenant in ("acme", "nowhere")]
    paths = ("/threads", "/agents", "/threads/t", "/threads/t/stream", f"/messages/{uuid7()}/status")

    async def answers(credential: str) -> set[int]:
        found = [await status_with(api, credential, path) for path in paths]
        submitted = await api.post("/messages", json={"message": "x"}, headers=bearer(credential))
        return {*found, submitted.status_code}

    assert (await answers(known), await answers(unknown)) == ({200, 202, 404}, {401})
    token = await create_token(api, known, "read", "submit", subject="ann")
    assert await answers(token) == {200, 202, 404}
    async with open_socket(chat_url(api, "t"), additional_headers=bearer(known)) as chat:
        assert (await chat.frame())["status"] == "open"
        await sql.execute("select treadle.delete_tenant('acme')")
        frames, code = await chat.rest()
        assert (frames[-1]["detail"], code) == ("The tenant was deleted.", 1008)
    assert (await answers(known), await answers(token)) == ({401}, {401})
    while not await sql.fetchval("select coalesce(gone, true) from treadle.delete_tenant_chunk('acme')"):
        pass
    await sql.execute("select treadle.create_tenant('acme')")
    assert (await answers(known), await answers(token)) == ({200, 202, 404}, {401})


def test_a_key_file_that_cannot_be_read_is_told_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may be there later; a folder never is one."""
    (tmp_path / "broken").write_text("[]")
    for place in ("missing", "broken"):
        caplog.clear()
        assert build_verifier(settings(jwt_jwks=str(tmp_path / place))) is not None
        assert [record.message for record in caplog.records] == [
            "JWT_JWKS cannot be read: no JWT is accepted until it can"
        ]
    for place in (".", "no/folder"):
        with pytest.raises(ConfigError, match=r"^JWT_JWKS: Expected a URL or the path of a file"):
            build_verifier(settings(jwt_jwks=str(tmp_path / place)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"jwt_secret": SECRET, "jwt_issuer": None}, "JWT_ISSUER"),
        ({"jwt_jwks": "x", "jwt_audience": None}, "JWT_AUDIENCE"),
        ({"jwt_jwks": "x", "jwt_secret": SECRET}, "JWT_SECRET"),
        ({"jwt_jwks": "x", "jwt_algorithms": ("HS256",)}, "JWT_ALGORITHMS"),
        ({"jwt_secret": SECRET, "jwt_algorithms": ("RS256",)}, "JWT_ALGORITHMS"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}: Expected"):
        build_verifier(settings(**changes))

import base64
import hashlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from agentbg.core.model import RunRef
from agentbg.core.position import Position
from agentbg.core.token import ContinuationToken
from agentbg.errors import TokenError, TokenExpired, TokenForeign, TokenMalformed, TokenNewer, TokenTampered

KEY = b"0123456789abcdef"
TOKEN = ContinuationToken(
    RunRef("openai", "e1b2", {"id": "resp_" + "0a" * 24}), Position(7, 41, 120, 0xDEADBEEF, 0b101), 1_760_000_000, True
)

counts = st.integers(0, 2**70)
tokens = st.builds(
    ContinuationToken,
    st.builds(RunRef, st.text(), st.text(), st.dictionaries(st.text(), st.text(), min_size=1, max_size=3)),
    st.builds(Position, counts, st.none() | st.integers() | st.text(), counts, counts, counts),
    st.floats(0, 2**40),
    st.booleans(),
)


def crafted(fields: object) -> str:
    """A token with a right checksum and any content: what anybody can make."""
    text = fields if isinstance(fields, str) else json.dumps(fields)
    body = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return f"abg1.{body}." + base64.urlsafe_b64encode(hashlib.blake2b(body.encode(), digest_size=6).digest()).decode()


@given(tokens)
def test_text_and_token_are_inverse(token: ContinuationToken) -> None:
    assert ContinuationToken.parse(str(token)) == token
    assert ContinuationToken.parse(token.sign(KEY), key=KEY) == token


@given(st.integers(0, len(str(TOKEN)) - 1), st.characters())
@example(5, "\ud800")
@example(len(str(TOKEN)) - 1, " ")
def test_any_changed_character_is_refused(at: int, character: str) -> None:
    text = str(TOKEN)
    if text[at] == character:
        return

    with pytest.raises(TokenError):
        ContinuationToken.parse(text[:at] + character + text[at + 1 :])


@pytest.mark.parametrize("text", [str(TOKEN), TOKEN.sign(KEY)], ids=["plain", "signed"])
def test_every_character_matters(text: str) -> None:
    key = None if text == str(TOKEN) else KEY
    for at, was in enumerate(text):
        for character in "ABCDghij0189-_.=\n\x00é":
            damaged = text[:at] + character + text[at + 1 :]
            if character == was or damaged.strip() == text:
                continue

            with pytest.raises(TokenError):
                ContinuationToken.parse(damaged, key=key)


@given(st.integers(0, len(str(TOKEN)) - 1))
def test_a_token_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(TokenMalformed):
        ContinuationToken.parse(str(TOKEN)[:length])


def test_space_around_a_token_is_no_damage() -> None:
    assert ContinuationToken.parse(f"  {TOKEN}\n") == TOKEN


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
@example("abg" + "9" * 5000 + ".a.b")
@example("abg².a.b")
@example("abg1.\ud800.AAAAAAAA")
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        ContinuationToken.parse(text)


@pytest.mark.parametrize("thing", [None, 7, b"abg1.a.b", TOKEN])
def test_what_is_no_text_is_refused(thing: object) -> None:
    with pytest.raises(TokenMalformed):
        ContinuationToken.parse(thing)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("peincldots"), inner, max_size=6),
    max_leaves=8,
)


@given(json_values)
@example([])
@example({"p": "a", "e": "b", "i": [1]})
@example({"p": "a", "e": "b", "i": {"id": 1}})
@example({"p": "a", "e": "b", "i": {"id": "x"}, "t": 10**400})
@example("[" * 200_000)
@example("not json")
def test_a_forged_content_is_a_token_or_a_token_error(fields: object) -> None:
    try:
        token = ContinuationToken.parse(crafted(fields))
    except TokenError:
        return

    assert ContinuationToken.parse(str(token)) == token


def test_a_newer_token_says_which_versions_are_read() -> None:
    with pytest.raises(TokenNewer, match="format 2; this agentbg reads up to 1"):
        ContinuationToken.parse("abg2" + str(TOKEN).removeprefix("abg1"))


def test_a_token_for_another_provider_or_endpoint_is_foreign() -> None:
    TOKEN.check(provider="openai", endpoint="e1b2")
    with pytest.raises(TokenForeign, match="'openai'"):
        TOKEN.check(provider="a2a", endpoint="e1b2")

    with pytest.raises(TokenForeign, match="another endpoint"):
        TOKEN.check(provider="openai", endpoint="ffff")


def test_a_token_past_the_retention_is_expired() -> None:
    TOKEN.check_age(TOKEN.issued_at + 100, retention=100)
    with pytest.raises(TokenExpired):
        TOKEN.check_age(TOKEN.issued_at + 101, retention=100)

    ContinuationToken(TOKEN.ref).check_age(1e12, retention=1)


def test_a_signed_token_is_read_with_its_key_only() -> None:
    signed = TOKEN.sign(KEY)
    assert ContinuationToken.parse(signed, key=KEY) == TOKEN
    for text, key in ((signed, b"another key"), (signed, None), (str(TOKEN), KEY)):
        with pytest.raises(TokenTampered):
            ContinuationToken.parse(text, key=key)


def test_a_changed_body_does_not_pass_with_the_old_signature() -> None:
    head, _, seal = TOKEN.sign(KEY).split(".")
    other = str(ContinuationToken(RunRef("openai", "e1b2", {"id": "resp_of_somebody_else"}))).split(".")[1]
    with pytest.raises(TokenTampered):
        ContinuationToken.parse(f"{head}.{other}.{seal}", key=KEY)


def test_a_token_travels_in_urls_and_is_short() -> None:
    text = str(TOKEN)
    assert len(text) < 250
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_a_pydantic_field_takes_the_token_or_its_text_and_gives_the_text() -> None:
    class Job(BaseModel):
        token: ContinuationToken

    for given_ in (TOKEN, str(TOKEN)):
        job = Job(token=given_)
        assert job.token == TOKEN
        assert Job.model_validate_json(job.model_dump_json()) == job
        assert json.loads(job.model_dump_json()) == {"token": str(TOKEN)}

    with pytest.raises(ValidationError, match="continuation token"):
        Job.model_validate({"token": "abg1.x.y"})

    assert Job.model_json_schema()["properties"]["token"]["type"] == "string"

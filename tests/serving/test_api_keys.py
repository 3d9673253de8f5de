"""API keys: who comes in, how keys are read, and where they never show up."""

import hmac
import logging

import pytest
from serving_client import CHAT, MODERATION, ask, open_client, text

from safevlm_hf.serving import Settings
from safevlm_hf.serving.keys import ApiKeys, read_api_keys


KEY, OLD_KEY = "sk-0123456789abcdef", "sk-fedcba9876543210"
PATHS = [("GET", "/v1/models"), ("GET", "/version"), ("POST", CHAT), ("POST", MODERATION), ("GET", "/nowhere")]


@pytest.fixture(scope="module")
def locked(checkpoint):
    with open_client(checkpoint, api_keys=(KEY, OLD_KEY)) as client:
        yield client


WRONG = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong",
    f"Bearer {KEY[:-1]}",
    f"Bearer {KEY}x",
    f"Bearer {KEY.upper()}",
    f"Bearer {KEY} {OLD_KEY}",
    f"Basic {KEY}",
    KEY,
    "Bearer " + "x" * 50_000,
    b"Bearer \xff\xfe",
]


@pytest.mark.parametrize("given", WRONG, ids=lambda given: str(given)[:30])
def test_nobody_comes_in_without_a_key(locked, given):
    headers = {} if given is None else {"authorization": given}
    for method, path in PATHS:
        response = locked.request(method, path, headers=headers)
        assert response.status_code == 401
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", 401) and KEY not in response.text
        assert response.headers["www-authenticate"] == "Bearer"


def test_health_is_open(locked):
    assert locked.get("/health").json() == {"status": "ok"}
    for path in ("/health/", "//health", "/health%2f..%2fversion", "/health/../version", "/version?/health"):
        assert locked.get(path).status_code == 401


def test_each_key_opens(locked):
    for key in (KEY, OLD_KEY):
        for scheme in ("Bearer", "bearer"):
            headers = {"authorization": f"{scheme} {key}"}
            assert locked.get("/version", headers=headers).json()["version"]
            assert locked.post(CHAT, json=ask(text("Hi"), max_tokens=1), headers=headers).status_code == 200
            assert locked.get("/nowhere", headers=headers).status_code == 404
    two = [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")]
    assert locked.get("/version", headers=two).status_code == 401


def test_without_keys_everybody_comes_in(client):
    assert client.get("/version").status_code == 200


def test_a_stranger_hears_the_answer_and_fills_no_memory(locked):
    """A body of any size is read to its end, and not kept."""
    response = locked.post(CHAT, content=(b"x" * 2**20 for _ in range(20)))
    assert response.status_code == 401


def test_every_key_is_compared_in_full_each_time(monkeypatch):
    """Digests of one length, all of them, wherever the first difference is and whichever key fits."""
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or a == b)
    keys, found = ApiKeys((KEY, OLD_KEY)), []
    for given in (KEY, OLD_KEY, "x" + KEY[1:], KEY[:-1] + "x", "", "y" * 9999):
        found.append(keys.admit(f"Bearer {given}".encode()))
        assert compared == [(32, 32)] * 2
        compared.clear()
    assert found == [True, True, False, False, False, False]


def test_keys_are_in_no_log_and_no_message(locked, caplog):
    caplog.set_level(logging.DEBUG)
    for key in (KEY, "sk-wrong-but-secret-too"):
        locked.post(
            f"{CHAT}?api_key={key}", json=ask(text("Hi"), max_tokens=1), headers={"authorization": f"Bearer {key}"}
        )
        locked.get(f"/{key}", headers={"authorization": f"Bearer {key}"})
    own = [record for record in caplog.records if not record.name.startswith(("httpx", "asyncio"))]
    assert own and not any("sk-" in record.getMessage() for record in own)
    assert KEY not in repr(Settings(api_keys=(KEY,))) and KEY not in str(vars(ApiKeys((KEY,))))
    assert KEY not in repr(locked.app.state.settings)


def test_keys_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\n  {OLD_KEY}  \n")
    monkeypatch.delenv("SAFEVLM_API_KEY", raising=False)
    assert read_api_keys() == ()
    assert read_api_keys(file) == (KEY, OLD_KEY)
    monkeypatch.setenv("SAFEVLM_API_KEY", KEY)
    assert read_api_keys() == (KEY,)
    assert read_api_keys() == ()  # what the server starts later does not inherit it


@pytest.mark.parametrize("given", ["", " \n\n", "short", "sk-0123456789abcd\u00e9f", "sk-01234567 89abcdef"])
def test_a_key_that_is_none_stops_the_start(tmp_path, monkeypatch, given):
    """Otherwise a secret that was not filled in would leave the server open."""
    file = tmp_path / "keys"
    file.write_text(given, encoding="utf-8")
    monkeypatch.delenv("SAFEVLM_API_KEY", raising=False)
    with pytest.raises(ValueError, match="key") as error:
        read_api_keys(file)
    assert str(file) in str(error.value) and (not given.strip() or given.strip() not in str(error.value))
    monkeypatch.setenv("SAFEVLM_API_KEY", given)
    with pytest.raises(ValueError, match="SAFEVLM_API_KEY"):
        read_api_keys()


def test_two_places_for_keys_are_one_too_many(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEVLM_API_KEY", KEY)
    with pytest.raises(ValueError, match="both"):
        read_api_keys(tmp_path / "keys")


def test_the_app_checks_its_keys(checkpoint):
    with pytest.raises(ValueError, match="16 characters"):
        open_client(checkpoint, api_keys=("short",))

import pytest

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.storage.secrets import SealedSecrets

KEY = "sixteen characters or more"


def test_what_is_sealed_opens_where_it_belongs() -> None:
    sealed = SealedSecrets(KEY).seal("sk-1", "acme", "demo")
    assert sealed is not None
    assert b"sk-1" not in sealed
    assert SealedSecrets(KEY).open(sealed, "acme", "demo") == "sk-1"


def test_the_same_secret_never_looks_the_same() -> None:
    secrets = SealedSecrets(KEY)
    assert secrets.seal("sk-1", "acme", "demo") != secrets.seal("sk-1", "acme", "demo")


def test_no_key_stays_no_key() -> None:
    for secrets in (SealedSecrets(KEY), SealedSecrets("")):
        assert secrets.seal("", "acme", "demo") is None
        assert secrets.open(None, "acme", "demo") == ""


@pytest.mark.parametrize(
    ("secret_key", "tenant", "agent"),
    [(KEY, "other", "demo"), (KEY, "acme", "other"), (KEY + "!", "acme", "demo"), ("", "acme", "demo")],
)
def test_elsewhere_or_under_another_key_it_does_not_open(secret_key: str, tenant: str, agent: str) -> None:
    sealed = SealedSecrets(KEY).seal("sk-1", "acme", "demo")
    with pytest.raises(AgentsvcError, match="AGENTSVC_SECRET_KEY") as refusal:
        SealedSecrets(secret_key).open(sealed, tenant, agent)
    assert refusal.value.reason is Reason.PROVIDER_NOT_CONFIGURED


@pytest.mark.parametrize("at", [0, 1, 13, -1])
def test_a_changed_byte_is_noticed(at: int) -> None:
    sealed = bytearray(SealedSecrets(KEY).seal("sk-1", "acme", "demo") or b"")
    sealed[at] ^= 1
    with pytest.raises(AgentsvcError):
        SealedSecrets(KEY).open(bytes(sealed), "acme", "demo")


def test_a_short_secret_key_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="AGENTSVC_SECRET_KEY"):
        SealedSecrets("short")

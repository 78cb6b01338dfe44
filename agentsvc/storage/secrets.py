"""Secrets at rest: AES-256-GCM under a key derived from AGENTSVC_SECRET_KEY.

A sealed secret is ``version (1 byte) | nonce (12) | ciphertext and tag``. The place it belongs to, tenant and agent, is
authenticated with it: copied into another row it does not open.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agentsvc.domain.errors import AgentsvcError, Reason, invalid_field

_VERSION = b"\x01"
_NONCE_BYTES = 12
_MIN_SECRET = 16


class SealedSecrets:
    """Seals and opens. Without a ``secret_key`` it does neither, and says which setting is missing."""

    def __init__(self, secret_key: str) -> None:
        if 0 < len(secret_key) < _MIN_SECRET:
            raise ValueError(f"AGENTSVC_SECRET_KEY must have at least {_MIN_SECRET} characters")
        self._cipher = AESGCM(_derive(secret_key)) if secret_key else None

    def seal(self, api_key: str, tenant_id: str, agent_id: str) -> bytes | None:
        """The sealed form; None for no key.

        Raises:
            AgentsvcError: INVALID_FIELD agent.llm_config.api_key when no secret key is configured.
        """
        if not api_key:
            return None
        if self._cipher is None:
            raise invalid_field(
                "agent.llm_config.api_key",
                "this service cannot keep keys: its operator must set AGENTSVC_SECRET_KEY first",
            )
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, api_key.encode(), _place(tenant_id, agent_id))
        return _VERSION + nonce + sealed

    def open(self, sealed: bytes | None, tenant_id: str, agent_id: str) -> str:
        """The clear form; empty for no key.

        Raises:
            AgentsvcError: PROVIDER_NOT_CONFIGURED when the secret key is missing or not the one it was sealed with.
        """
        if not sealed:
            return ""
        if self._cipher is None or sealed[:1] != _VERSION:
            raise _unreadable(agent_id)
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, body, _place(tenant_id, agent_id)).decode()
        except InvalidTag:
            raise _unreadable(agent_id) from None


def _derive(secret_key: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"agentsvc agent keys").derive(secret_key.encode())


def _place(tenant_id: str, agent_id: str) -> bytes:
    return f"{tenant_id}\x00{agent_id}".encode()


def _unreadable(agent_id: str) -> AgentsvcError:
    return AgentsvcError(
        Reason.PROVIDER_NOT_CONFIGURED,
        f"The API key of agent {agent_id} was sealed under another AGENTSVC_SECRET_KEY: restore that setting, or delete "
        "the agent and create it anew.",
    )

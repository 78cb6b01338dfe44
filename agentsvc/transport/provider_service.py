"""agentsvc.v1.ProviderService: the vendors, for operators. The gate lets admins in only."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode

from agentsvc import v1
from agentsvc.domain.errors import invalid_field
from agentsvc.domain.ports import PageRequest, ProviderDirectory
from agentsvc.transport import codec_providers as providers
from agentsvc.transport import codec_requests as requests
from agentsvc.transport.interceptors import Call


class ProviderService:
    """Tells how the providers are doing."""

    def __init__(self, directory: ProviderDirectory) -> None:
        self._directory = directory

    async def list_providers(self, request: v1.ListProvidersRequest, call: Call) -> v1.ListProvidersResponse:  # noqa: ARG002 - the same for every admin
        """Providers, by name."""
        page = requests.page(request)
        wanted = request.configured if request.HasField("configured") else None
        after = _read(page, wanted)
        found = [
            each for each in self._directory.providers() if each.provider > after and wanted in {None, each.configured}
        ]
        shown, more = found[: page.size], len(found) > page.size
        return v1.ListProvidersResponse(
            providers=[providers.to_provider(each) for each in shown],
            next_page_token=_write(shown[-1].provider, wanted) if more else "",
        )


def _write(last: str, configured: bool | None) -> str:
    """A page token: where the page ended, and of what list it was one."""
    return urlsafe_b64encode(f"{configured} {last}".encode()).decode()


def _read(page: PageRequest, configured: bool | None) -> str:
    """The name after which the page begins; empty for the first one."""
    if not page.token:
        return ""
    try:
        of, _, last = urlsafe_b64decode(page.token).decode().partition(" ")
    except ValueError:  # not base64, not text: both are
        of = last = ""
    if of != str(configured) or not last:
        raise invalid_field("page_token", "not a token that this list returned; start again without one")
    return last

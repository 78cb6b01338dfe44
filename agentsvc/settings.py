"""Settings: the environment and a file in, the frozen configuration value of each room out. Nobody else reads them.

    AGENTSVC_...                           the names in ``variables``
    AGENTSVC_CONFIG=agentsvc.toml          a file with the same names; what the environment says wins
    OPENAI_API_KEY, OPENAI_BASE_URL, ...   as the vendors call them; the registry of providers knows the names
    OPENAI_API_KEY=k1,k2                   several keys; and several addresses, which may have names: each key is
    OPENAI_BASE_URL=eu=https://..,https://..   used at each address, and the quickest that works is asked

A wrong setting is never ignored and never half used: all of them are told at once, each with what to write instead.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from agentsvc.engine.admission import LimitsConfig
from agentsvc.engine.complexity import AutoConfig, named
from agentsvc.engine.journal import JournalConfig
from agentsvc.engine.price_file import PriceFileError, parse
from agentsvc.engine.price_list import BUILT_IN
from agentsvc.engine.prices import PriceTable
from agentsvc.engine.runs import DrainConfig, RunsConfig
from agentsvc.engine.tools import Tool
from agentsvc.providers.dialect import Endpoint, Provider
from agentsvc.providers.pool import PoolConfig
from agentsvc.providers.registry import installed
from agentsvc.providers.status import REGION
from agentsvc.providers.way import RoutingConfig
from agentsvc.storage import StorageConfig
from agentsvc.storage.secrets import SealedSecrets
from agentsvc.telemetry.log import LogConfig
from agentsvc.transport.address import is_loopback
from agentsvc.transport.admin import AdminConfig
from agentsvc.transport.server import ServerConfig, Tls
from agentsvc.variables import DEFAULT_STORAGE, Variables, read

DEV_DATABASE_URL: Final = "sqlite:///agentsvc-dev.sqlite3"


class SettingsError(ValueError):
    """Settings that cannot be used: one line each, for the person who starts the service."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Settings:
    """What each room is configured with.

    ``shutdown_grace``: seconds from SIGTERM to the end of the process, of which running answers have all but the last 2.
    ``tools``: ``module:attribute`` names. ``admin`` None: no address for operators; a process that serves has one unless
    it is told off. ``metrics_models``: the models that may be labels, beside the providers' defaults. ``prices``: the
    built-in ones with the operator's over them; ``auto``: what ``model: auto`` stands for.
    """

    server: ServerConfig = ServerConfig()
    admin: AdminConfig | None = None
    storage: StorageConfig = DEFAULT_STORAGE
    journal: JournalConfig = JournalConfig()
    runs: RunsConfig = RunsConfig()
    limits: LimitsConfig = LimitsConfig()
    drain: DrainConfig = DrainConfig()
    pool: PoolConfig = PoolConfig()
    routing: RoutingConfig = RoutingConfig()
    log: LogConfig = LogConfig()
    shutdown_grace: float = 20.0
    endpoints: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    prices: PriceTable = field(default=BUILT_IN, repr=False)
    auto: AutoConfig = AutoConfig()
    metrics_models: tuple[str, ...] = ()
    dev_token: str = field(default="", repr=False)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, *, dev: bool = False) -> Self:
        """The settings of this process (``environ`` None) or of the given environment; ``dev``: under --dev's rules.

        Raises:
            SettingsError: naming every variable that is unknown, malformed or not allowed.
        """
        # An empty variable is an unset one, as in ``${NAME:-}`` of a compose file.
        said = {name: value for name, value in (os.environ if environ is None else environ).items() if value}
        variables, problems = read(said)
        problems += dict.fromkeys(_wrong_endpoints(said))  # two providers may share a variable
        prices, wrong = _prices(variables.prices if variables else None)
        problems += wrong
        if variables is not None:
            problems += [*_contradictions(variables), *(_not_for_dev(variables) if dev else _only_for_dev(variables))]
        if variables is None or problems:
            raise SettingsError(*problems)
        url = variables.database_url or (DEV_DATABASE_URL if dev else DEFAULT_STORAGE.url)
        return cls(
            server=_server(variables),
            admin=_admin(variables, dev=dev),
            storage=StorageConfig(url=url, secret_key=variables.secret_key, **variables.storage.model_dump()),
            journal=variables.journal,
            runs=variables.runs,
            limits=variables.limits,
            # At a developer's desk no load balancer has to learn that nothing new may come.
            drain=DrainConfig(0.0) if dev and "drain" not in variables.model_fields_set else variables.drain,
            pool=variables.pool,
            routing=variables.routing,
            log=variables.log,
            shutdown_grace=variables.shutdown_grace,
            endpoints=dict(_endpoints(said)),
            tools=_names(variables.tools),
            prices=prices,
            auto=variables.auto,
            metrics_models=_names(variables.metrics_models),
            dev_token=variables.dev_token,
        )

    def load_tools(self) -> tuple[Tool, ...]:
        """Imports the operator's tools.

        Raises:
            SettingsError: naming the entry that cannot be imported or is not a Tool.
        """
        return tuple(_load_tool(name) for name in self.tools)


def _server(variables: Variables) -> ServerConfig:
    tls = variables.tls
    return ServerConfig(
        address=variables.grpc_address,
        heartbeat=variables.heartbeat_interval,
        reflection=variables.reflection,
        plaintext=variables.grpc_plaintext == "allow",
        tls=Tls(tls.certificate, tls.key, tls.client_ca) if tls.certificate and tls.key else None,
    )


def _admin(variables: Variables, *, dev: bool) -> AdminConfig | None:
    address = variables.admin_address or ("127.0.0.1:0" if dev else AdminConfig().address)
    channelz = "" if variables.channelz_address == "off" else variables.channelz_address
    if address == "off":
        return None
    return AdminConfig(address, variables.admin_plaintext == "allow", channelz, insists=bool(variables.admin_address))


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _prices(path: Path | None) -> tuple[PriceTable, list[str]]:
    """The operator's prices over the built-in ones, and what is wrong with them."""
    own = PriceTable()
    wrong: tuple[str, ...] = ()
    try:
        if path is not None:
            own = parse(path.read_bytes())
            wrong = tuple(_no_provider(name) for name in own.models if name not in installed())
    except PriceFileError as error:
        wrong = error.problems
    except OSError as error:
        wrong = (f"it cannot be read ({error.strerror})",)
    return BUILT_IN.merged(own), [f"AGENTSVC_PRICES names {str(path)!r}: {problem}." for problem in wrong]


def _wrong_models(auto: AutoConfig) -> Iterator[str]:
    for level in ("simple", "normal", "hard"):
        said = getattr(auto, level)
        model = named(said)
        if said and not model.model:
            yield f"AGENTSVC_AUTO__{level.upper()} is {said!r}: write provider/model."
        elif model.provider and model.provider not in installed():
            yield f"AGENTSVC_AUTO__{level.upper()} is {said!r}: {_no_provider(model.provider)}."


def _no_provider(name: str) -> str:
    return f"{name!r} is no provider; there are {', '.join(installed())}"


def _contradictions(variables: Variables) -> Iterator[str]:
    """What is wrong with the values taken together, or with the world they name."""
    tls = variables.tls
    if variables.admin_address == "off" and variables.channelz_address != "off":
        yield "AGENTSVC_CHANNELZ_ADDRESS needs AGENTSVC_ADMIN_ADDRESS: set both, or only the latter."
    if variables.redis_url:
        yield "AGENTSVC_REDIS_URL is set, but replicas that share Redis are not built yet: unset it."
    yield from _wrong_models(variables.auto)
    try:
        SealedSecrets(variables.secret_key)
    except ValueError as error:
        yield f"{error}."
    if bool(tls.certificate) != bool(tls.key):
        yield "AGENTSVC_TLS__CERTIFICATE and AGENTSVC_TLS__KEY belong together: set both or none."
    if tls.client_ca and not tls.certificate:
        yield "AGENTSVC_TLS__CLIENT_CA needs AGENTSVC_TLS__CERTIFICATE and AGENTSVC_TLS__KEY beside it."
    for name, path in (("CERTIFICATE", tls.certificate), ("KEY", tls.key), ("CLIENT_CA", tls.client_ca)):
        if path and not (path.is_file() and os.access(path, os.R_OK)):
            yield f"AGENTSVC_TLS__{name} names {str(path)!r}, which is not a file that can be read."


def _only_for_dev(variables: Variables) -> Iterator[str]:
    if variables.dev_token:
        yield "AGENTSVC_DEV_TOKEN is for `agentsvc serve --dev` only: unset it, and run `agentsvc token create`."
    if (
        not is_loopback(variables.grpc_address)
        and not variables.tls.certificate
        and variables.grpc_plaintext != "allow"
    ):
        yield (
            f"AGENTSVC_GRPC_ADDRESS is {variables.grpc_address!r}, which others can reach: set AGENTSVC_TLS__CERTIFICATE "
            "and AGENTSVC_TLS__KEY, or ask for plaintext (beside a mesh's proxy) with AGENTSVC_GRPC_PLAINTEXT=allow."
        )

    if variables.admin_plaintext != "allow":
        for name, address in _open_to_others(variables):
            yield (
                f"{name} is {address!r}, which others can reach, and there is neither TLS nor a token before it: keep it on "
                "loopback, or ask for it with AGENTSVC_ADMIN_PLAINTEXT=allow."
            )


def _open_to_others(variables: Variables) -> Iterator[tuple[str, str]]:
    """The operators' addresses that are not on loopback."""
    for name in ("admin_address", "channelz_address"):
        address = getattr(variables, name)
        if address not in {"", "off"} and not is_loopback(address):
            yield f"AGENTSVC_{name.upper()}", address


def _not_for_dev(variables: Variables) -> Iterator[str]:
    """--dev has a well-known agent and an admin token on the screen: it keeps to this machine and to its own data."""
    for name, address in (("GRPC", variables.grpc_address), ("HTTP", variables.http_address)):
        if not is_loopback(address):
            yield f"AGENTSVC_{name}_ADDRESS is {address!r}, but --dev listens on loopback only: unset it or drop --dev."
    for variable, address in _open_to_others(variables):
        yield f"{variable} is {address!r}, but --dev listens on loopback only: unset it or drop --dev."
    if not re.fullmatch(r"[!-~]*", variables.dev_token):
        yield "AGENTSVC_DEV_TOKEN is not usable: write one word of ASCII, since it travels in a header."
    if variables.database_url not in {"", DEV_DATABASE_URL}:
        yield "AGENTSVC_DATABASE_URL is set, but --dev keeps to its own SQLite file: unset it or drop --dev."


def _endpoints(environ: Mapping[str, str]) -> Iterator[tuple[str, tuple[Endpoint, ...]]]:
    """The providers that the environment says anything about, and the ways to each: every key at every address."""
    for provider in installed().values():
        keys = _names(_first(environ, provider.key_env)[1]) or ("",)
        addresses = _addresses(environ, provider)[1] or [("", "")]
        extra = {
            name: value for name, variables in provider.extra_env.items() if (value := _first(environ, variables)[1])
        }
        if any(keys) or any(addresses[0]) or extra:
            yield (
                provider.name,
                tuple(
                    Endpoint(url, key, {**extra, REGION: region} if region else extra)
                    for region, url in addresses
                    for key in dict.fromkeys(keys)
                ),
            )


def _wrong_endpoints(environ: Mapping[str, str]) -> Iterator[str]:
    for provider in installed().values():
        name, said = _first(environ, provider.key_env)
        if not all(re.fullmatch(r"[!-~]*", key) for key in _names(said)):
            yield (
                f"{name} is not usable: write one word of ASCII, since it travels in an HTTP header, or several with "
                "commas between them."
            )
        name, addresses = _addresses(environ, provider)
        for _, url in addresses:
            if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", url):
                yield f"{name} is {url!r}: write an address that begins with https:// or http://."


def _addresses(environ: Mapping[str, str], provider: Provider) -> tuple[str, list[tuple[str, str]]]:
    """The variable that names addresses, and these, each once, with the operator's name for it or none."""
    name, told = _first(environ, provider.base_url_env)
    found: dict[str, str] = {}
    for each in _names(told):
        region, named, url = each.partition("=")
        if not (named and re.fullmatch(r"[\w-]+", region)):
            region, url = "", each
        found.setdefault(provider.read_base_url(url).rstrip("/"), region)
    return name, [(region, url) for url, region in found.items()]


def _first(environ: Mapping[str, str], names: Iterable[str]) -> tuple[str, str]:
    """The first of ``names`` that is set, and its value: stripped, since keys come from files that end in a newline."""
    return next(((name, environ[name].strip()) for name in names if name in environ), ("", ""))


def _load_tool(name: str) -> Tool:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"AGENTSVC_TOOLS names {name!r}, which cannot be imported ({error}): write module:attribute, with the "
            "module's folder on PYTHONPATH."
        ) from error
    if not isinstance(found, Tool):
        raise SettingsError(
            f"AGENTSVC_TOOLS names {name!r}, which is no Tool: decorate it with agentsvc.engine.tools.tool."
        )
    return found

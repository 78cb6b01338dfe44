"""Every AGENTSVC_ name there is: its group, its default, and what a person is told who got it wrong.

    AGENTSVC_GRPC_ADDRESS=0.0.0.0:50051    grpc_address = "0.0.0.0:50051" in the file
    AGENTSVC_JOURNAL__RUN_BYTES=1048576    run_bytes = 1048576 under [journal]

A group that is a room's own configuration value has that value's names, units and defaults.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from agentsvc.engine.admission import LimitsConfig
from agentsvc.engine.complexity import AutoConfig
from agentsvc.engine.journal import JournalConfig
from agentsvc.engine.runs import DrainConfig, RunsConfig
from agentsvc.providers.pool import PoolConfig
from agentsvc.providers.way import RoutingConfig
from agentsvc.storage import StorageConfig
from agentsvc.storage.database import parse_url
from agentsvc.telemetry.log import LogConfig
from agentsvc.transport.admin import AdminConfig
from agentsvc.transport.server import ServerConfig

PREFIX: Final = "AGENTSVC_"
_log = logging.getLogger(__name__)
_RESEMBLES = 0.85  # of difflib: one letter missing, doubled or swapped in a name of ours
CONFIG: Final = "AGENTSVC_CONFIG"  # names the file
DEFAULT_STORAGE: Final = StorageConfig(url="sqlite:///agentsvc.db")

_SERVER = ServerConfig()
_ELSEWHERE = {CONFIG, "AGENTSVC_TOKEN", "AGENTSVC_TARGET", "AGENTSVC_RECORDINGS"}  # read by callers and by the tests
# Kubernetes tells every pod the address of a service named "agentsvc", in variables that look like ours.
_SERVICE_LINK = re.compile(r"AGENTSVC_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)")
_SECRETS = {"AGENTSVC_DATABASE_URL", "AGENTSVC_REDIS_URL", "AGENTSVC_SECRET_KEY", "AGENTSVC_DEV_TOKEN"}
_MAY_BE_ZERO = {
    "AGENTSVC_DRAIN__SETTLE",
    "AGENTSVC_LIMITS__QUEUE",
    "AGENTSVC_LIMITS__QUEUE_PER_SESSION",
    "AGENTSVC_LIMITS__QUEUE_WAIT",
    "AGENTSVC_POOL__CONNECTIONS_PER_HOST",
    "AGENTSVC_POOL__WARM",
    "AGENTSVC_POOL__RETRY__MAX_RETRIES",
    "AGENTSVC_ROUTING__FAILURES",
    "AGENTSVC_ROUTING__HEDGE_AFTER",
    "AGENTSVC_SHUTDOWN_GRACE",
}


def _host_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 0xFFFF:
        raise ValueError("write host:port")
    return address


def _admin_address(address: str) -> str:
    if address in {"", "off"}:
        return address
    try:
        return _host_port(address)
    except ValueError as error:
        raise ValueError(f"{error}, for example {AdminConfig().address}, or off") from error


def _database_url(url: str) -> str:
    if url:
        parse_url(url)
    return url


Address = Annotated[str, AfterValidator(_host_port)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StorageGroup(_Group):
    """StorageConfig without its URL and key, which have names of their own."""

    pool_size: int = DEFAULT_STORAGE.pool_size
    timeout: float = DEFAULT_STORAGE.timeout
    batch_window: float = DEFAULT_STORAGE.batch_window
    start_window: float = DEFAULT_STORAGE.start_window
    backlog_bytes: int = DEFAULT_STORAGE.backlog_bytes
    poll_interval: float = DEFAULT_STORAGE.poll_interval
    lease: float = DEFAULT_STORAGE.lease


class TlsGroup(_Group):
    """PEM files."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None


class Variables(BaseSettings):
    """The values, each valid by itself."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__")

    grpc_address: Address = _SERVER.address
    grpc_plaintext: Literal["loopback", "allow"] = "loopback"
    admin_address: Annotated[str, AfterValidator(_admin_address)] = ""  # empty: AdminConfig's, any free port with --dev
    channelz_address: Annotated[str, AfterValidator(_admin_address)] = "off"
    admin_plaintext: Literal["loopback", "allow"] = "loopback"
    metrics_models: str = ""  # names that may be labels, separated by commas; the providers' default models are, too
    http_address: Address = "127.0.0.1:8080"  # of the HTTP gateway, once it is built
    heartbeat_interval: float = _SERVER.heartbeat
    reflection: bool = _SERVER.reflection
    tls: TlsGroup = TlsGroup()
    database_url: Annotated[str, AfterValidator(_database_url)] = ""  # empty: a SQLite file in the working directory
    redis_url: str = ""
    secret_key: str = ""
    storage: StorageGroup = StorageGroup()
    journal: JournalConfig = JournalConfig()
    runs: RunsConfig = RunsConfig()
    limits: LimitsConfig = LimitsConfig()
    drain: DrainConfig = DrainConfig()
    pool: PoolConfig = PoolConfig()
    routing: RoutingConfig = RoutingConfig()
    log: LogConfig = LogConfig()
    shutdown_grace: float = 20.0  # Kubernetes kills after 30
    tools: str = ""
    prices: Path | None = None  # JSON, laid over the built-in table
    auto: AutoConfig = AutoConfig()
    dev_token: str = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed in: which environment is read, and what it wins over, is decided by ``read``."""
        return (init_settings,)


def read(environ: Mapping[str, str]) -> tuple[Variables | None, list[str]]:
    """What the environment and the file it names say (the environment wins), and what is wrong with that.

    The values are None when something malformed keeps them from being made.
    """
    known = {PREFIX + path.upper(): default for path, default in _leaves(Variables.model_construct())}
    path = environ.get(CONFIG, "")
    in_file, problems = _file(Path(path)) if path else ({}, [])
    for name in environ:
        if not _is_ours(name) or name in known:
            continue
        # A typing error must not pass for a setting; what resembles none may be another version's, or somebody else's.
        if difflib.get_close_matches(name, known, 1, _RESEMBLES):
            problems.append(_unknown(name, known))
        else:
            _log.warning("%s is not a setting of this version and is ignored.", name)
    problems += [_unknown(name, known, path) for name in _flat(in_file) if name not in known]
    source = EnvSettingsSource(Variables)
    source.env_vars = {name.lower(): value for name, value in environ.items() if name in known}
    try:
        variables = Variables(**_overlaid(in_file, source()))
    except ValidationError as error:
        wrong = ((PREFIX + "__".join(map(str, e["loc"])).upper(), e) for e in error.errors())
        return None, [*problems, *(_malformed(name, e, known) for name, e in wrong if name in known)]
    return variables, [*problems, *_out_of_range(variables)]


def _leaves(group: Any) -> Iterator[tuple[str, Any]]:
    """The settings below a group, with ``__`` between the steps, and their values."""
    names = type(group).model_fields if isinstance(group, BaseModel) else (f.name for f in fields(group))
    for name in names:
        value = getattr(group, name)
        if isinstance(value, BaseModel) or is_dataclass(value):
            yield from ((f"{name}__{rest}", leaf) for rest, leaf in _leaves(value))
        else:
            yield name, value


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) and name not in _ELSEWHERE and not _SERVICE_LINK.fullmatch(name)


def _file(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        return tomllib.loads(path.read_text()), []
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {}, [f"{CONFIG} names {str(path)!r}, which cannot be read: {error}."]


def _flat(table: Mapping[str, Any], prefix: str = PREFIX) -> Iterator[str]:
    """The variables that a file's entries stand for."""
    for key, value in table.items():
        name = prefix + key.upper()
        if isinstance(value, dict):
            yield from _flat(value, f"{name}__")
        else:
            yield name


def _overlaid(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**lower, **upper}
    for key in lower.keys() & upper.keys():
        if isinstance(lower[key], dict) and isinstance(upper[key], dict):
            merged[key] = _overlaid(lower[key], upper[key])
    return merged


def _unknown(name: str, known: Mapping[str, Any], file: str = "") -> str:
    near = difflib.get_close_matches(name, known, 1, 0.0)[0]
    return f"{name}{f' (in {file})' if file else ''} is not a setting: did you mean {near}?"


def _malformed(name: str, error: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    kind, default = error["type"].removesuffix("_type").removesuffix("_parsing"), known[name]
    match kind:
        case "int" | "int_from_float":
            wanted = f"write a whole number, for example {default}"
        case "float":
            wanted = f"write a number, for example {default}"
        case "bool":
            wanted = "write on or off"
        case "literal_error" | "enum":
            wanted = f"write {error['ctx']['expected']}"
        case "value_error":
            wanted = f"{error['ctx']['error']}{f', for example {default}' if default else ''}"
        case _:
            wanted = str(error["msg"])
    return f"{name} is {'not usable' if name in _SECRETS else repr(error['input'])}: {wanted}."


def _out_of_range(variables: Variables) -> Iterator[str]:
    for path, value in _leaves(variables):
        name = PREFIX + path.upper()
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
            yield f"{name} is {value}: write a number that is {'0 or more' if name in _MAY_BE_ZERO else 'more than 0'}."

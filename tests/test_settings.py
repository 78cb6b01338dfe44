"""Settings: what is said arrives where it belongs, and what is wrong is named together with what to write."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from agentsvc.domain.messages import Cost, Usage
from agentsvc.engine.price_list import BUILT_IN
from agentsvc.engine.tools import tool
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.registry import PROVIDERS
from agentsvc.settings import DEV_DATABASE_URL, Settings, SettingsError
from agentsvc.telemetry.log import LogFormat
from agentsvc.transport.admin import AdminConfig


@tool
async def a_tool() -> str:
    """A tool of the operator's."""
    return "done"


not_a_tool = a_tool.function


def problems(environ: dict[str, str], *, dev: bool = False) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as told:
        Settings.load(environ, dev=dev)
    return told.value.problems


def test_an_empty_environment_is_enough():
    assert Settings.load({}) == Settings(admin=AdminConfig(insists=False))


def test_the_defaults_keep_to_this_machine():
    settings = Settings.load({})
    assert settings.server.address == "127.0.0.1:50051"
    assert settings.storage.url == "sqlite:///agentsvc.db"
    assert not settings.server.plaintext


@pytest.mark.parametrize(
    ("name", "value", "path", "read"),
    [
        ("AGENTSVC_GRPC_ADDRESS", "127.0.0.1:0", "server.address", "127.0.0.1:0"),
        ("AGENTSVC_HEARTBEAT_INTERVAL", "0.05", "server.heartbeat", 0.05),
        ("AGENTSVC_REFLECTION", "off", "server.reflection", False),
        ("AGENTSVC_DATABASE_URL", "sqlite:///other.db", "storage.url", "sqlite:///other.db"),
        ("AGENTSVC_SECRET_KEY", "0123456789abcdef", "storage.secret_key", "0123456789abcdef"),
        ("AGENTSVC_STORAGE__POOL_SIZE", "3", "storage.pool_size", 3),
        ("AGENTSVC_JOURNAL__RUN_BYTES", "1048576", "journal.run_bytes", 1 << 20),
        ("AGENTSVC_JOURNAL__RETENTION", "0.5", "journal.retention", 0.5),
        ("AGENTSVC_RUNS__MAX_RUN_TIME", "60", "runs.max_run_time", 60.0),
        ("AGENTSVC_POOL__FIRST_TOKEN_TIMEOUT", "5", "pool.first_token_timeout", 5.0),
        ("AGENTSVC_POOL__IDLE_TIMEOUT", "7.5", "pool.idle_timeout", 7.5),
        ("AGENTSVC_POOL__RETRY__MAX_RETRIES", "0", "pool.retry.max_retries", 0),
        ("AGENTSVC_ROUTING__FAILURES", "0", "routing.failures", 0),
        ("AGENTSVC_ROUTING__OPEN_FOR", "2.5", "routing.open_for", 2.5),
        ("AGENTSVC_ROUTING__HEDGE_AFTER", "0.8", "routing.hedge_after", 0.8),
        ("AGENTSVC_ADMIN_ADDRESS", "127.0.0.1:0", "admin.address", "127.0.0.1:0"),
        ("AGENTSVC_ADMIN_ADDRESS", "off", "admin", None),
        ("AGENTSVC_CHANNELZ_ADDRESS", "127.0.0.1:0", "admin.channelz", "127.0.0.1:0"),
        ("AGENTSVC_METRICS_MODELS", "gpt-5, claude-opus-4-1", "metrics_models", ("gpt-5", "claude-opus-4-1")),
        ("AGENTSVC_LOG__FORMAT", "json", "log.format", LogFormat.JSON),
        ("AGENTSVC_SHUTDOWN_GRACE", "1", "shutdown_grace", 1.0),
        ("AGENTSVC_DRAIN__SETTLE", "0", "drain.settle", 0.0),
        ("AGENTSVC_LIMITS__MAX_RUNS", "7", "limits.max_runs", 7),
        ("AGENTSVC_LIMITS__MAX_READERS_PER_TOKEN", "7", "limits.max_readers_per_token", 7),
        ("AGENTSVC_LIMITS__QUEUE", "0", "limits.queue", 0),
        ("AGENTSVC_LIMITS__QUEUE_WAIT", "0.5", "limits.queue_wait", 0.5),
        ("AGENTSVC_LIMITS__IDLE_READER", "60", "limits.idle_reader", 60.0),
        ("AGENTSVC_AUTO__SIMPLE", "groq/openai/gpt-oss-20b", "auto.simple", "groq/openai/gpt-oss-20b"),
        ("AGENTSVC_AUTO__HARD", "gpt-5", "auto.hard", "gpt-5"),
    ],
)
def test_a_variable_arrives_in_the_room_it_is_meant_for(name: str, value: str, path: str, read: object):
    found: object = Settings.load({name: value})
    for step in path.split("."):
        found = getattr(found, step)
    assert found == read


def test_the_file_has_the_same_names_and_the_environment_wins(tmp_path: Path):
    file = tmp_path / "agentsvc.toml"
    file.write_text('grpc_address = "127.0.0.1:1"\n[journal]\nrun_bytes = 1\nretention = 2.0\n')
    settings = Settings.load({"AGENTSVC_CONFIG": str(file), "AGENTSVC_JOURNAL__RUN_BYTES": "3"})
    assert settings.server.address == "127.0.0.1:1"
    assert (settings.journal.run_bytes, settings.journal.retention) == (3, 2.0)


def test_an_empty_variable_is_an_unset_one():
    assert Settings.load({"AGENTSVC_REDIS_URL": "", "AGENTSVC_TOOLS": "", "OPENAI_API_KEY": ""}) == Settings.load({})


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"AGENTSVC_GRPC_ADRESS": "x"}, "AGENTSVC_GRPC_ADRESS is not a setting: did you mean AGENTSVC_GRPC_ADDRESS?"),
        ({"AGENTSVC_REDIS_ULR": "x"}, "AGENTSVC_REDIS_ULR is not a setting: did you mean AGENTSVC_REDIS_URL?"),
        ({"AGENTSVC_GRPC_ADDRESS": "50051"}, "'50051': write host:port, for example 127.0.0.1:50051."),
        ({"AGENTSVC_GRPC_ADDRESS": "127.0.0.1:70000"}, "write host:port"),
        ({"AGENTSVC_JOURNAL__RUN_BYTES": "8MiB"}, "'8MiB': write a whole number, for example 8388608."),
        (
            {"AGENTSVC_JOURNAL__RUN_BYTES": "-1"},
            "AGENTSVC_JOURNAL__RUN_BYTES is -1: write a number that is more than 0.",
        ),
        ({"AGENTSVC_LIMITS__MAX_RUNS": "0"}, "AGENTSVC_LIMITS__MAX_RUNS is 0: write a number that is more than 0."),
        ({"AGENTSVC_JOURNAL__RETENTION": "0"}, "write a number that is more than 0."),
        ({"AGENTSVC_SHUTDOWN_GRACE": "-1"}, "write a number that is 0 or more."),
        ({"AGENTSVC_RUNS__MAX_RUN_TIME": "nan"}, "AGENTSVC_RUNS__MAX_RUN_TIME is nan: write a number"),
        ({"AGENTSVC_POOL__IDLE_TIMEOUT": "soon"}, "'soon': write a number, for example 60.0."),
        ({"AGENTSVC_REFLECTION": "maybe"}, "'maybe': write on or off."),
        ({"AGENTSVC_LOG__LEVEL": "loud"}, "write 'debug', 'info', 'warning' or 'error'."),
        ({"AGENTSVC_GRPC_PLAINTEXT": "yes"}, "write 'loopback' or 'allow'."),
        ({"AGENTSVC_DATABASE_URL": "mysql://root:hunter2@db/x"}, "must begin with sqlite:///, or postgresql://"),
        ({"AGENTSVC_SECRET_KEY": "short"}, "AGENTSVC_SECRET_KEY must have at least 16 characters"),
        ({"AGENTSVC_REDIS_URL": "redis://x"}, "AGENTSVC_REDIS_URL is set, but"),
        ({"AGENTSVC_CONFIG": "/no/such.toml"}, "AGENTSVC_CONFIG names '/no/such.toml', which cannot be read"),
        ({"AGENTSVC_GRPC_ADDRESS": "0.0.0.0:50051"}, "AGENTSVC_GRPC_PLAINTEXT=allow"),
        ({"AGENTSVC_ADMIN_ADDRESS": "9464"}, "'9464': write host:port, for example 127.0.0.1:9464, or off."),
        ({"AGENTSVC_ADMIN_ADDRESS": "0.0.0.0:9464"}, "AGENTSVC_ADMIN_PLAINTEXT=allow"),
        ({"AGENTSVC_CHANNELZ_ADDRESS": "0.0.0.0:9465"}, "AGENTSVC_CHANNELZ_ADDRESS is '0.0.0.0:9465', which others"),
        (
            {"AGENTSVC_CHANNELZ_ADDRESS": "127.0.0.1:0", "AGENTSVC_ADMIN_ADDRESS": "off"},
            "AGENTSVC_CHANNELZ_ADDRESS needs AGENTSVC_ADMIN_ADDRESS",
        ),
        ({"AGENTSVC_TLS__CERTIFICATE": __file__}, "set both or none"),
        ({"AGENTSVC_TLS__CLIENT_CA": __file__}, "AGENTSVC_TLS__CLIENT_CA needs"),
        ({"AGENTSVC_TLS__CERTIFICATE": "/no/c", "AGENTSVC_TLS__KEY": __file__}, "names '/no/c', which is not a file"),
        ({"AGENTSVC_DEV_TOKEN": "x"}, "AGENTSVC_DEV_TOKEN is for `agentsvc serve --dev` only"),
        ({"AGENTSVC_PRICES": "/no/such.json"}, "AGENTSVC_PRICES names '/no/such.json': it cannot be read"),
        ({"AGENTSVC_AUTO__SIMPLE": "opnai/gpt-5"}, "AGENTSVC_AUTO__SIMPLE is 'opnai/gpt-5': 'opnai' is no provider"),
        ({"AGENTSVC_AUTO__NORMAL": "openai/"}, "AGENTSVC_AUTO__NORMAL is 'openai/': write provider/model."),
        ({"AGENTSVC_AUTO__HRAD": "gpt-5"}, "did you mean AGENTSVC_AUTO__HARD?"),
        ({"OPENAI_BASE_URL": "api.openai.com"}, "OPENAI_BASE_URL is 'api.openai.com': write an address"),
        ({"OLLAMA_HOST": "gpu box:port"}, "OLLAMA_HOST is 'gpu box:port': write an address"),
        ({"OPENAI_API_KEY": "two words"}, "OPENAI_API_KEY is not usable"),
        ({"OPENAI_API_KEY": "schlüssel"}, "OPENAI_API_KEY is not usable"),
        ({"OPENAI_API_KEY": "good,two words"}, "OPENAI_API_KEY is not usable"),
        ({"OPENAI_BASE_URL": "https://a.example,b.example"}, "OPENAI_BASE_URL is 'b.example': write an address"),
        ({"OPENAI_BASE_URL": "eu=a.example"}, "OPENAI_BASE_URL is 'a.example': write an address"),
        ({"AGENTSVC_ROUTING__OPEN_FOR": "0"}, "AGENTSVC_ROUTING__OPEN_FOR is 0.0: write a number that is more than 0."),
    ],
)
def test_a_wrong_setting_is_told_by_name_with_what_to_write(environ: dict[str, str], told: str):
    assert [problem for problem in problems(environ) if told in problem]


def test_all_that_is_wrong_is_told_at_once():
    wrong = {"AGENTSVC_REDIS_ULR": "1", "AGENTSVC_REFLECTION": "maybe", "OPENAI_BASE_URL": "x"}
    assert [problem.split()[0] for problem in problems(wrong)] == list(wrong)


@pytest.mark.parametrize("name", ["AGENTSVC_DATABASE_URL", "AGENTSVC_SECRET_KEY", "OPENAI_API_KEY"])
def test_a_secret_is_never_repeated(name: str):
    assert "hunter2" not in "".join(problems({name: "hunter2 ü"} | {"AGENTSVC_X": "1"}))
    assert "hunter2hunter2hunter2" not in repr(Settings.load({"OPENAI_API_KEY": "hunter2hunter2hunter2"}))


def test_a_typing_error_in_the_file_is_told_with_the_file(tmp_path: Path):
    file = tmp_path / "agentsvc.toml"
    file.write_text("[journal]\nrun_byte = 1\n")
    assert problems({"AGENTSVC_CONFIG": str(file)}) == (
        f"AGENTSVC_JOURNAL__RUN_BYTE (in {file}) is not a setting: did you mean AGENTSVC_JOURNAL__RUN_BYTES?",
    )


def test_a_name_of_another_version_is_told_and_ignored(caplog: pytest.LogCaptureFixture):
    assert Settings.load({"AGENTSVC_HOVERCRAFT__EELS": "many"}) == Settings.load({})
    assert "AGENTSVC_HOVERCRAFT__EELS is not a setting of this version and is ignored." in caplog.text


def test_what_kubernetes_says_about_a_service_of_our_name_is_no_setting():
    links = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_50051_TCP", "PORT_50051_TCP_ADDR")
    assert Settings.load({f"AGENTSVC_{link}": "10.0.0.1" for link in links}) == Settings.load({})


def test_beyond_loopback_with_tls_or_with_plaintext_asked_for(tmp_path: Path):
    open_to_all = {"AGENTSVC_GRPC_ADDRESS": "0.0.0.0:50051"}
    assert Settings.load(open_to_all | {"AGENTSVC_GRPC_PLAINTEXT": "allow"}).server.plaintext
    pem = tmp_path / "pem"
    pem.touch()
    tls = Settings.load(open_to_all | {"AGENTSVC_TLS__CERTIFICATE": str(pem), "AGENTSVC_TLS__KEY": str(pem)}).server.tls
    assert tls is not None
    assert (tls.certificate, tls.key, tls.client_ca) == (pem, pem, None)


def test_operators_beyond_loopback_must_be_asked_for():
    said = {"AGENTSVC_ADMIN_ADDRESS": "0.0.0.0:9464", "AGENTSVC_ADMIN_PLAINTEXT": "allow"}
    assert Settings.load(said).admin == AdminConfig("0.0.0.0:9464", exposed=True)
    with pytest.raises(ValueError, match="open to others"):
        AdminConfig("0.0.0.0:9464")


class TestDev:
    def test_its_port_for_operators_is_any_free_one(self):
        assert Settings.load({}, dev=True).admin == AdminConfig("127.0.0.1:0", insists=False)

    def test_it_keeps_its_own_file(self):
        assert Settings.load({}, dev=True).storage.url == DEV_DATABASE_URL

    def test_it_leaves_at_once_unless_told_to_wait(self):
        assert Settings.load({}, dev=True).drain.settle == 0
        assert Settings.load({"AGENTSVC_DRAIN__SETTLE": "3"}, dev=True).drain.settle == 3

    def test_its_token_can_be_set(self):
        assert Settings.load({"AGENTSVC_DEV_TOKEN": "abc"}, dev=True).dev_token == "abc"

    def test_its_token_must_fit_into_a_header(self):
        (problem,) = problems({"AGENTSVC_DEV_TOKEN": "two words"}, dev=True)
        assert problem.startswith("AGENTSVC_DEV_TOKEN is not usable")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("AGENTSVC_GRPC_ADDRESS", "0.0.0.0:50051"),
            ("AGENTSVC_HTTP_ADDRESS", "0.0.0.0:8080"),
            ("AGENTSVC_ADMIN_ADDRESS", "0.0.0.0:9464"),
            ("AGENTSVC_CHANNELZ_ADDRESS", "0.0.0.0:9465"),
            ("AGENTSVC_DATABASE_URL", "sqlite:///agentsvc.db"),
            ("AGENTSVC_DATABASE_URL", "postgresql://db/x"),
        ],
    )
    def test_it_never_leaves_this_machine_nor_touches_real_data(self, name: str, value: str):
        (problem,) = problems(
            {name: value, "AGENTSVC_GRPC_PLAINTEXT": "allow", "AGENTSVC_ADMIN_PLAINTEXT": "allow"}, dev=True
        )
        assert problem.startswith(name)
        assert "drop --dev" in problem


class TestProviders:
    @pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
    def test_each_is_configured_by_its_vendors_own_names(self, provider):
        environ = {provider.key_env[0]: "the-key\n", provider.base_url_env[0]: "https://llm.example.com/v1/"}
        (endpoint,) = Settings.load(environ).endpoints[provider.name]
        assert (endpoint.api_key, endpoint.base_url) == ("the-key", "https://llm.example.com/v1")

    def test_the_first_name_that_is_set_wins(self):
        environ = {"ANTHROPIC_API_KEY": "theirs", "CLAUDE_API_KEY": "its-own"}
        endpoints = Settings.load(environ).endpoints
        assert (endpoints["anthropic"][0].api_key, endpoints["claude"][0].api_key) == ("theirs", "its-own")
        assert Settings.load({"ANTHROPIC_API_KEY": "theirs"}).endpoints["claude"][0].api_key == "theirs"

    def test_further_settings_of_a_vendor_come_along(self):
        environ = {"OPENAI_API_KEY": "k", "OPENAI_ORG_ID": "org-1"}
        assert Settings.load(environ).endpoints["openai"] == (Endpoint("", "k", {"organization": "org-1"}),)

    def test_several_keys_are_used_at_each_of_several_addresses_in_the_order_of_these(self):
        environ = {
            "OPENAI_API_KEY": "k1, k2,\n",
            "OPENAI_BASE_URL": "eu=https://eu.example/v1/,us-2=https://us.example/v1",
            "OPENAI_ORG_ID": "org-1",
        }
        assert Settings.load(environ).endpoints["openai"] == tuple(
            Endpoint(f"https://{place[:2]}.example/v1", key, {"organization": "org-1", "region": place})
            for place in ("eu", "us-2")
            for key in ("k1", "k2")
        )

    def test_several_addresses_need_neither_names_nor_keys_and_count_once(self):
        hosts = "gpu1,gpu2:8080,http://gpu1:11434/"
        endpoints = Settings.load({"OLLAMA_HOST": hosts}).endpoints["ollama"]
        assert endpoints == (Endpoint("http://gpu1:11434"), Endpoint("http://gpu2:8080"))

    def test_an_equals_sign_inside_an_address_names_nothing(self):
        (endpoint,) = Settings.load({"OPENAI_BASE_URL": "https://gateway.example/team=a/v1"}).endpoints["openai"]
        assert endpoint == Endpoint("https://gateway.example/team=a/v1")

    @pytest.mark.parametrize(
        ("host", "address"),
        [
            ("0.0.0.0", "http://0.0.0.0:11434"),
            ("gpu-box:8080", "http://gpu-box:8080"),
            (":8080", "http://127.0.0.1:8080"),
            ("[::1]", "http://[::1]:11434"),
            ("gpu-box/ollama/", "http://gpu-box:11434/ollama"),
            ("https://ollama.example.com/", "https://ollama.example.com"),
        ],
    )
    def test_ollamas_host_is_read_as_ollama_reads_it(self, host: str, address: str):
        assert Settings.load({"OLLAMA_HOST": host}).endpoints["ollama"][0].base_url == address

    def test_azure_has_its_surface_and_its_deployment(self):
        azure = {
            "AZURE_OPENAI_API_KEY": "k",
            "AZURE_OPENAI_ENDPOINT": "https://acme.openai.azure.com/",
            "OPENAI_API_VERSION": "2024-10-21",
            "AZURE_OPENAI_DEPLOYMENT": "mini",
        }
        assert Settings.load(azure).endpoints == {
            "azure": (Endpoint("https://acme.openai.azure.com", "k", {"api_version": "2024-10-21", "model": "mini"}),)
        }
        (newer,) = Settings.load(azure | {"AZURE_OPENAI_API_VERSION": "2025-01-01"}).endpoints["azure"]
        assert newer.extra["api_version"] == "2025-01-01"


class TestPrices:
    def test_the_built_in_ones_need_no_file(self):
        assert Settings.load({}).prices == BUILT_IN

    def test_a_file_replaces_and_adds(self, tmp_path: Path):
        file = tmp_path / "prices.json"
        rates = {"input": 1, "output": 2}
        file.write_text(json.dumps({"prices": {"openai": {"gpt-5": rates}, "ollama": {"*": rates}}}))
        prices = Settings.load({"AGENTSVC_PRICES": str(file)}).prices
        usage = Usage(10**6, 10**6)
        assert prices.cost([("openai", "gpt-5", usage)]) == Cost(3_000_000)
        assert prices.cost([("ollama", "llama", usage)]) == Cost(3_000_000)
        assert prices.cost([("openai", "o3", usage)]) == BUILT_IN.cost([("openai", "o3", usage)])

    def test_a_wrong_file_is_told_entry_by_entry(self, tmp_path: Path):
        file = tmp_path / "prices.json"
        file.write_text('{"prices": {"openai": {"gpt-5": {"input": 1}, "o3": {"input": -1, "output": 1}}}}')
        assert problems({"AGENTSVC_PRICES": str(file)}) == (
            f"AGENTSVC_PRICES names '{file}': openai/gpt-5: Object missing required field `output`.",
            f"AGENTSVC_PRICES names '{file}': openai/o3: -1 is no price: write 0 or more, with at most 6 digits after the point.",
        )

    def test_a_provider_that_does_not_exist_is_told(self, tmp_path: Path):
        file = tmp_path / "prices.json"
        file.write_text('{"prices": {"opnai": {}}}')
        (problem,) = problems({"AGENTSVC_PRICES": str(file)})
        assert problem.startswith(f"AGENTSVC_PRICES names '{file}': 'opnai' is no provider; there are openai, ")


class TestTools:
    def test_they_are_imported_by_name(self):
        name = f"{__name__}:a_tool"
        assert dataclasses.replace(Settings(), tools=(name,)).load_tools() == (a_tool,)

    def test_the_list_may_have_spaces(self):
        assert Settings.load({"AGENTSVC_TOOLS": "a:b, c:d,"}).tools == ("a:b", "c:d")

    @pytest.mark.parametrize(
        "name", ["no.such.module:x", "agentsvc:nothing", "agentsvc", ":", f"{__name__}:not_a_tool"]
    )
    def test_what_is_no_tool_is_named(self, name: str):
        with pytest.raises(SettingsError, match=f"AGENTSVC_TOOLS names '{name}'"):
            dataclasses.replace(Settings(), tools=(name,)).load_tools()

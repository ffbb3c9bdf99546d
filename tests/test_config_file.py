from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest

from masklet import config_file, config_rules
from masklet.config import Config, ServerConfig
from masklet.config_file import check_config, config_keys, load_config, to_toml
from masklet.errors import ConfigError
from masklet.types import Profile


def load(
    tmp_path: Path, toml: str = "", environ: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> Config:
    path = tmp_path / "masklet.toml"
    path.write_text(toml)
    return load_config(path, environ or {}, flags or {})


def test_nothing_given_is_the_defaults() -> None:
    assert load_config(None, {"HOME": "/"}, {}) == Config()


@pytest.mark.parametrize(
    ("toml", "environ", "flags", "port"),
    [
        ("", {}, {}, 50051),
        ("[server]\nport = 1", {}, {}, 1),
        ("[server]\nport = 1", {"MASKLET_SERVER_PORT": "2"}, {}, 2),
        ("[server]\nport = 1", {"MASKLET_SERVER_PORT": "2"}, {"server.port": "3"}, 3),
    ],
)
def test_later_sources_win(
    tmp_path: Path, toml: str, environ: dict[str, str], flags: dict[str, str], port: int
) -> None:
    assert load(tmp_path, toml, environ, flags).server.port == port


def as_text(default: object) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_every_default_survives_every_source(tmp_path: Path) -> None:
    text = {key.path: as_text(key.default) for key in config_keys().values()}
    variables = {key.variable: as_text(key.default) for key in config_keys().values()}
    read = [load(tmp_path, to_toml(Config())), load_config(None, variables, {}), load_config(None, {}, text)]
    assert read == [Config()] * 3


def test_printed_configuration_reads_back_with_odd_text(tmp_path: Path) -> None:
    config = Config(server=ServerConfig(host='a"\\é😀\tb', port=7, drain_timeout_s=0.25, reflection=False))
    odd = dataclasses.replace(config, server=dataclasses.replace(config.server, host="::1"))
    assert load(tmp_path, to_toml(odd)) == odd
    assert '"a\\"\\\\é😀\\tb"' in to_toml(config)


@pytest.mark.parametrize(
    ("toml", "environ", "flags", "words"),
    [
        ("[server]\nprot = 1", {}, {}, ["server.prot", "did you mean server.port"]),
        ("[servr]\nport = 1", {}, {}, ["servr.port", "did you mean server.port"]),
        ("server = 1", {}, {}, ["unknown key server "]),
        ("[server.port]\nx = 1", {}, {}, ["server.port.x"]),
        ("", {"MASKLET_SERVER_PROT": "1"}, {}, ["MASKLET_SERVER_PROT", "did you mean MASKLET_SERVER_PORT"]),
        ("", {}, {"server.prot": "1"}, ["server.prot", "did you mean server.port"]),
        ("[server]\nport = '1x'", {}, {}, ["server.port is '1x'", "whole number", "masklet.toml"]),
        ("[server]\nport = 1.5", {}, {}, ["server.port is 1.5", "whole number"]),
        ("[server]\nport = true", {}, {}, ["server.port is True", "whole number"]),
        ("[server]\nhost = 1", {}, {}, ["server.host is 1", "text"]),
        ("[server]\nreflection = 1", {}, {}, ["server.reflection is 1", "true or false"]),
        ("[session]\ndefault_profile = 'x'", {}, {}, ["session.default_profile is 'x'", "interactive, vos"]),
        ("", {"MASKLET_SESSION_IDLE_TIMEOUT_S": "nan"}, {}, ["idle_timeout_s is 'nan'", "MASKLET_SESSION_IDLE"]),
        (f"[session]\nidle_timeout_s = 1{'0' * 400}", {}, {}, ["idle_timeout_s is 1000", "must be a number"]),
        ("[session]\nresume_key_file = 'k'\n[server]\nhost = \"a\\u0000\"", {}, {}, ["server.host has a NUL", "toml"]),
        (
            "[triton]\nendpoints = 5",
            {},
            {},
            ["endpoints is 5", "must be a list, each item text, or one"],
        ),
        ("", {"MASKLET_HOME": "/x"}, {}, ["unknown key MASKLET_HOME (environment); known: "]),
        ("[server]\nport = 65536", {}, {}, ["server.port is 65536", "0 to 65535", "masklet.toml"]),
        ("", {}, {"server.backend": "gpu"}, ["'gpu'", "embedded, fake, triton", "--server.backend"]),
        ("", {}, {"model.input_size": "100"}, ["model.input_size is 100", "divisible by 32"]),
        ("", {}, {"model.device": "tpu"}, ["'tpu'", "cuda:N"]),
    ],
)
def test_mistakes_name_the_key_the_limit_and_the_source(
    tmp_path: Path, toml: str, environ: dict[str, str], flags: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, toml, environ, flags)
    assert [word for word in words if word not in str(caught.value)] == []
    assert caught.value.field


def test_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"masklet\.toml is not a TOML file"):
        load(tmp_path, "[server")
    for text in ("[server]\nport = 1" + "0" * 5000, "x = " + "[" * 5000):  # too long, too deep for the parser
        with pytest.raises(ConfigError, match=r"masklet\.toml is not a TOML file"):
            load(tmp_path, text)


def test_a_file_may_begin_with_a_mark(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff[server]\nport = 1").server.port == 1


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        load_config(tmp_path / "none.toml", {}, {})


@pytest.mark.parametrize("text", ["true", "Yes", "on", "1"])
def test_booleans_in_the_environment(text: str) -> None:
    off = load_config(None, {"MASKLET_SERVER_REFLECTION": "off"}, {}).server.reflection
    assert (off, load_config(None, {"MASKLET_SERVER_REFLECTION": text}, {}).server.reflection) == (False, True)


def test_enums_are_read_as_members(tmp_path: Path) -> None:
    assert load(tmp_path, "[session]\ndefault_profile = 'vos'").session.default_profile is Profile.VOS


def test_kubernetes_service_links_are_not_settings() -> None:
    links = {
        "MASKLET_SERVICE_HOST": "10.0.0.1",
        "MASKLET_SERVICE_PORT_GRPC": "50051",
        "MASKLET_PORT": "tcp://10.0.0.1:50051",
        "MASKLET_SERVER_PORT": "tcp://10.0.0.1:50051",
        "MASKLET_PORT_50051_TCP_ADDR": "10.0.0.1",
    }
    assert load_config(None, links, {}) == Config()


def test_configuration_made_in_code_is_checked() -> None:
    check_config(Config())
    with pytest.raises(ConfigError, match=r"server\.port is -1, must be 0 to 65535 \(from code\)"):
        check_config(Config(server=ServerConfig(port=-1)))


def test_every_number_has_a_range_and_every_rule_a_key() -> None:
    keys = config_keys()
    numbers = {path for path, key in keys.items() if key.kind in (int, float)}
    assert numbers <= set(config_rules.RULES) <= set(keys)


def test_every_key_is_documented_and_every_variable_is_its_own() -> None:
    keys = list(config_keys().values())
    assert [key.path for key in keys if not key.summary] == []
    assert len({key.variable for key in keys}) == len(keys)


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1,)
    ca: Path | None = None
    colour: Colour | None = None


@dataclass(frozen=True)
class Section:
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Tree:
    brand_new: Section = field(default_factory=Section)


def test_new_sections_need_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_file, "Config", Tree)
    monkeypatch.setattr(config_file.config_keys, "__defaults__", (Tree,))
    environ = {"MASKLET_BRAND_NEW_INNER_NAMES": "a, b", "MASKLET_BRAND_NEW_INNER_CA": "/x"}
    got: object = load(tmp_path, "[brand_new.inner]\nsizes = [2, 3]\ncolour = 'red'", environ)
    assert got == Tree(Section(Inner(names=("a", "b"), sizes=(2, 3), ca=Path("/x"), colour=Colour.RED)))
    assert load(tmp_path, to_toml(typing.cast(Config, got))) == typing.cast(Config, got)


@pytest.mark.parametrize("sizes", ["[true]", "5", "'2,x'"])
def test_wrong_items_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: str) -> None:
    monkeypatch.setattr(config_file, "Config", Tree)
    monkeypatch.setattr(config_file.config_keys, "__defaults__", (Tree,))
    with pytest.raises(ConfigError, match=r"brand_new\.inner\.sizes"):
        load(tmp_path, f"[brand_new.inner]\nsizes = {sizes}")

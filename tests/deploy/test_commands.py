"""Commands of README.md, the runbooks, deploy/*.md and nano's page are taken, and find what they look for."""

from __future__ import annotations

import ast
import base64
import logging
import os
import re
import shlex
import shutil
import stat
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.prometheus import DEPLOY

from masklet import cli
from masklet.errors import error_classes
from masklet.observability.logs import KeyValueFormatter
from masklet.session.tokens import read_keys
from masklet_load import cli as load_cli

ROOT = DEPLOY.parent
SERVICE = ROOT / "service"
NANO = SERVICE / "masklet" / "training" / "recipes" / "nano.md"
PAGES = [ROOT / "README.md", NANO, *sorted(DEPLOY.rglob("*.md"))]
_LEVELS = {"log": 20, "debug": 10, "info": 20, "warning": 30, "error": 40, "exception": 40}
_NOT_NESTED = re.compile(r"\|(?![^(]*\))")


def code(page: Path) -> list[str]:
    """Its lines of code, whole: fenced as sh, indented, or within a sentence."""
    text = page.read_text().replace("\\\n", " ")
    fenced = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4,}(\S.*)$", text, flags=re.MULTILINE)
    return [line for block in fenced for line in block.splitlines()] + indented + mentioned(page)


def mentioned(page: Path) -> list[str]:
    """Code within its sentences."""
    return re.findall(r"`([^`\n]+)`", page.read_text())


def commands(program: str) -> list[tuple[str, str]]:
    """Of all pages: the page, and what is said to a program (a pattern), whatever stands before its name."""
    begins = re.compile(rf"(?:{program}) (?=[\w-])")
    return [(page.stem, line[found.end() :]) for page in PAGES for line in code(page) if (found := begins.match(line))]


def own_commands() -> list[tuple[str, str]]:
    """In containers, too."""
    return commands(
        r"(?:(?:kubectl|docker compose) .*\bexec \w+(?: --)? )?(?:\.venv/bin/)?masklet|torchrun .*-m masklet"
    )


def make_commands() -> list[tuple[str, str]]:
    return commands("make")


def load_commands() -> list[tuple[str, str]]:
    """Those of `make load` included."""
    by_make = [(page, arguments_of(line)) for page, line in make_commands() if line.startswith("load ")]
    return commands(r"(?:\.venv/bin/)?masklet-load") + by_make


def arguments_of(line: str) -> str:
    """What make gives on."""
    words = shlex.split(line, comments=True)
    return " ".join(word.removeprefix("ARGS=") for word in words if word.startswith("ARGS="))


def log_commands() -> list[tuple[str, str]]:
    """Of all pages: the page, and the command."""
    return [(page.stem, line) for page in PAGES for line in code(page) if re.search(r"\bkubectl .*\blogs\b", line)]


def log_patterns() -> list[tuple[str, str, bool]]:
    """What is looked for in masklet's own logs: page, one alternative, whether case matters. Triton's are left out."""
    found = []
    for page, line in log_commands():
        for words in (shlex.split(part, comments=True) for part in re.split(r" \| (?=[a-z])", line)):
            if words[:1] == ["grep"] and "TRITON_POD" not in line:
                flags = "".join(word for word in words[1:-1] if word.startswith("-"))
                found += [(page, one, "i" not in flags) for one in _NOT_NESTED.split(words[-1])]
    return found


@cache
def log_lines() -> list[str]:
    """All that the service may log, as it would be written but for the fields; what is filled in later is left out."""
    found = []
    for path in SERVICE.rglob("*.py"):
        logger = ".".join(path.relative_to(SERVICE).with_suffix("").parts)
        nodes: list[Any] = list(ast.walk(ast.parse(path.read_text())))
        for call in filter(_logs, nodes):
            said = call.args[1 if call.func.attr == "log" else 0]
            parts: list[Any] = [one for one in ast.walk(said) if isinstance(one, ast.Constant)]
            event = " ".join(str(one.value) for one in parts)
            record = logging.LogRecord(logger, _LEVELS[call.func.attr], "", 0, event, (), None)
            found.append(KeyValueFormatter().format(record))
    return found + [f"reason={reason}" for reason in error_classes()]


def _logs(node: Any) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LEVELS):
        return False
    return isinstance(node.func.value, ast.Name) and node.func.value.id.lower() == "_log"


def test_commands_and_log_lines_are_found():
    assert {"README", "nano"} < {page for page, _ in own_commands()}
    assert len(own_commands()) > 20
    assert len(make_commands()) > 10
    assert len(load_commands()) > 5
    assert len(log_commands()) > 10
    assert len(log_patterns()) > 10
    assert len(log_lines()) > 30


@pytest.mark.parametrize(("page", "line"), own_commands())
def test_masklet_takes_the_commands_as_they_are(page, line, capsys):
    try:
        cli._parse(shlex.split(line, comments=True))
    except SystemExit as end:  # help ends it, too
        named = {word for one in PAGES for word in mentioned(one) if word.endswith(f"masklet {line}")}
        assert not end.code or (named and "arguments are required" in capsys.readouterr().err), page  # in a sentence


@pytest.mark.parametrize(("page", "line"), load_commands())
def test_masklet_load_takes_the_commands_as_they_are(page, line):
    words = [word for word in shlex.split(line, comments=True) if word != "..."]
    try:
        load_cli._scenario(load_cli._parser().parse_args(words))
    except SystemExit as end:
        assert not end.code, page


@pytest.mark.parametrize(("page", "line"), make_commands())
def test_make_has_the_target(page, line):
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert "setup" in targets
    assert line.split()[0] in targets, page


@pytest.mark.parametrize(("page", "pattern", "cased"), log_patterns())
def test_what_runbooks_look_for_in_logs_is_logged(page, pattern, cased):
    matcher = re.compile(pattern, 0 if cased else re.IGNORECASE)
    assert [line for line in log_lines() if matcher.search(line)], page


def test_all_alternatives_in_a_level_are_levels():
    levels = {line.partition("level=")[2].partition(" ")[0] for line in log_lines()}
    looked_for = [
        name
        for _, one, _ in log_patterns()
        for group in re.findall(r"level=\(?([\w|]+)", one)
        for name in group.split("|")
    ]
    assert looked_for
    assert set(looked_for) <= levels


def test_logs_of_many_pods_are_asked_for_whole():
    """With a selector kubectl gives the last ten lines of each pod."""
    selected = [line for _, line in log_commands() if re.search(r" (-l|--selector)\b", line)]
    assert selected
    for line in selected:
        assert "--tail=-1" in line and "--since=" in line, line


def test_a_new_key_can_be_read_by_nobody_else(tmp_path):
    if not shutil.which("openssl"):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs openssl: apt-get install openssl")
    (command,) = [line for line in code(DEPLOY / "operating.md") if "openssl" in line]
    assert command.startswith("(umask 077;")  # before anything is written
    (tmp_path / "keys").write_text("0" * 64 + "\n")
    (tmp_path / "keys.new").write_text("left behind")
    (tmp_path / "keys.new").chmod(0o644)
    subprocess.run(["bash", "-c", f"umask 022; {command}"], cwd=tmp_path, check=True, timeout=20)
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    old, new = read_keys(tmp_path / "keys")
    assert old == bytes(32) != new


def test_keys_in_a_secret_are_fetched_put_back_and_left_nowhere(tmp_path):
    wanted = re.compile(r"\(umask.* kubectl|kubectl .*-keys|rm keys$")
    fetch, put, remove = [line for line in code(DEPLOY / "operating.md") if wanted.match(line)]
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(_KUBECTL)
    kubectl.chmod(0o755)
    (tmp_path / "secret").write_text("b2xkCg==")
    environment = {**os.environ, "PATH": f"{kubectl.parent}:{os.environ['PATH']}"}

    def run(command):
        subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True, timeout=20)

    run(fetch)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    with (tmp_path / "keys").open("a") as keys:
        keys.write("new\n")
    run(put)
    run(remove)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "secret"]
    assert base64.b64decode((tmp_path / "secret").read_text()) == b"old\nnew\n"


_KUBECTL = """#!/bin/bash
[[ "$1 $2" == "-n masklet" ]] && shift 2
case "$1" in
get) cat secret ;;
create) [[ " $* " == *" --from-file=keys "* && " $* " == *" --dry-run=client "* ]] && base64 -w0 keys ;;
replace) cat > secret ;;
*) exit 1 ;;
esac
"""

"""On which device `masklet triton` has the model run."""

from __future__ import annotations

import argparse

import pytest

from masklet.cli import main, triton


@pytest.mark.parametrize(
    ("flags", "variable", "gpu"),
    [
        ([], "", False),
        ([], "auto", False),
        ([], "cuda", True),
        ([], "cuda:1", True),
        (["--device=cuda"], "", True),
        (["--device=cuda"], "cpu", True),
        (["--device=cpu"], "cuda", False),
    ],
)
def test_flag_and_environment_say_it_the_flag_wins(monkeypatch, flags, variable, gpu):
    monkeypatch.setenv("MASKLET_MODEL_DEVICE", variable)
    parser = argparse.ArgumentParser()
    triton.add_parser(parser.add_subparsers())
    assert triton._options(parser.parse_args(["triton", *flags])).gpu is gpu


def test_the_help_says_what_auto_is(capsys):
    with pytest.raises(SystemExit):
        main(["triton", "--help"])
    assert '"auto", the default, is the CPU here' in " ".join(capsys.readouterr().out.split())

"""On which device `masklet triton` has the model run."""

from __future__ import annotations

import argparse

import pytest

from masklet.cli import main, triton


@pytest.mark.parametrize(
    ("flags", "variable", "gpu"),
    [
        ([], "", None),
        ([], "auto", None),
        ([], "cuda", 0),
        ([], "cuda:1", 1),
        (["--device=cuda"], "", 0),
        (["--device=cuda:12"], "cpu", 12),
        (["--device=cpu"], "cuda", None),
    ],
)
def test_flag_and_environment_say_it_the_flag_wins(monkeypatch, flags, variable, gpu):
    monkeypatch.setenv("MASKLET_MODEL_DEVICE", variable)
    parser = argparse.ArgumentParser()
    triton.add_parser(parser.add_subparsers())
    assert triton._options(parser.parse_args(["triton", *flags])).gpu == gpu


def test_the_help_says_what_auto_is(capsys):
    with pytest.raises(SystemExit):
        main(["triton", "--help"])
    assert '"auto", the default, is the CPU here' in " ".join(capsys.readouterr().out.split())

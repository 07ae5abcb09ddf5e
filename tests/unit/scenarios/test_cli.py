"""`gossamer swarm` refuses before it starts anything: one clear line, an exit code, and nothing is changed."""

import pytest

from scenarios import cli


@pytest.fixture
def never(monkeypatch):
    def run(*_, **__):
        raise AssertionError("nothing may be started")

    monkeypatch.setattr(cli, "run", run)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ({"scenario": "quikstart"}, 2, "did you mean quickstart?"),
        ({"scenario": "no/such.toml"}, 2, "no such file"),
        ({"nodes": 2}, 2, "2 are too few"),
        ({"nodes": 9}, 2, "--nodes 9: expected 1 to 8"),
        ({"rounds": 0}, 2, "--rounds 0"),
        ({"seed": -1}, 2, "--seed -1"),
        ({"scenario": "faults", "rounds": 4}, 2, "fault[0].round: 5 is beyond the 4 rounds"),
    ],
)
def test_what_the_command_line_cannot_have_is_a_usage_error(never, capsys, arguments, code, words):
    chosen = dict(arguments)
    positional = [chosen.pop("scenario")] if "scenario" in chosen else []
    assert cli.swarm(*positional, **chosen) == code
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("gossamer: ")
    assert words in line


def test_a_broken_file_is_a_bad_config(never, capsys, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("name = 3\n")
    assert cli.swarm(str(path)) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "mine.toml" in line


def test_a_report_that_could_not_be_written_is_refused_before_the_run(never, capsys, tmp_path):
    assert cli.swarm(json=tmp_path / "no folder" / "r.json") == 2
    assert cli.swarm(json=tmp_path) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_folder_with_anything_in_it_is_not_taken_for_the_homes(monkeypatch, capsys, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    assert cli.swarm(keep=tmp_path) == 2
    assert "not empty" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [precious]

"""The page of a simulation: right medians, nothing from elsewhere, and no figure where there was no result."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from scenarios.reports.charts import (
    BY_KIND,
    GRID,
    OVER_BYTES,
    OVER_TIME,
    accuracy_over_bytes,
    accuracy_over_time,
    band,
    bytes_by_kind,
    bytes_in_words,
    in_words,
    parts_of_sent,
)
from scenarios.reports.page import commands, headline, page_of, reach, tiles, write_page
from scenarios.reports.processes import ReportError
from scenarios.reports.virtual import Point, RunReport, SimulationReport

PNG = b"\x89PNG\r\n\x1a\n"


def run(algorithm="gossamer", seed=0, **changes):
    fields = {
        "algorithm": algorithm,
        "seed": seed,
        "masks": True,
        "reached": True,
        "time_s": 41.0,
        "bytes_per_device": 210_000.0,
        "local_steps_per_device": 80.0,
        "final_accuracy": 0.81,
        "worst_accuracy": 0.7,
        "rounds": 10,
        "trace_sha256": f"{seed:064x}",
        "wall_s": 3.0,
        "training_wall_s": 2.0,
        "sent_per_device": 100_000.0,
        "sent_by_kind": {"MASKED": 80_000.0, "SHARES": 5_000.0},
        "events": 1000,
        "problem": "",
        "curve": [Point(1.0, 500.0, 0.1, 0.05, 0.01), Point(41.0, 210_000.0, 0.81, 0.75, 0.7)],
    }
    return RunReport(**fields | changes)


def report(*runs, target=0.8, scenario="test"):
    return SimulationReport(scenario, 100, target, "strangers", list(runs))


def seeds(algorithm, times, **changes):
    """A run a time, with 1000 bytes a second; None: one that did not reach the target in 5000 s."""
    return [
        run(
            algorithm,
            seed,
            reached=time_s is not None,
            time_s=time_s or 5000.0,
            bytes_per_device=1000 * (time_s or 5000.0),
            **changes,
        )
        for seed, time_s in enumerate(times)
    ]


class Reader(HTMLParser):
    """What a person reads, the cells of the tables, and every address in the page."""

    def __init__(self):
        super().__init__()
        self.words, self.cells, self.addresses, self.tags, self._hidden = [], [], [], [], 0

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._hidden += tag in {"style", "svg"}
        self.addresses += [value for name, value in attrs if name in {"src", "href", "xlink:href", "srcset"}]
        if tag in {"td", "th"}:
            self.cells.append("")

    def handle_endtag(self, tag):
        self._hidden -= tag in {"style", "svg"}

    def handle_data(self, data):
        if self._hidden:
            return
        self.words.append(data)
        if self.cells:
            self.cells[-1] += data


def read(page):
    reader = Reader()
    reader.feed(page)
    return " ".join(" ".join(reader.words).split()), [" ".join(cell.split()) for cell in reader.cells], reader


def without_charts(shown):
    """Drawing takes a second."""
    return read(page_of(shown, {OVER_TIME: None, OVER_BYTES: None, BY_KIND: None}))


def test_the_page_and_its_pictures_are_written(tmp_path):
    folder = tmp_path / "new" / "folder"
    written = write_page(report(*seeds("gossamer", [40, 41]), *seeds("fedavg", [900, 1204])), folder)
    assert [path.name for path in written] == [
        "index.html",
        "accuracy-over-time.png",
        "accuracy-over-bytes.png",
        "bytes-by-kind.png",
    ]
    assert sorted(folder.iterdir()) == sorted(written)
    for path in written[1:]:
        assert path.read_bytes().startswith(PNG)
        assert path.stat().st_size > 5000


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    shown = report(*seeds("gossamer", [40, 41]), *seeds("fedavg", [900]))
    page = write_page(shown, tmp_path)[0].read_text(encoding="utf-8")
    _, _, reader = read(page)
    assert reader.tags.count("svg") == 6
    assert reader.addresses
    assert all(address.startswith(("#", "data:")) for address in reader.addresses)
    assert not {"script", "img", "iframe", "object", "embed"} & set(reader.tags)
    assert not re.search(r"@import|url\((?!#)", page)
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {"http://www.w3.org/1999/xlink"}


def test_the_same_report_makes_the_same_charts():
    shown = report(*seeds("gossamer", [40, 41]))
    assert bytes_by_kind(shown) == bytes_by_kind(shown)


def test_nothing_in_a_report_becomes_markup(tmp_path):
    evil = "<script>alert('$x$')</script>\"&"
    strange = run(
        evil,
        trace_sha256=evil,
        problem=evil,
        sent_by_kind={evil: 90_000.0},
        parameters={evil: evil},
        crypto=evil,
    )
    gossamer = run(sent_by_kind={evil: 90_000.0})
    shown = SimulationReport(evil, 3, 0.8, evil, [gossamer, strange])
    page = write_page(shown, tmp_path)[0].read_text(encoding="utf-8")
    words, _, reader = read(page)
    assert "script" not in reader.tags
    assert "<script" not in page
    assert evil in words


def test_medians_are_over_seeds():
    shown = report(
        *seeds("gossamer", [44, 40, 41], parameters={"rate": 0.05}),
        *seeds("fedavg", [1000, 2000], broadcast_bytes=400_000.0),
    )
    words, cells, _ = without_charts(shown)
    assert "gossamer: 41 s and 41 KB a device." in words
    assert "fedavg: 1,500 s and 1.5 MB a device." in words
    assert "97.2 % less time than fedavg 97.2 % fewer bytes a device than fedavg" in words
    assert "The bytes of fedavg include 0.4 MB" in words
    begin = cells.index("gossamer")
    assert cells[begin : begin + 12] == [
        "gossamer",
        "3 of 3",
        "41 s40 s to 44 s",
        "41 KB40 KB to 44 KB",
        "80",
        "10",
        "81.0 %",
        "75.0 %",
        "70.0 %median 70.0 %",
        "3 straining 2 s",
        "0.027",
        "0.027",
    ]
    assert "rate" in words


@pytest.mark.parametrize(("mine", "told"), [(104.0, "89.6 %"), (40.01, "95.9 %"), (1e-9, "99.9 %")])
def test_a_saving_is_never_rounded_up(mine, told):
    shown = report(*seeds("gossamer", [mine]), *seeds("fedavg", [1000.0]))
    assert [tile.figure for tile in tiles(shown)] == [told, told]


def test_what_costs_more_or_as_much_is_said_so():
    more, _ = tiles(report(*seeds("gossamer", [2400]), *seeds("fedavg", [1000])))
    assert (more.figure, more.words, more.good) == ("2.4 times", "the time of fedavg", False)
    same, _ = tiles(report(*seeds("gossamer", [1001]), *seeds("fedavg", [1000])))
    assert (same.figure, same.words, same.good) == ("as much", "time as fedavg", False)


def test_a_run_that_did_not_reach_the_target_shows_no_time():
    shown = report(*seeds("gossamer", [41]), *seeds("fedavg", [None, None]))
    words, cells, _ = without_charts(shown)
    assert "fedavg: not reached in 5,000 s." in words
    assert words.count("5,000 s") == words.count("not reached in 5,000 s") == 4  # headline, table, two traces
    assert words.count("5 MB") == words.count("not reached in 5 MB") == 1
    assert "less time" not in words
    begin = cells.index("fedavg")
    assert cells[begin + 1 : begin + 4] == ["0 of 2", "not reached in 5,000 s", "not reachedin 5 MB"]
    assert cells[begin + 10] == "-"


def test_a_median_needs_more_than_half_of_the_seeds():
    half = reach(seeds("fedavg", [900, None]), lambda run: run.time_s)
    assert half.median is None
    most = reach(seeds("fedavg", [900, 1000, None]), lambda run: run.time_s)
    assert most.median == 1000
    words, cells, _ = without_charts(
        report(*seeds("gossamer", [40, None]), *seeds("fedavg", [900, 1000, None]))
    )
    assert "gossamer: not reached in 5,000 s (1 of 2 seeds reached it)." in words
    assert "not reached in 5,000 sthe best seed: 40 s" in cells
    assert "fedavg: 1,000 s and 1 MB a device (2 of 3 seeds reached it)." in words
    assert "1,000 s900 s to 1,000 s; 1 not reached in 5,000 s" in cells


def test_without_a_target_the_figures_are_of_the_end():
    shown = report(run(reached=False), run("fedavg", reached=False, final_accuracy=0.6), target=None)
    words, _, _ = without_charts(shown)
    assert "gossamer: 81.0 % after 41 s and 0.21 MB a device." in words
    assert "100 devices, no target" in words
    assert "reached" not in words
    assert not tiles(shown)


def test_without_fedavg_the_quickest_other_is_compared():
    shown = report(*seeds("topk", [900]), *seeds("gossamer", [40]), *seeds("ftte", [100]))
    assert headline(shown)[1].startswith("ftte")
    assert headline(report(*seeds("fedavg", [100]), *seeds("topk", [90])))[0].startswith("topk")


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([run()], []),
        ([run(masks=False)], ["gossamer: nothing hid these updates"]),
        ([run(), run("fedavg", masks=False)], ["fedavg: each update was sent in the clear."]),
        ([run(), run(seed=1, crypto="sized")], ["gossamer: no signature was checked"]),
        ([run(seed=3, problem="no device came further")], ["gossamer, seed 3", "no device came further."]),
    ],
)
def test_what_was_not_real_stands_above_all_figures(runs, told):
    words, _, reader = without_charts(report(*runs))
    above = words[: words.index("100 devices, until")]
    for words_ in told:
        assert words_ in above
    assert (reader.tags.index("p") < reader.tags.index("h1")) == bool(told)


def test_no_runs_make_a_clear_page(tmp_path):
    (tmp_path / "bytes-by-kind.png").write_bytes(b"of an earlier report")
    shown = report()
    assert write_page(shown, tmp_path) == [tmp_path / "index.html"]
    assert list(tmp_path.iterdir()) == [tmp_path / "index.html"]
    words, _, _ = without_charts(shown)
    assert "There is no run in this report" in words


def test_runs_without_curves_keep_their_table(tmp_path):
    page = write_page(report(run("fedavg", curve=[])), tmp_path)[0].read_text(encoding="utf-8")
    words, cells, _ = read(page)
    assert "These runs hold no curves." in words
    assert "No run of Gossamer" in words
    assert "fedavg" in cells


def test_an_algorithm_that_sends_nothing_is_drawn():
    silent = [Point(float(at), 0.0, 0.5, 0.4, 0.3) for at in (1, 2)]
    alone = run("local", bytes_per_device=0.0, curve=silent, sent_by_kind={}, sent_per_device=0.0)
    assert accuracy_over_bytes(report(alone)) is None
    drawn = accuracy_over_bytes(report(run(), alone))
    assert drawn is not None
    assert "var(--local)" in drawn.wide
    assert "var(--local)" in drawn.narrow


def test_one_point_is_a_curve():
    assert accuracy_over_time(report(run(curve=[Point(1.0, 1.0, 0.5, 0.5, 0.5)]))) is not None
    assert accuracy_over_time(report(run(curve=[Point(0.0, 0.0, 0.5, 0.5, 0.5)]))) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ReportError, match=r"taken: the report cannot be written"):
        write_page(report(), tmp_path / "taken")


def test_curves_meet_as_step_functions():
    first = (np.array([1.0, 10.0]), np.array([0.1, 0.5]))
    second = (np.array([2.0, 100.0]), np.array([0.3, 0.9]))
    found = band([first, second], 0.5)
    assert (found.x[0], found.x[-1]) == (2.0, 100.0)

    def at(x):
        index = np.searchsorted(found.x, x, side="right") - 1
        return [float(values[index]) for values in (found.low, found.middle, found.high)]

    assert at(9.0) == pytest.approx([0.1, 0.2, 0.3])
    assert at(99.0) == pytest.approx([0.3, 0.4, 0.5])
    assert at(100.0) == pytest.approx([0.5, 0.7, 0.9])
    assert found.x.size < GRID / 10
    assert band([first], 11.0).x.size == 0


def test_the_bytes_add_up():
    parts = parts_of_sent([run(), run(seed=1, sent_by_kind={"MASKED": 40_000.0}, sent_per_device=60_000.0)])
    assert parts == [("MASKED", 60_000.0), ("SHARES", 2_500.0), ("encryption and libp2p", 17_500.0)]
    many = parts_of_sent([run(sent_by_kind={f"K{index:02}": 100.0 + index for index in range(13)})])
    assert many[10] == ("3 smaller kinds", 303.0)
    assert sum(size for _, size in many) == 100_000.0


def test_numbers_have_three_digits():
    assert [in_words(value) for value in (0.0, 0.1234, 40.0, 99.96, 1204.4)] == [
        "0",
        "0.123",
        "40",
        "100",
        "1,204",
    ]
    sizes = [bytes_in_words(size) for size in (12.0, 13_000.0, 210_000.0, 2.9e6, 999.9e6, 4e9)]
    assert sizes == ["12 B", "13 KB", "0.21 MB", "2.9 MB", "1,000 MB", "4 GB"]


def test_the_command_repeats_each_stretch_of_seeds():
    shown = report(run(seed=3), run(seed=4), run("fedavg", seed=9), scenario="my own.toml")
    again = "gossamer simulate 'my own.toml' --nodes 100 {} --algorithm gossamer,fedavg --until-accuracy 0.8 --report report"
    assert commands(shown) == [again.format("--seed 3 --seeds 2"), again.format("--seed 9 --seeds 1")]

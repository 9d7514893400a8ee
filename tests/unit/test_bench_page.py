"""A run of the benchmarks replaces its own rows in the page's table, and no other."""

from tests.bench.page import PAGE, updated

ROW = {"unit": "s", "ours": 1.5, "peer": 3.0, "goal": 2.0, "met": True, "name": "a copy"}


def test_a_run_replaces_the_rows_of_what_it_measured():
    page = "# Head\n\n<!-- figures: made by `make bench` -->\n<!-- figures end -->\n\nThe rest.\n"
    page = updated(
        page, {"warm": [ROW], "copying": [ROW, {**ROW, "name": "another", "peer": None}]}
    )
    assert page.startswith("# Head\n")
    assert page.endswith("\nThe rest.\n")
    again = updated(page, {"copying": [{**ROW, "ours": 9.0, "met": False}]})
    rows = [line for line in again.splitlines() if line.startswith("|")][2:]
    assert rows == [
        "| copying | a copy | 9 s | 3 s | 2 s | no |",
        "| warm | a copy | 1.5 s | 3 s | 2 s | yes |",
    ]
    assert updated(again, {}) == again


def test_the_page_has_its_table():
    page = PAGE.read_text()
    assert updated(page, {}) == page

# SPDX-License-Identifier: Apache-2.0
"""Loading from local files, a web server and a repository laid out as on the Hub."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkick_plugin.data import freebaseqa, sources, triviaqa, wikitext
from lmkick_plugin.data.columns import positive
from lmkick_plugin.data.sources import DataError, HubFiles, Source, WebFile, load_rows, locate

HUB = HubFiles("someone/data", "all/test-*")
SOURCE = Source("set/rows.jsonl", ("text", "answer.name"), HUB)
ROWS = [{"text": f"line\u2028{n}\u0085", "answer": {"name": n}} for n in range(3)]


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def json_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


# --- local files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_local_rows(tmp_path: Path, ending: str) -> None:
    content = json_lines(ROWS) + b"\n"
    write(tmp_path, f"set/rows.jsonl{ending}", gzip.compress(content) if ending else content)
    assert list(load_rows(SOURCE, tmp_path)) == ROWS
    assert list(load_rows(SOURCE, str(tmp_path))) == ROWS


def test_plain_file_comes_before_gzip(tmp_path: Path) -> None:
    write(tmp_path, "set/rows.jsonl", json_lines(ROWS[:1]))
    write(tmp_path, "set/rows.jsonl.gz", gzip.compress(json_lines(ROWS)))
    assert list(load_rows(SOURCE, tmp_path)) == ROWS[:1]


def test_directory_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/set/rows.jsonl", json_lines(ROWS))
    write(tmp_path, "b/set/rows.jsonl", json_lines(ROWS[:2]))
    monkeypatch.setenv("LMKICK_DATA_DIR", str(tmp_path / "a"))
    assert len(list(load_rows(SOURCE))) == 3
    assert len(list(load_rows(SOURCE, ""))) == 3
    assert len(list(load_rows(SOURCE, tmp_path / "b"))) == 2
    monkeypatch.setenv("LMKICK_DATA_DIR", "")
    assert locate(SOURCE).path is None


def test_directory_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "d/set/rows.jsonl", json_lines(ROWS))
    monkeypatch.chdir(tmp_path)
    assert locate(SOURCE, "d").path == tmp_path / "d" / "set" / "rows.jsonl"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no rows"),
        (b"\n\n", "no rows"),
        (b'{"text": "a", "answer": {"name": 1}}\n{"text": ', "line 2: not JSON"),
        (b'["text"]\n', "line 1: not a JSON object"),
        (b'{"text": "a"}\n', "line 1: no field 'answer.name'; fields: 'text'"),
        (b'{"text": "a", "answer": {}}\n', "no field 'answer.name'"),
        (b'{"text": "a", "answer": "name"}\n', "no field 'answer.name'"),
        (b'{"answer": {"name": 1}}\n', "no field 'text'"),
        ('{"text": "\u00e9"}'.encode("latin-1"), "not UTF-8"),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_damaged_files(tmp_path: Path, content: bytes, said: str, ending: str) -> None:
    packed = gzip.compress(content) if ending else content
    path = write(tmp_path, f"set/rows.jsonl{ending}", packed)
    with pytest.raises(DataError) as refusal:
        list(load_rows(SOURCE, tmp_path))
    assert str(path) in str(refusal.value)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "content", [b"no gzip at all", gzip.compress(json_lines(ROWS) * 500)[:-40]]
)
def test_damaged_gzip(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, "set/rows.jsonl.gz", content)
    with pytest.raises(DataError, match="cannot be read after line") as refusal:
        list(load_rows(SOURCE, tmp_path))
    assert str(path) in str(refusal.value)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as refusal:
            locate(SOURCE, folder)
        for part in (str(folder), "set/rows.jsonl", "someone/data"):
            assert part in str(refusal.value)


def test_origin_changes_with_the_file(tmp_path: Path) -> None:
    write(tmp_path, "set/rows.jsonl", json_lines(ROWS))
    before = locate(SOURCE, tmp_path)
    assert locate(SOURCE, tmp_path) == before
    assert hash(locate(SOURCE, tmp_path)) == hash(before)
    write(tmp_path, "set/rows.jsonl", json_lines(ROWS[:2]))
    assert locate(SOURCE, tmp_path) != before


# --- the Hub --------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data set cache."""
    import datasets

    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


@pytest.mark.usefixtures("hub_cache")
def test_a_repository_laid_out_as_on_the_hub(tmp_path: Path) -> None:
    import datasets

    repository = tmp_path / "data"
    (repository / "all").mkdir(parents=True)
    for split, rows in (("test", ROWS), ("train", ROWS * 9)):
        table = datasets.Dataset.from_list([{**row, "unused": 1} for row in rows])
        table.to_parquet(repository / "all" / f"{split}-00000-of-00001.parquet")
    # The README of such a repository describes all splits; only one of them is read.
    splits = "".join(
        f"  - split: {split}\n    path: all/{split}-*\n" for split in ("train", "test")
    )
    readme = f"---\nconfigs:\n- config_name: all\n  data_files:\n{splits}---\n"
    (repository / "README.md").write_text(readme, encoding="utf-8")
    source = Source("set/rows.jsonl", SOURCE.fields, HubFiles(str(repository), "all/test-*"))
    assert list(load_rows(source)) == ROWS
    with pytest.raises(DataError, match="row 0: no field 'label'"):
        list(load_rows(Source("set/rows.jsonl", ("text", "label"), source.remote)))


@pytest.mark.usefixtures("hub_cache")
def test_no_network_names_the_data_and_the_local_way() -> None:
    with pytest.raises(DataError) as refusal:
        list(load_rows(SOURCE))
    message = str(refusal.value)
    for part in ("someone/data", "set/rows.jsonl", "text, answer.name", "LMKICK_DATA_DIR"):
        assert part in message


# --- a file of the web ----------------------------------------------------------------------------


class Server:
    """An HTTP server on 127.0.0.1 that answers as told and counts requests."""

    def __init__(self) -> None:
        self.answers: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_HEAD()

            def do_HEAD(self) -> None:
                answer = outer.answers[min(outer.requests, len(outer.answers) - 1)]
                outer.requests += 1
                answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/Some-eval.json"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        if not self.thread.is_alive():
            return
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def sends(content: bytes, *, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content)

    return answer


@pytest.fixture
def server(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    import datasets

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", hub_cache / "downloads")
    running = Server()
    yield running
    running.close()


GOOD = json.dumps({"Dataset": "x", "Questions": ROWS}).encode()


def web_source(url: str, field: str | None = "Questions") -> Source:
    return Source("set/rows.jsonl", SOURCE.fields, WebFile(url, rows=3, field=field))


@pytest.mark.parametrize("field", ["Questions", None])
def test_a_file_of_the_web(server: Server, field: str | None) -> None:
    server.answers = [sends(GOOD if field else json_lines(ROWS))]
    assert list(load_rows(web_source(server.url, field))) == ROWS
    server.close()
    assert list(load_rows(web_source(server.url, field))) == ROWS  # from the cache


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (sends(b"gone", status=404), "FileNotFoundError"),
        (sends(b"<html>"), "unexpected content.*delete it"),
        (sends(b'{"Other": []}'), "unexpected content.*delete it"),
        (sends(json.dumps({"Questions": ROWS[:2]}).encode()), "2 rows instead of 3.*delete it"),
    ],
)
def test_a_file_of_the_web_that_will_not_do(server: Server, answer: Any, said: str) -> None:
    server.answers = [answer]
    with pytest.raises(DataError, match=said) as refusal:
        list(load_rows(web_source(server.url)))
    assert server.url in str(refusal.value)
    assert "set/rows.jsonl" in str(refusal.value)


@pytest.mark.usefixtures("server")
def test_nobody_answers() -> None:
    with pytest.raises(DataError, match="FileNotFoundError"):
        list(load_rows(web_source("http://127.0.0.1:9/Some-eval.json")))


def test_freebaseqa_from_its_url(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"RawQuestion": "Who?", "Parses": [{"Answers": [{"AnswersName": ["x", "y"]}]}]}
    content = json.dumps({"Dataset": "FreebaseQA-eval", "Questions": [row] * 3_996}).encode()
    server.answers = [sends(content)]
    assert isinstance(freebaseqa.EVAL.remote, WebFile)
    remote = replace(freebaseqa.EVAL.remote, url=server.url)
    monkeypatch.setattr(freebaseqa, "EVAL", replace(freebaseqa.EVAL, remote=remote))
    table = freebaseqa.load()["eval"]
    assert (len(table), table[0]) == (3_996, {"question": "Who?", "aliases": ["x", "y"]})


# --- what is made of the rows ---------------------------------------------------------------------


@given(st.text(alphabet=" ab\n", max_size=30), st.integers(1, 32))
def test_cut_at_word_end(text: str, limit: int) -> None:
    cut = triviaqa.cut_at_word_end(text, limit)
    assert text.startswith(cut)
    assert len(cut) <= limit
    if len(text) <= limit:
        assert cut == text
    elif " " in text[:limit].strip() or "\n" in text[:limit].strip():
        words = text.split()
        assert cut.split() == words[: len(cut.split())]  # no word is cut
        following = words[len(cut.split()) :]
        # The next word would not have fitted.
        assert not following or not text[: limit + 1].split()[len(cut.split()) + 1 :]


@pytest.mark.parametrize("value", [5, "5", "5.0", 5.9])
def test_sizes_of_the_command_line(value: object) -> None:
    assert positive("evidence_chars", value) == 5


@pytest.mark.parametrize("value", [0, -1, "x", None, float("nan"), float("inf"), 0.5])
def test_sizes_that_make_no_sense(value: object) -> None:
    with pytest.raises(DataError, match="evidence_chars"):
        positive("evidence_chars", value)


def test_articles_begin_at_titles_of_the_first_level() -> None:
    rows = ["", " = A = \n", "", " x = y \n", " = = B = = \n", " = = = C = = = \n", " = D = \n"]
    found = wikitext.split(rows)
    assert [article.page for article in found] == [
        " = A = \n \n x = y \n = = B = = \n = = = C = = = ",
        " = D = \n",
    ]
    text = "\n\n".join(rows)
    assert [text[article.start :].split("\n")[0] for article in found] == [" = A = ", " = D = "]


def test_every_row_is_an_article_where_there_is_no_heading() -> None:
    rows = ["one row \n", "another = row", " = = part = = \n"]
    found = wikitext.split(rows)
    assert [article.page for article in found] == ["one row ", "another = row", " = = part = = \n"]
    text = "\n\n".join(rows)
    assert all(text.startswith(one.page, one.start) for one in found)
    assert len({article.name for article in found}) == 3


def test_load_rows_is_the_public_way() -> None:
    assert set(sources.__all__) >= {"DataError", "Source", "load_rows", "locate"}

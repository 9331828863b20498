"""Reading and fetching the authors' raw outputs."""

import functools
import http.server
import threading

import pytest
from kit import need

from reproduce_kit.core import KitError
from reproduce_kit.studies.lion_vs_adamw.raw_outputs import (
    author_topic_values,
    fetch_raw_outputs,
    read_raw_outputs,
    read_topic_outputs,
)
from reproduce_kit.studies.lion_vs_adamw.study import author_results, study_table


def test_the_numbers_that_ship_equal_the_files():
    files = read_raw_outputs(need('paper-authors'))
    shipped = author_results()
    assert len(shipped) == 18
    assert (files.loc[shipped.index, shipped.columns] == shipped).all().all()


def test_the_topics_that_ship_equal_the_files():
    shipped = author_topic_values()
    files = read_topic_outputs(need('paper-authors'))
    assert shipped.keys() == files.keys()
    for key, table in shipped.items():
        assert (files[key][table.columns].loc[table.index] == table).all().all()


def test_a_malformed_summary_is_named(tmp_path):
    summary = tmp_path / 'eval_results/gte/Lion/ep1.json'
    summary.parent.mkdir(parents=True)
    summary.write_text('{}')
    with pytest.raises(KitError, match=r"ep1.json: not trec_eval's summary as JSON \(KeyError"):
        read_raw_outputs(tmp_path)


def test_a_misplaced_summary_is_named_with_the_nearest_backbone(tmp_path):
    summary = tmp_path / 'eval_results/gtee/Lion/ep1.json'
    summary.parent.mkdir(parents=True)
    summary.write_text('{}')
    with pytest.raises(KitError, match="expected BACKBONE/OPTIMIZER/epN.json; did you mean 'gte'"):
        read_raw_outputs(tmp_path)


def test_a_folder_without_summaries_is_an_error(tmp_path):
    (tmp_path / 'eval_results').mkdir()
    with pytest.raises(KitError, match='holds no epN.json'):
        read_raw_outputs(tmp_path)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def changed_server(tmp_path):
    """A server whose first file is not the audited one."""
    first = tmp_path / 'server' / study_table('raw_files')['path'][0]
    first.parent.mkdir(parents=True)
    first.write_text('{}')
    handler = functools.partial(QuietHandler, directory=tmp_path / 'server')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_changed_file_is_rejected_and_nothing_is_written(changed_server, tmp_path):
    folder = tmp_path / 'home'
    folder.mkdir()
    with pytest.raises(KitError, match='is not the file that was audited'):
        fetch_raw_outputs(folder, f'http://127.0.0.1:{changed_server.server_port}')
    assert list(folder.iterdir()) == []


def test_an_unreachable_server_is_an_error_with_a_remedy(changed_server, tmp_path):
    changed_server.shutdown()
    changed_server.server_close()
    with pytest.raises(KitError, match='cannot be fetched .* from the numbers that ship'):
        fetch_raw_outputs(tmp_path, f'http://127.0.0.1:{changed_server.server_port}')

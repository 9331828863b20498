"""`reproduce data` says what is here, and fetches only what it can verify."""

import json

from kit import need, reproduce


def test_an_empty_folder_has_every_file_missing(tmp_path):
    answer = json.loads(reproduce('data', 'list', '--json', env=dict(KIT_DATA=tmp_path)).stdout)
    assert {file['state'] for file in answer} == {'missing'}
    assert all(file['source'] and len(file['sha256']) == 64 for file in answer)


def test_a_changed_file_is_reported(tmp_path):
    folder = tmp_path / 'trec_eval'
    folder.mkdir()
    (folder / 'qrels.test').write_text('changed')
    answer = json.loads(reproduce('data', 'list', '--json', env=dict(KIT_DATA=tmp_path)).stdout)
    assert {f['path'] for f in answer if f['state'] == 'differs'} == {'trec_eval/qrels.test'}


def test_the_table_describes_the_files_that_tests_read():
    need('trec_eval')
    answer = json.loads(reproduce('data', 'list', '--json').stdout)
    assert {file['state'] for file in answer} == {'here'}

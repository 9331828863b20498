"""Commits are looked up by the hub's real client, and written into the study's files."""

import json
import shutil

import pytest
import yaml
from conftest import ROOT
from kit import link_clone, reproduce
from local_hub import commit_of, local_hub

from reproduce_kit.config.backbones import read_backbones, read_rerankers
from reproduce_kit.testing.fake_rerankers import fake_reranker

SHAPE = dict(
    model_type='bert',
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    vocab_size=2000,
)
SLUG = 'someone/rerankers-1a2b3c'
TEXT = f"""# the collection of a paper
collection: {SLUG}

known:
  title: Known     # as printed
  repo: someone/known
  revision: null
  shape: {json.dumps(SHAPE)}
  licence: unknown
"""


def repository(tmp_path, name, reranker='tiny-bert-reranker', fault=''):
    folder = tmp_path / 'repositories' / name
    shutil.copytree(fake_reranker(reranker, fault), folder)
    return folder


@pytest.fixture
def clone(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'made'))
    root = link_clone(tmp_path / 'clone')
    (root / 'params/zoo').mkdir()
    (root / 'params/smoke').mkdir()
    shutil.copy(ROOT / 'params/smoke/backbones.yaml', root / 'params/smoke')
    shutil.copy(ROOT / 'params/smoke/rerankers.yaml', root / 'params/smoke')
    (root / 'params/zoo/rerankers.yaml').write_text(TEXT)
    return root


@pytest.fixture
def hub(tmp_path, clone):
    """A hub with four models in the collection, of which two can be measured."""
    with local_hub() as (server, address):
        server.repositories = {
            'someone/known': repository(tmp_path, 'known'),
            'someone/Other-Base': repository(tmp_path, 'other', 'tiny-modernbert-reranker'),
            'someone/pickled': repository(tmp_path, 'pickled', fault='no safetensors'),
            'someone/t5': repository(tmp_path, 't5', fault='own code'),
        }
        server.collections = {SLUG: list(server.repositories)}
        server.address = address
        yield server


def env_of(hub, clone):
    return dict(
        HF_ENDPOINT=hub.address,
        HF_HUB_OFFLINE='0',
        HF_HUB_CACHE=clone / 'hub',
        HF_HUB_DISABLE_TELEMETRY='1',
        REPRODUCE_ROOT=clone,
        REPRODUCE_RUNS=clone / 'runs',
        REPRODUCE_CACHE=clone / 'cache',
    )


def test_a_collection_is_resolved_and_written_down(hub, clone):
    p = reproduce('data', 'pin', 'zoo', '--json', env=env_of(hub, clone), cwd=clone)
    assert p.returncode == 0, p.stderr
    rows = {row['repo']: row for row in json.loads(p.stdout)}
    assert rows['someone/known']['revision'] == commit_of(hub.repositories['someone/known'])
    assert rows['someone/Other-Base']['note'] == 'new'
    assert rows['someone/pickled']['note'] == 'left out: it has no model.safetensors'
    assert 'is never run' in rows['someone/t5']['note']
    path = clone / 'params/zoo/rerankers.yaml'
    assert '# the collection of a paper' in path.read_text() and '# as printed' in path.read_text()
    found = read_rerankers(path)
    assert list(found) == ['known', 'other-base']
    other = found['other-base']
    assert other.revision == commit_of(hub.repositories['someone/Other-Base'])
    assert (other.model_type, other.licence) == ('modernbert', 'mit')


@pytest.mark.soak
def test_what_was_resolved_runs_from_the_hub_to_its_measures(hub, clone):
    """The connected machine's whole way: look up, fetch, check hashes, score, measure."""
    import sys

    sys.path.append(str(ROOT / 'tests/end_to_end'))
    from test_own_study import invented_collection

    from reproduce_kit.data.collection import write_collection
    from reproduce_kit.testing.fake_rerankers import released_settings

    write_collection(invented_collection(), clone / 'texts')
    settings = released_settings(
        study='zoo',
        name='all',
        collection=str(clone / 'texts'),
        passage_words=None,
        test_topics=None,
        reranker='all',
    )
    (clone / 'params/zoo/all.yaml').write_text(yaml.safe_dump(settings))
    env = env_of(hub, clone)
    assert reproduce('data', 'pin', 'zoo', env=env, cwd=clone).returncode == 0
    p = reproduce('run', 'params/zoo', '--json', env=env, cwd=clone)
    assert p.returncode == 0, p.stderr
    assert json.loads(p.stdout)['done'] == ['all-known', 'all-other-base']
    fetched = [path for path in hub.asked if '/resolve/' in path]
    assert not any('pytorch_model.bin' in path for path in fetched)


def test_a_commit_that_is_there_is_not_asked_for(hub, clone):
    path = clone / 'params/zoo/rerankers.yaml'
    pinned = TEXT.replace(f'collection: {SLUG}', '').replace('null', f"'{'a' * 40}'")
    path.write_text(pinned)
    p = reproduce('data', 'pin', 'zoo', env=env_of(hub, clone), cwd=clone)
    assert p.returncode == 0 and 'every entry has its commit' in p.stdout
    assert hub.asked == [] and path.read_text() == pinned


def test_backbones_get_their_commits_too(hub, clone):
    path = clone / 'params/zoo/backbones.yaml'
    entry = TEXT.split('\n\n', 1)[1].replace('known:', 'encoder:', 1)
    path.write_text(entry)
    (clone / 'params/zoo/rerankers.yaml').unlink()
    p = reproduce('data', 'pin', 'zoo', env=env_of(hub, clone), cwd=clone)
    assert p.returncode == 0, p.stderr
    commit = commit_of(hub.repositories['someone/known'])
    assert read_backbones(path)['encoder'].revision == commit


def test_a_hub_out_of_reach_changes_nothing(clone):
    env = dict(REPRODUCE_ROOT=clone, HF_HUB_OFFLINE='1', HF_HUB_CACHE=clone / 'hub')
    p = reproduce('data', 'pin', 'zoo', env=env, cwd=clone)
    assert p.returncode == 1 and 'run once with a network' in p.stderr
    assert (clone / 'params/zoo/rerankers.yaml').read_text() == TEXT


def test_a_study_that_is_not_there_is_named_with_the_nearest(clone):
    env = dict(REPRODUCE_ROOT=clone)
    p = reproduce('data', 'pin', 'zo', env=env, cwd=clone)
    assert p.returncode == 1 and "did you mean 'zoo'?" in p.stderr

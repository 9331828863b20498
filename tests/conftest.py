"""Tests write nowhere but to temporary folders; the caches of collections and candidates are shared."""
import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / 'shared' / 'data'

os.environ.setdefault('REPRODUCE_ROOT', str(ROOT))
os.environ.setdefault('REPRODUCE_RUNS', tempfile.mkdtemp(prefix='kit-runs-'))
os.environ.setdefault('REPRODUCE_PAPER', tempfile.mkdtemp(prefix='kit-paper-'))
os.environ.setdefault('REPRODUCE_FIGURES', tempfile.mkdtemp(prefix='kit-figures-'))
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('MPLBACKEND', 'agg')
if not shutil.which('nvidia-smi'): os.environ.setdefault('TRITON_INTERPRET', '1')  # before anything imports triton, and torch may
os.environ['HF_HUB_CACHE'] = tempfile.mkdtemp(prefix='kit-hub-')            # a small hub, made by the tests that need one
os.environ['HF_DATASETS_CACHE'] = tempfile.mkdtemp(prefix='kit-datasets-')
os.environ['MODAL_CONFIG_PATH'] = '/nowhere'                                # nobody's account
for k in ('MODAL_TOKEN_ID', 'MODAL_TOKEN_SECRET', 'MODAL_PROFILE'): os.environ.pop(k, None)

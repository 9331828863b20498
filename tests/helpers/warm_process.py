"""What a process does that starts warm: it is a command, or executes a page.

It imports next to nothing, since each of these processes imports it again."""

import gc
import os
import sys


def begin(*files):
    """Write this process's output, and its errors if there is a second file, to files."""
    gc.freeze()  # what was imported is no garbage, and its memory stays that of the server
    for descriptor, file in enumerate([files[0], files[-1]], start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


def be_the_command(words, environment, cwd, *files):
    """Do what the console script does; execute notebooks without a kernel's process."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    begin(*files)
    sys.path[:0] = filter(None, environment.get('PYTHONPATH', '').split(os.pathsep))
    sys.argv = ['reproduce', *words]

    from papermill.engines import papermill_engines

    from reproduce_kit.cli.app import main
    from reproduce_kit.publish.page_shell import PageEngine

    papermill_engines.register(None, PageEngine)
    main()


def execute_page(path, root, is_whole, needs_reranker, log):
    """Do what `nbdev_test` does with one notebook, its output in a file."""
    os.chdir(root)
    begin(log)

    from nbdev.config import get_config
    from nbdev.test import test_nb

    if needs_reranker:
        from reproduce_kit.testing.fake_rerankers import fake_reranker

        fake_reranker('tiny-bert-reranker')
    config = get_config()
    skipped = [] if is_whole else config.tst_flags.split()
    passed, _ = test_nb(path, skip_flags=skipped, basepath=config.config_path)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if passed else 1)

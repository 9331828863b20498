"""What nbs/experiments/train.ipynb does, in this process, stopped where a test wants it."""

from reproduce_kit.data.pairs import load_pairs
from reproduce_kit.evaluation.rerank import (
    evaluate_epoch,
    evaluate_final_sets,
    evaluate_first_stage,
    load_selector,
)
from reproduce_kit.evaluation.test_sets import load_test_sets
from reproduce_kit.models.backbone import load_backbone, sources
from reproduce_kit.store.run import mark_done, open_run, record_data
from reproduce_kit.training.cross_encoder import train


class Stop(Exception):
    """The attempt ends here."""


def go(config, stop_after=None):
    """Train, rerank and measure a config; raise `Stop` after an epoch's end if asked to."""
    run = open_run(config)
    sets = load_test_sets(config)
    evaluate_first_stage(run, sets)
    pairs = load_pairs(config)
    fingerprints = {name: test_set.fingerprint for name, test_set in sets.items()}
    record_data(run, pairs=pairs['fingerprint'], **fingerprints, **sources(config))
    model, select = load_backbone(config), load_selector(config)

    def after(epoch):
        if epoch == stop_after:
            raise Stop
        evaluate_epoch(run, sets, epoch, select)

    train(run, model, pairs, on_epoch=after)
    measured = {n: evaluate_epoch(run, sets, n, select) for n in config.measured_epochs}
    final = evaluate_final_sets(run, sets, measured)
    mark_done(run, measured, final)
    return run

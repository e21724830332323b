"""The image bank."""

from __future__ import annotations

from collections import Counter

import numpy as np

from sfc.method.image_bank import BLANK, ImageBank, Recipe, epoch_batches

LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]], np.uint8)


def plan(labels: np.ndarray, epochs: int, *, draw_empty: bool = False, **kind: int) -> list[list[list[Recipe]]]:
    bank = ImageBank(labels.shape[1], draw_empty=draw_empty)
    return [epoch_batches(labels, bank, epoch=e, **kind) for e in range(epochs)]


def tail_labels(images: int = 200) -> np.ndarray:
    """One image of class 1, all others of class 0."""
    labels = np.zeros((images, 2), np.uint8)
    labels[:, 0], labels[7] = 1, (0, 1)
    return labels


def test_the_last_image_in_a_batch_wins_every_slot_of_its_classes() -> None:
    bank = ImageBank(3)
    bank.update([Recipe(0, 0), Recipe(1, 0), Recipe(2, 0), Recipe(3, 0)], LABELS)
    assert bank.slots == [Recipe(1, 0), Recipe(2, 0), BLANK]
    bank.update([Recipe(4, 1)], LABELS)
    assert bank.slots == [Recipe(4, 1), Recipe(2, 0), Recipe(4, 1)]


def test_an_empty_bank_draws_nothing_and_a_bank_that_draws_empty_slots_draws_blanks() -> None:
    assert ImageBank(3).draw(4, np.random.default_rng(0)) == []
    assert ImageBank(3, draw_empty=True).draw(4, np.random.default_rng(0)) == [BLANK] * 4


def test_filled_slots_alone_are_drawn_unless_asked_otherwise() -> None:
    bank, published = ImageBank(3), ImageBank(3, draw_empty=True)
    for b in (bank, published):
        b.update([Recipe(0, 0)], LABELS)
    assert set(bank.draw(50, np.random.default_rng(0))) == {Recipe(0, 0)}
    assert set(published.draw(50, np.random.default_rng(0))) == {Recipe(0, 0), BLANK}


def test_slots_are_drawn_uniformly_with_replacement() -> None:
    bank = ImageBank(3)
    bank.update([Recipe(0, 0), Recipe(2, 0), Recipe(4, 0)], np.eye(3, dtype=np.uint8)[[0, 0, 1, 0, 2]])
    counts = Counter(bank.draw(3000, np.random.default_rng(0)))
    assert sorted(counts) == [Recipe(0, 0), Recipe(2, 0), Recipe(4, 0)]
    assert min(counts.values()) > 900


def test_the_bank_is_updated_before_it_is_sampled() -> None:
    (first,) = plan(LABELS[:1], 1, batch=1, drawn=2, seed=0)[0]
    assert first == [Recipe(0, 0)] * 3


def test_drawn_crops_are_the_latest_of_a_class() -> None:
    bank, seen = ImageBank(3), [BLANK] * 3
    for epoch in range(3):
        for batch in epoch_batches(LABELS, bank, epoch=epoch, batch=2, drawn=3, seed=1):
            for recipe in batch[:2]:
                for c in np.flatnonzero(LABELS[recipe.image]):
                    seen[c] = recipe
            assert set(batch[2:]) <= set(seen)


def test_every_batch_has_its_number_of_fresh_and_drawn_images() -> None:
    for epoch, batches in enumerate(plan(tail_labels(21), 2, batch=4, drawn=3, seed=0)):
        assert [len(batch) for batch in batches] == [7] * 5
        fresh = [recipe for batch in batches for recipe in batch[:4]]
        assert len(set(fresh)) == 20 and {recipe.epoch for recipe in fresh} == {epoch}
    (only,) = plan(tail_labels(21), 1, batch=50, drawn=0, seed=0)[0]
    assert len(only) == 21


def test_a_rare_class_is_in_most_batches_once_it_was_seen() -> None:
    first, second = plan(tail_labels(), 2, batch=4, drawn=4, seed=0)
    assert sum(any(recipe.image == 7 for recipe in batch) for batch in second) > 0.8 * len(second)
    assert sum(any(recipe.image == 7 for recipe in batch[:4]) for batch in first) == 1


def test_a_replay_gives_the_same_batches_and_another_seed_or_epoch_gives_others() -> None:
    kind = {"batch": 4, "drawn": 3}
    once, again, other = (plan(tail_labels(), 3, **kind, seed=seed) for seed in (5, 5, 6))
    assert once == again != other
    images = [[recipe.image for batch in epoch for recipe in batch[:4]] for epoch in once]
    assert images[0] != images[1]


def test_resuming_in_epoch_two_needs_the_bank_that_the_epochs_before_it_left() -> None:
    labels = tail_labels()
    bank = ImageBank(2)
    epoch_batches(labels, bank, epoch=0, batch=4, drawn=3, seed=5)
    assert (
        epoch_batches(labels, bank, epoch=1, batch=4, drawn=3, seed=5) == plan(labels, 2, batch=4, drawn=3, seed=5)[1]
    )

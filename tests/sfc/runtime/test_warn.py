"""Warnings of outputs that can't be meant: said, kept, and only where they are true."""

import logging
from pathlib import Path

import numpy as np
import pytest

from sfc.runtime.warn import check_classifier, check_edges, check_labels, check_losses, read_warnings


def losses(*totals: float) -> list[dict[str, float]]:
    return [{"total": total, "classification": total} for total in totals]


def test_a_warning_is_said_and_kept_beside_what_was_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="sfc"):
        check_labels(tmp_path, np.array([9, 0, 0]), "pseudo-labels")
        check_edges(tmp_path, 0.0)
    assert [text.split(":")[0] for text in read_warnings(tmp_path)] == ["pseudo-labels", "edges"]
    assert "without foreground" in caplog.text and "all 0" in caplog.text


@pytest.mark.parametrize(
    ("pixels", "words"), [((9, 0, 0), "without foreground"), ((0, 0, 7), "one class alone"), ((5, 1, 0), None)]
)
def test_labels_of_one_class_alone(tmp_path: Path, pixels: tuple[int, ...], words: str | None) -> None:
    check_labels(tmp_path, np.array(pixels), "segmentation model")
    assert ([words in text for text in read_warnings(tmp_path)] == [True]) if words else not read_warnings(tmp_path)


@pytest.mark.parametrize(("history", "warned"), [((1.0, 1.2), True), ((1.0, 0.9), False), ((1.0,), False), ((), False)])
def test_a_loss_that_does_not_fall(tmp_path: Path, history: tuple[float, ...], warned: bool) -> None:
    check_losses(tmp_path, "segmentation", losses(*history))
    assert bool(read_warnings(tmp_path)) == warned


@pytest.mark.parametrize(("loss", "warned"), [(0.70, True), (0.60, False)])
def test_a_classifier_at_chance_knows_the_frequencies_alone(tmp_path: Path, loss: float, warned: bool) -> None:
    labels = np.array([[1, 0], [0, 1]])  # each class in half of the images: the entropy is log 2 = 0.693
    check_classifier(tmp_path, losses(5.0, loss), labels)
    assert bool(read_warnings(tmp_path)) == warned


@pytest.mark.parametrize(("mean", "warned"), [(0.0, True), (1.0, True), (0.2, False)])
def test_edges_that_are_all_the_same(tmp_path: Path, mean: float, warned: bool) -> None:
    check_edges(tmp_path, mean)
    assert bool(read_warnings(tmp_path)) == warned

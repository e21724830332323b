"""Words on what the trials so far show."""

import pytest

from tune.study.progress import outlook


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], ["no trials in full", "nothing can be said"]),
        ([0.5], ["1 trial in full", "nothing can be said"]),
        ([0.5, 0.4, 0.6, 0.55], ["0.6000", "number 3", "the last 2 raised the best so far by 0.1000"]),
        ([0.6, 0.6, 0.5, 0.6], ["number 1", "by 0.0000"]),
    ],
)
def test_the_outlook_says_what_was_seen(values: list[float], words: list[str]) -> None:
    text = outlook(values)
    assert all(word in text for word in words), text
    assert len(values) < 2 or "can't be known" in text

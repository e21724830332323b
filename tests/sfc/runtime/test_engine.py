"""The seam to what runs the work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sfc.runtime.engine import Context, LocalEngine, bf16_gains, numerics, shards
from sfc.runtime.machine import available_cpus

CPU = torch.device("cpu")


def square(numbers: range) -> list[int]:
    return [n * n for n in numbers]


def test_shards_cover_everything_once_in_order() -> None:
    for number in (0, 1, 50, 51, 173):
        pieces = shards(number, 50)
        assert [i for piece in pieces for i in piece] == list(range(number))
        assert all(0 < len(piece) <= 50 for piece in pieces)


def test_work_is_mapped_in_order_in_this_process() -> None:
    assert list(LocalEngine(1).map(square, shards(7, 3))) == [[0, 1, 4], [9, 16, 25], [36]]
    assert list(LocalEngine(1).map(square, [])) == []


def test_work_is_mapped_in_order_over_processes() -> None:
    assert list(LocalEngine(2).map(abs, range(-5, 5))) == [abs(n) for n in range(-5, 5)]


def test_an_error_of_the_work_is_an_error_of_the_map() -> None:
    with pytest.raises(TypeError):
        list(LocalEngine(1).map(square, [range(2), 3]))


def test_training_is_told_its_folder_and_reports(tmp_path: Path) -> None:
    seen = []

    def loop(context: Context, start: int) -> None:
        assert context.restore() is None and (context.rank, context.world_size) == (0, 1)
        for epoch in range(start, 3):
            context.report({"loss": 1 / (epoch + 1)}, {"epoch": epoch})

    LocalEngine(1, on_report=lambda metrics, state: seen.append((metrics["loss"], state["epoch"]))).train(
        loop, 1, folder=tmp_path
    )
    assert seen == [(1 / 2, 1), (1 / 3, 2)]
    assert Context(tmp_path).restore() == {"epoch": 2}


def test_rank_0_alone_saves(tmp_path: Path) -> None:
    Context(tmp_path, rank=1, world_size=2).report({}, {"epoch": 1})
    assert Context(tmp_path).restore() is None and not list(tmp_path.iterdir())


def test_a_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    context = Context(tmp_path)
    context.report({}, {"x": torch.arange(3)})
    (tmp_path / "checkpoint.pt.partial").write_bytes(b"half of the next one")
    assert context.restore()["x"].tolist() == [0, 1, 2]
    context.report({}, {"x": torch.arange(4)})
    assert context.restore()["x"].tolist() == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_precision_is_what_was_asked_for_and_auto_what_gains() -> None:
    layer = torch.nn.Conv2d(3, 4, 1)
    assert numerics("bf16", CPU, layer).bf16 and not numerics("fp32", CPU, layer).bf16
    assert not numerics("auto", CPU, layer).bf16, "a small network gains nothing"
    large = torch.nn.Linear(1000, 1000)
    assert numerics("auto", CPU, large).bf16 == bf16_gains(CPU, large)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        how = numerics(precision, CPU, torch.nn.Conv2d(3, 4, 1))
        layer, x = how.place(torch.nn.Conv2d(3, 4, 1)), how.place(torch.rand(1, 3, 2, 2))
        with how.autocast():
            assert layer(x).dtype == dtype


def test_there_is_a_core_to_work_on() -> None:
    assert available_cpus() >= 1


def threads_of(item: int) -> tuple[int, int]:
    return item, torch.get_num_threads()


def test_networks_go_over_shards_in_order_in_threads_of_one_core_each() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(LocalEngine(2).map(threads_of, range(5), gpu=True)) == [(item, 1) for item in range(5)]
        assert torch.get_num_threads() == 2, "the caller's own are as before"
        assert list(LocalEngine(2).map(threads_of, range(1), gpu=True)) == [(0, 2)], "one shard has every core"
    finally:
        torch.set_num_threads(before)

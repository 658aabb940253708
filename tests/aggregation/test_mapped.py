"""Pages of memory-mapped arrays are given back, and are there again when they are read."""

from pathlib import Path

import numpy as np
import pytest

from dl_mqtt_clients.aggregation.mapped import give_back, mappings
from dl_mqtt_clients.aggregation.strategies.parts import Facts
from dl_mqtt_clients.aggregation.strategies.stack import RELEASE_VALUES, Stack

MEGABYTES = 64


def resident_file_mb() -> float:
    """Of this process's memory, what are pages of files."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) / 1024


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "updates.bin"
    np.arange(MEGABYTES << 18, dtype=np.float32).tofile(path)
    return path


def test_views_of_views_are_traced_to_their_file_and_arrays_in_memory_to_none(file):
    mapped = np.memmap(file, dtype=np.uint8, mode="r", offset=4, shape=(800,))
    through_bytes = np.frombuffer(memoryview(mapped.data).toreadonly()[16:416], np.float32).reshape(10, 10)
    assert len(mappings([mapped, mapped[7:], through_bytes, np.zeros(3), np.float32(1).reshape(())])) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_what_is_given_back_counts_no_more_and_reads_the_same(file):
    mapped = np.memmap(file, dtype=np.float32, mode="r")
    before = resident_file_mb()
    total = float(mapped.sum(dtype=np.float64))
    assert resident_file_mb() - before > MEGABYTES * 0.9
    give_back(mappings([mapped]))
    assert resident_file_mb() - before < MEGABYTES * 0.1
    assert float(mapped.sum(dtype=np.float64)) == total


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_reduction_over_mapped_updates_holds_few_of_their_pages(file):
    rows = [[row] for row in np.memmap(file, dtype=np.float32, mode="r").reshape(4, -1)]
    stack = Stack([Facts(node=str(k), examples=1) for k in range(4)], rows)
    before, most = resident_file_mb(), 0.0

    def look(block):
        nonlocal most
        most = max(most, resident_file_mb() - before)
        return block[0]

    assert np.array_equal(stack.map(look)[0], rows[0][0])
    assert most < 2 * RELEASE_VALUES * 4 / 2**20 < MEGABYTES

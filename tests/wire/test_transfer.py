"""Transfer: chunks in any order, perhaps twice, perhaps wrong."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.wire.messages import Blob
from dl_mqtt_clients.wire.transfer import (
    MAX_CHUNKS,
    Download,
    FileSink,
    MemorySink,
    Reception,
    chunk,
    chunk_count,
    describe,
    sha256,
)

DATA = bytes(range(256)) * 4 + b"tail"
BLOB = describe(DATA, chunk_bytes=100)
CHUNKS = [bytes(chunk(DATA, k, 100)) for k in range(11)]


@pytest.fixture(params=["memory", "file"])
def sink(request, tmp_path):
    """An empty sink for DATA, and how to read what it holds."""
    if request.param == "memory":
        memory = MemorySink(BLOB.bytes)
        yield memory, lambda: bytes(memory.buffer)
        return
    descriptor = os.open(tmp_path / "spool", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"neighbour")
    try:
        yield FileSink(descriptor, 9), lambda: (tmp_path / "spool").read_bytes()[9:]
        assert (tmp_path / "spool").read_bytes()[:9] == b"neighbour"
    finally:
        os.close(descriptor)


def test_a_blob_is_described_by_hash_size_and_chunk_size():
    assert describe(b"abc", chunk_bytes=2) == Blob(
        sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", bytes=3, chunk_bytes=2
    )


@pytest.mark.parametrize(("size", "chunks"), [(1, 1), (99, 1), (100, 1), (101, 2), (200, 2)])
def test_a_blob_has_as_many_chunks_as_it_needs(size, chunks):
    assert chunk_count(size, 100) == chunks


def test_a_chunk_is_a_view_and_no_copy():
    data = bytearray(DATA)
    view = chunk(data, 1, 100)
    data[100] = 7
    assert view[0] == 7


@pytest.mark.parametrize("order", [range(11), range(10, -1, -1), [5, 0, 10, 1, 2, 9, 8, 3, 4, 7, 6]])
def test_chunks_are_put_together_in_any_order(sink, order):
    reception = Reception(BLOB, sink[0])
    for k in order:
        assert not reception.complete
        assert reception.receive(k, CHUNKS[k])
    assert reception.complete
    reception.verify()
    reception.verify()  # asking twice changes nothing
    assert sink[1]() == DATA


def test_a_repeated_chunk_changes_nothing(sink):
    reception = Reception(BLOB, sink[0])
    for k in range(11):
        assert reception.receive(k, CHUNKS[k])
        assert not reception.receive(k, bytes(len(CHUNKS[k])))
    reception.verify()
    assert sink[1]() == DATA


def test_it_says_what_is_missing_and_what_is_there(sink):
    reception = Reception(BLOB, sink[0])
    reception.receive(3, CHUNKS[3])
    assert reception.missing == (0, 1, 2, 4, 5, 6, 7, 8, 9, 10)
    assert reception.received == 1


@pytest.mark.parametrize(
    ("index", "payload"),
    [(0, CHUNKS[0][:-1]), (0, CHUNKS[0] + b"x"), (0, b""), (10, CHUNKS[0]), (-1, CHUNKS[0]), (11, CHUNKS[10])],
)
def test_a_chunk_that_cannot_be_ours_is_refused_and_harms_nothing(sink, index, payload):
    reception = Reception(BLOB, sink[0])
    with pytest.raises(TransferError, match=f"chunk {index}: expected"):
        reception.receive(index, payload)
    for k in range(11):
        reception.receive(k, CHUNKS[k])
    with pytest.raises(TransferError, match=f"chunk {index}: expected"):
        reception.receive(index, payload)
    reception.verify()
    assert sink[1]() == DATA


@pytest.mark.parametrize("order", [range(11), range(10, -1, -1)])
def test_another_content_of_the_same_size_is_found_out(sink, order):
    reception = Reception(BLOB, sink[0])
    for k in order:
        reception.receive(k, CHUNKS[k] if k != 4 else bytes(100))
    with pytest.raises(TransferError, match="another hash"):
        reception.verify()


def test_verifying_too_early_is_refused_and_can_be_done_again(sink):
    reception = Reception(BLOB, sink[0])
    for k in range(10):
        reception.receive(k, CHUNKS[k])
    with pytest.raises(TransferError, match="1 of 11 chunks are missing"):
        reception.verify()
    reception.receive(10, CHUNKS[10])
    reception.verify()


def test_a_blob_in_crumbs_is_refused_before_anything_is_allocated():
    crumbs = Blob(sha256="a" * 64, bytes=2**40, chunk_bytes=1)
    with pytest.raises(TransferError, match=f"expected at most {MAX_CHUNKS} chunks. Announced: {2**40}"):
        Reception(crumbs, MemorySink(0))


def test_a_download_larger_than_the_limit_is_refused_before_anything_is_allocated():
    with pytest.raises(TransferError, match=r"expected at most 1000 bytes. Announced: 9007199254740992"):
        Download(Blob(sha256="a" * 64, bytes=2**53, chunk_bytes=2**20), limit_bytes=1000)


def test_a_download_asks_for_at_most_sixteen_chunks_at_once():
    data = os.urandom(4000)
    download = Download(describe(data, chunk_bytes=100), limit_bytes=4000)
    assert download.to_ask() == list(range(16))
    assert download.to_ask() == []
    download.receive(7, data[700:800])
    assert download.to_ask() == [16]
    for k in range(40):
        download.receive(k, data[k * 100 : k * 100 + 100])
        assert len(download.asked | set(download.to_ask())) <= 16
    assert download.asked == set()
    assert download.result() == data


def test_a_wrong_chunk_stays_asked_for():
    download = Download(BLOB, limit_bytes=2000)
    download.to_ask()
    with pytest.raises(TransferError):
        download.receive(2, b"short")
    assert 2 in download.asked


def test_a_download_gives_out_nothing_that_is_incomplete_or_forged():
    download = Download(BLOB, limit_bytes=2000)
    for k in range(11):
        with pytest.raises(TransferError, match="missing"):
            download.result()
        download.receive(k, CHUNKS[k] if k else b"x" * 100)
    with pytest.raises(TransferError, match="another hash"):
        download.result()


@given(data=st.binary(min_size=1, max_size=400), chunk_bytes=st.integers(1, 64), draw=st.data())
def test_any_permutation_with_repeats_assembles_the_same_bytes(data, chunk_bytes, draw):
    blob = describe(data, chunk_bytes=chunk_bytes)
    numbers = range(chunk_count(len(data), chunk_bytes))
    order = draw.draw(st.permutations(numbers)) + draw.draw(st.lists(st.sampled_from(numbers), max_size=5))
    download = Download(blob, limit_bytes=400)
    seen = set()
    for k in order:
        assert download.receive(k, chunk(data, k, chunk_bytes)) == (k not in seen)
        seen.add(k)
    assert download.result() == data
    assert sha256(download.result()) == blob.sha256

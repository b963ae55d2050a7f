"""Finds near-duplicates among texts by the fingerprints that they share.

Some reviews are posted twice with a word changed; a test part that holds one of the two measures memory. Two texts
count as near-duplicates if the Jaccard similarity of their fingerprints is at least a half. A *fingerprint* is the hash
of a run of 32 letters and digits, without case and without the characters between them. One in eight is kept, chosen by
its value, so that equal runs are all kept or all dropped (Manber 1994, "Finding Similar Files in a Large File System";
Broder 1997, "On the Resemblance and Containment of Documents").
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from plcourse.data.randoms import mix

RUN = 32  # letters and digits of a fingerprint, a multiple of 8
_SIMILARITY = 0.5  # the smallest Jaccard similarity of the fingerprints of near-duplicates
_SAMPLE = 8  # one in this many fingerprints is kept
_COMMON = 20  # a run in more texts than this is a phrase, not a copy
_KEPT = np.uint64((1 << 64) // _SAMPLE)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # an odd multiplier
_LETTERS = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])


def own_and_shared_hashes(texts: Sequence[str]) -> np.ndarray:
    """Two numbers per text, uint64 [N, 2]: the hash of its own letters, and one that is equal for near-duplicates.

    Only the second depends on the other texts.
    """
    letters, document = _letters(texts)
    own = _whole_hashes(letters, document, texts)
    first, second = _similar_pairs(letters, document, len(texts))
    distinct, same = np.unique(own, return_inverse=True)
    links = coo_array((np.ones(len(first), bool), (same[first], same[second])), shape=(len(distinct),) * 2)
    _, component = connected_components(links, directed=False)
    # a component is represented by its smallest hash, whatever the order of the texts
    smallest = np.full(component.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, component, distinct)
    return np.column_stack([own, smallest[component[same]]])


def _letters(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The letters and digits of all texts as bytes, and the number of the text of each byte."""
    encoded = [text.lower().encode() for text in texts]
    raw = np.frombuffer(b"".join(encoded), np.uint8)
    document = np.repeat(np.arange(len(texts), dtype=np.int32), [len(each) for each in encoded])
    kept = _LETTERS[raw]
    return raw[kept], document[kept]


def _whole_hashes(letters: np.ndarray, document: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    ends = np.searchsorted(document, np.arange(len(texts)), side="right")
    data, start, digests = letters.tobytes(), 0, []
    for text, end in zip(texts, ends.tolist(), strict=True):
        content = data[start:end] or text.encode()  # all of a text without letters
        digests.append(hashlib.blake2b(content, digest_size=8).digest())
        start = end
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def _similar_pairs(letters: np.ndarray, document: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of texts a < b whose fingerprints are similar."""
    run, owner = _fingerprints(letters, document)
    order = np.argsort(run, kind="stable")  # by hash, and for each hash in the order of the texts
    run, owner = run[order], owner[order]
    fresh = (np.diff(run, prepend=run[:1] ^ np.uint64(1)) != 0) | (np.diff(owner, prepend=-1) != 0)
    run, owner = run[fresh], owner[fresh]
    size = np.bincount(owner, minlength=n)
    codes = [np.empty(0, np.int64)]
    starts = np.flatnonzero(np.diff(run, prepend=run[:1] ^ np.uint64(1)))
    counts = np.diff(starts, append=len(run))
    for count in range(2, _COMMON + 1):
        members = owner[starts[counts == count][:, None] + np.arange(count)].astype(np.int64)
        a, b = np.triu_indices(count, 1)
        codes.append((members[:, a] * n + members[:, b]).ravel())  # owners ascend within a run
    pair, shared = np.unique(np.concatenate(codes), return_counts=True)
    first, second = np.divmod(pair, max(n, 1))
    alike = shared >= _SIMILARITY * (size[first] + size[second] - shared)
    return first[alike], second[alike]


def _fingerprints(letters: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the runs that are kept, and the texts that contain them, in the order of the texts."""
    if len(letters) < RUN:
        return np.empty(0, np.uint64), np.empty(0, np.int32)
    eight = np.ndarray(len(letters) - 7, "<u8", letters.tobytes(), strides=(1,))  # the 8 letters from each position
    # the top bits of the product depend on all 8 letters and decide which runs are kept and hashed
    starts = np.flatnonzero((eight * _GOLDEN)[: len(letters) - RUN + 1] < _KEPT)
    starts = starts[document[starts] == document[starts + RUN - 1]]
    hashes = np.zeros(len(starts), np.uint64)
    for offset in range(0, RUN, 8):
        hashes = mix((hashes + _GOLDEN) ^ eight[starts + offset])
    return hashes, document[starts]

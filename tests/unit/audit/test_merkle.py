"""The tree gives the published values, and its proofs prove nothing that is not so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.audit import merkle
from controlplane.audit.merkle import Frontier
from controlplane.domain.errors import Integrity

# the vectors of the reference implementation of Certificate Transparency (RFC 6962)
INPUTS = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CONSISTENCY = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
PUBLISHED = [merkle.leaf_hash(bytes.fromhex(text)) for text in INPUTS]


def leaves_of(count):
    return [merkle.leaf_hash(b"%d" % n) for n in range(count)]


def hexes(proof):
    return [node.hex() for node in proof]


def test_an_empty_tree_has_the_published_root():
    assert merkle.root([]) == Frontier().root() == merkle.EMPTY_ROOT
    assert merkle.EMPTY_ROOT.hex() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_the_published_ones(size):
    assert merkle.root(PUBLISHED[:size]).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_inclusion_proofs_are_the_published_ones(index, size, path):
    proof = merkle.inclusion_proof(PUBLISHED[:size], index)
    assert hexes(proof) == path
    merkle.verify_inclusion(
        PUBLISHED[index],
        index=index,
        size=size,
        proof=proof,
        head=bytes.fromhex(ROOTS[size - 1]),
    )


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(old, new, path):
    proof = merkle.consistency_proof(PUBLISHED[:new], old)
    assert hexes(proof) == path
    merkle.verify_consistency(
        old=old,
        old_head=bytes.fromhex(ROOTS[old - 1]),
        new=new,
        new_head=bytes.fromhex(ROOTS[new - 1]),
        proof=proof,
    )


@given(count=st.integers(0, 200))
def test_a_frontier_grows_to_the_same_root_and_survives_its_row(count):
    leaves = leaves_of(count)
    frontier = Frontier()
    for leaf in leaves:
        frontier = Frontier.of(frontier.size, frontier.raw()).append(leaf)
    assert frontier.root() == merkle.root(leaves)
    assert len(frontier.peaks) == count.bit_count()


def test_a_stored_frontier_that_does_not_fit_its_size_is_refused():
    for size, raw in ((3, bytes(32)), (-1, b""), (1, bytes(31))):
        with pytest.raises(Integrity, match="rebuild"):
            Frontier.of(size, raw)


@given(data=st.data(), count=st.integers(1, 70))
def test_every_leaf_proves_its_own_place_only(data, count):
    leaves = leaves_of(count)
    head = merkle.root(leaves)
    index = data.draw(st.integers(0, count - 1))
    proof = merkle.inclusion_proof(leaves, index)
    merkle.verify_inclusion(leaves[index], index=index, size=count, proof=proof, head=head)
    other = data.draw(st.integers(-1, count))
    if other != index:
        with pytest.raises(Integrity):
            merkle.verify_inclusion(leaves[index], index=other, size=count, proof=proof, head=head)
    with pytest.raises(Integrity):
        merkle.verify_inclusion(
            merkle.leaf_hash(b"other"), index=index, size=count, proof=proof, head=head
        )
    for wrong in ((*proof, head), proof[:-1]):
        if wrong != proof:
            with pytest.raises(Integrity):
                merkle.verify_inclusion(
                    leaves[index], index=index, size=count, proof=wrong, head=head
                )


@given(data=st.data(), new=st.integers(0, 70))
def test_a_log_proves_that_it_extends_its_past_and_no_other(data, new):
    leaves = leaves_of(new)
    old = data.draw(st.integers(0, new))
    proof = merkle.consistency_proof(leaves, old)
    heads = {"old_head": merkle.root(leaves[:old]), "new_head": merkle.root(leaves)}
    merkle.verify_consistency(old=old, new=new, proof=proof, **heads)
    wrong_proofs = [(*proof, merkle.EMPTY_ROOT)] + ([proof[:-1]] if proof else [])
    for wrong in wrong_proofs:
        with pytest.raises(Integrity):
            merkle.verify_consistency(old=old, new=new, proof=wrong, **heads)
    with pytest.raises(Integrity):
        merkle.verify_consistency(
            old=old, new=new, proof=proof, **(heads | {"old_head": merkle.leaf_hash(b"lie")})
        )
    if old:
        with pytest.raises(Integrity):
            merkle.verify_consistency(
                old=old, new=new, proof=proof, **(heads | {"new_head": merkle.leaf_hash(b"lie")})
            )


def test_impossible_places_are_refused():
    leaves = leaves_of(3)
    for index in (-1, 3):
        with pytest.raises(IndexError):
            merkle.inclusion_proof(leaves, index)
    for old in (-1, 4):
        with pytest.raises(IndexError):
            merkle.consistency_proof(leaves, old)
    head = merkle.root(leaves)
    with pytest.raises(Integrity):
        merkle.verify_consistency(old=4, old_head=head, new=3, new_head=head, proof=())

"""The Merkle tree: the published vectors of Certificate Transparency, and pymerkle as an independent judge."""

from hashlib import sha256

import pytest
from pymerkle import InmemoryTree, verify_consistency, verify_inclusion

from audit import tree

# certificate-transparency, cpp/merkletree/merkle_tree_test.cc: leaves, and the roots of the first n of them
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
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
HASHES = [tree.leaf_hash(b"%d" % number) for number in range(70)]


def of(hashes):
    def subtree(level, number):
        return tree.root_of(hashes[number << level : number + 1 << level])

    return subtree


def judge(count):
    """The same tree as pymerkle builds it."""
    made = InmemoryTree(algorithm="sha256")
    for number in range(count):
        made.append_entry(b"%d" % number)
    return made


@pytest.mark.requirement("REQ-AUDIT-25")
def test_roots_are_those_of_certificate_transparency():
    hashes = [tree.leaf_hash(leaf) for leaf in LEAVES]
    assert [tree.root_of(hashes[: n + 1]).hex() for n in range(8)] == ROOTS
    assert tree.root_of([]) == sha256(b"").digest()
    assert [tree.root_at(n + 1, of(hashes)).hex() for n in range(8)] == ROOTS


def test_proofs_are_those_of_certificate_transparency():
    hashes = of([tree.leaf_hash(leaf) for leaf in LEAVES])
    assert [step.hex() for step in tree.inclusion_path(0, 8, hashes)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [step.hex() for step in tree.consistency_path(6, 8, hashes)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.requirement("REQ-AUDIT-25")
def test_every_inclusion_is_proved_and_nothing_else_is():
    for size in (1, 2, 3, 7, 8, 9, 33, 70):
        root = tree.root_of(HASHES[:size])
        assert root == judge(size).get_root()
        for index in range(size):
            path = tree.inclusion_path(index, size, of(HASHES))
            assert tree.verify_inclusion(HASHES[index], index, size, path, root)
            assert not tree.verify_inclusion(HASHES[(index + 1) % 70], index, size, path, root)
            if size > 1:
                assert not tree.verify_inclusion(HASHES[index], (index + 1) % size, size, path, root)
                assert not tree.verify_inclusion(HASHES[index], index, size, path[:-1], root)
            assert not tree.verify_inclusion(HASHES[index], index, size, [*path, root], root)


@pytest.mark.requirement("REQ-AUDIT-25")
def test_every_consistency_is_proved_and_a_changed_tree_is_not():
    other = [*HASHES[:3], tree.leaf_hash(b"forged"), *HASHES[4:]]
    for size in (1, 2, 3, 7, 8, 9, 33, 70):
        root = tree.root_of(HASHES[:size])
        for old in range(1, size + 1):
            path = tree.consistency_path(old, size, of(HASHES))
            assert tree.verify_consistency(old, tree.root_of(HASHES[:old]), size, root, path)
            if old > 3:
                assert not tree.verify_consistency(old, tree.root_of(other[:old]), size, root, path)
                forged = tree.consistency_path(old, size, of(other))
                assert not tree.verify_consistency(
                    old, tree.root_of(HASHES[:old]), size, tree.root_of(other[:size]), forged
                )
            if old < size:
                assert not tree.verify_consistency(old, tree.root_of(HASHES[:old]), size, root, [*path, root])


@pytest.mark.requirement("REQ-AUDIT-25")
def test_an_independent_library_makes_the_same_proofs():
    made = judge(70)
    for index in (0, 1, 31, 32, 69):
        proof = made.prove_inclusion(index + 1, 70)
        verify_inclusion(HASHES[index], made.get_root(70), proof)
        assert [bytes.fromhex(step) for step in proof.serialize()["path"]][1:] == tree.inclusion_path(
            index, 70, of(HASHES)
        )
    for old in (1, 5, 32, 33, 69):
        proof = made.prove_consistency(old, 70)
        verify_consistency(made.get_root(old), made.get_root(70), proof)
        assert tree.verify_consistency(
            old, made.get_root(old), 70, made.get_root(70), tree.consistency_path(old, 70, of(HASHES))
        )


def test_a_frontier_goes_on_from_what_is_kept_and_names_every_whole_subtree_once():
    frontier, nodes = tree.Frontier(), {}
    for number, leaf in enumerate(HASHES):
        again = tree.Frontier(number, [of(HASHES)(level, at) for level, at in tree.peaks_of(number)])
        made = frontier.append(leaf)
        assert again.append(leaf) == made
        assert (
            (again.size, again.root)
            == (frontier.size, frontier.root)
            == (number + 1, tree.root_of(HASHES[: number + 1]))
        )
        for level, at, value in made:
            assert nodes.setdefault((level, at), value) is value
    assert nodes == {(level, at): of(HASHES)(level, at) for level in range(1, 7) for at in range(70 >> level)}
    with pytest.raises(ValueError, match="peaks"):
        tree.Frontier(3, [HASHES[0]])


def test_what_does_not_exist_is_not_proved():
    with pytest.raises(ValueError, match="no leaf"):
        tree.inclusion_path(8, 8, of(HASHES))
    with pytest.raises(ValueError, match="no proof"):
        tree.consistency_path(9, 8, of(HASHES))
    with pytest.raises(ValueError, match="no proof"):
        tree.consistency_path(0, 8, of(HASHES))

"""What is held out: whole documents, whose content alone decides."""

import pytest

from collapse.data.text.corpora import Corpus
from collapse.data.text.reading import Piece
from collapse.data.text.splits import divided


class Given(Corpus):
    """Documents from a list, in pieces of ``width`` characters."""

    digest, size = "0" * 64, 0

    def __init__(self, *documents, width=10**6):
        self.documents, self.width = documents, width

    def pieces(self):
        for number, text in enumerate(self.documents):
            for at in range(0, len(text), self.width):
                yield Piece(number, text[at : at + self.width])


def texts(pieces):
    found = []
    for number, text in pieces():
        if number == len(found):
            found.append("")
        found[number] += text
    return found


def split(corpus, share=0.25, seed=0):
    gold, reference = divided(corpus, share, seed)
    assert texts(gold) == texts(gold)  # can be read again
    return texts(gold), texts(reference)


MANY = [f"document {number} " + "x" * (number % 37) for number in range(400)]


@pytest.mark.parametrize("share", [0.01, 0.25, 0.9])
def test_about_a_share_of_the_characters_is_held_out_in_whole_documents(share):
    gold, reference = split(Given(*MANY, width=5), share)
    assert sorted(gold + reference) == sorted(MANY)
    assert gold == [text for text in MANY if text in set(gold)]  # in their order
    total, longest = sum(map(len, MANY)), max(map(len, MANY))
    assert abs(sum(map(len, reference)) - share * total) <= longest / 2


def test_the_key_and_the_content_choose():
    _, reference = split(Given(*MANY))
    assert split(Given(*MANY, width=3))[1] == reference
    assert split(Given(*MANY), seed=1)[1] != reference
    assert sorted(split(Given(*reversed(MANY)))[1]) == sorted(reference)
    # without one document the others mostly stay where they are
    fewer = set(split(Given(*MANY[1:]))[1])
    assert len(fewer ^ set(reference)) <= 10


def test_equal_documents_are_not_divided():
    twice = MANY + MANY[::2]
    gold, reference = split(Given(*twice))
    assert not set(gold) & set(reference)
    assert len(gold) + len(reference) == 600


@pytest.mark.parametrize("seed", range(4))
def test_gold_and_reference_have_a_document_each(seed):
    documents = ["a", "bbbb", "cc"]
    assert split(Given(*documents), 0.001, seed) == (["bbbb", "cc"], ["a"])  # the shortest is nearest
    gold, reference = split(Given(*documents), 0.999, seed)
    assert (len(gold), len(reference)) == (1, 2)
    assert sorted(gold + reference) == documents


@pytest.mark.parametrize("width", [1, 3, 10, 100])
@pytest.mark.parametrize(("share", "gold"), [(0.5, 10), (0.1, 18), (0.26, 15)])
def test_of_a_lone_document_the_end_is_held_out(share, gold, width):
    text = "abcdefghijklmnopqrst"
    assert split(Given(text, width=width), share) == ([text[:gold]], [text[gold:]])


@pytest.mark.parametrize(
    ("documents", "sentence"),
    [((), "has no document with more than white space"), (("a", "a"), "2 documents of the text are all equal")],
    ids=["none", "equal"],
)
def test_what_cannot_be_divided_is_refused(documents, sentence):
    with pytest.raises(ValueError, match=sentence):
        divided(Given(*documents), 0.5, 0)

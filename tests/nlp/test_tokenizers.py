"""Tokenizers: there and back, fitted to the training part alone, and the same after a checkpoint."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import COMMON, WORDS
from plcourse.errors import UserError
from plcourse.nlp.baselines import LinearBaseline
from plcourse.nlp.tokenizers import (
    SPECIALS,
    UNKNOWN,
    CharacterTokenizer,
    Kind,
    check_known,
    fit_tokenizer,
    is_unspaced,
    load_tokenizer,
    report_unknown,
)

TEXTS = [" ".join(COMMON), " ".join(WORDS["good"]), " ".join(WORDS["bad"])] * 3
KINDS: list[Kind] = ["characters", "words", "bpe"]


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_restores_a_text(kind: Kind) -> None:
    tokenizer = fit_tokenizer(kind, TEXTS, 300)
    (tokens,) = tokenizer.encode([TEXTS[0]])
    assert tokens.min() >= len(SPECIALS)
    assert tokens.max() < tokenizer.size <= 300
    assert tokenizer.decode(tokens.tolist()) == TEXTS[0]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_byte_pairs_restore_any_text_and_lengths_add_up(text: str) -> None:
    tokenizer = fit_tokenizer("bpe", TEXTS, 300)
    (tokens,) = tokenizer.encode([text])
    assert tokenizer.decode(tokens.tolist()) == text
    assert len(tokenizer.lengths(text)) == len(tokens)
    assert tokenizer.lengths(text).sum() == len(text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_lengths_of_the_tokens_add_up_to_the_text(kind: Kind) -> None:
    tokenizer = fit_tokenizer(kind, TEXTS, 300)
    for text in (TEXTS[0], "The film; it WAS bright.  "):
        assert tokenizer.lengths(text).sum() == len(text)
        assert len(tokenizer.lengths(text)) == len(tokenizer.encode([text])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_plain_and_complete(kind: Kind) -> None:
    tokenizer = fit_tokenizer(kind, TEXTS, 300)
    state = tokenizer.state_dict()
    assert all(isinstance(value, str) for value in state.values())
    again = load_tokenizer(state)
    unseen = "the brightest zebra"
    assert again.size == tokenizer.size
    assert again.encode([unseen])[0].tolist() == tokenizer.encode([unseen])[0].tolist()


def test_the_most_frequent_characters_are_kept_and_the_others_unknown() -> None:
    tokenizer = CharacterTokenizer.fit(["aaab", "bbcc", "d"], len(SPECIALS) + 3)
    assert tokenizer.symbols == "abc"
    assert tokenizer.encode(["adb"])[0].tolist() == [3, UNKNOWN, 4]
    assert tokenizer.decode([3, UNKNOWN, 4, 2, 0]) == "a\N{REPLACEMENT CHARACTER}b"


def test_an_unseen_character_of_a_prompt_is_named() -> None:
    tokenizer = fit_tokenizer("characters", TEXTS, 300)
    check_known(tokenizer, "the film", "prompt 1")
    with pytest.raises(UserError, match=r"prompt 1: character 5, 'é' \(U\+00E9\), is not in the training text"):
        check_known(tokenizer, "the é", "prompt 1")


@pytest.mark.parametrize(("kind", "size"), [("characters", 3), ("words", 3), ("bpe", 258)])
def test_a_vocabulary_that_is_too_small_is_refused(kind: Kind, size: int) -> None:
    with pytest.raises(ValueError, match=f"vocab_size={size} is too small; {kind} need {size + 1} or more"):
        fit_tokenizer(kind, TEXTS, size)


def test_unknown_tokens_are_counted_and_another_tokenizer_recommended(capsys: pytest.CaptureFixture[str]) -> None:
    chinese = ["这部电影很好看", "剧情非常无聊", "演员表演精彩"]
    words = fit_tokenizer("words", [*TEXTS, *TEXTS], 300)
    report_unknown(words, words.encode(chinese), "new.txt")
    said = capsys.readouterr().out
    assert "new.txt: 100.0% of 3 tokens are unknown to the tokenizer (words)" in said
    assert "--data.init_args.tokenizer characters or bpe" in said
    report_unknown(words, words.encode(TEXTS), "train")
    assert capsys.readouterr().out.endswith("tokens are unknown to the tokenizer (words)\n")
    letters = CharacterTokenizer("ab")
    report_unknown(letters, letters.encode(["abc", "a"]), "test")
    assert "test: 25.0% of 4 tokens are unknown" in (said := capsys.readouterr().out)
    assert "a larger --data.init_args.vocab_size" in said
    bytes_ = fit_tokenizer("bpe", TEXTS, 300)
    report_unknown(bytes_, bytes_.encode(chinese), "test")
    assert not capsys.readouterr().out


def test_scripts_without_spaces_are_detected_and_counted_by_characters() -> None:
    chinese = [f"这部电影{i}很{'好' if i % 2 else '差'}看" for i in range(1200)]
    assert is_unspaced(chinese)
    assert is_unspaced(["ภาพยนตร์เรื่องนี้"])
    assert not is_unspaced([*TEXTS, "naïve Straße, ещё раз 12 好"])
    assert not is_unspaced([])
    found = LinearBaseline().predict(chinese, np.arange(1200) % 2, ["这部电影很好看", "这部电影很差看"])
    assert found.tolist() == [1, 0]

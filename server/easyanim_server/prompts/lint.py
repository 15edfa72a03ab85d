"""What in a prompt is likely to be misread: a small table of rules for English and Chinese, in pure Python.

The rules are few and quiet on purpose: a warning that is wrong teaches people to skip all of them. Nothing here changes
a text. docs/concepts.md explains the rules to callers; a test holds the two together.
"""

from __future__ import annotations

import re

from easyanim_server.domain.events import PromptWarning
from easyanim_server.domain.wording import counted
from easyanim_server.prompts.rules import NEGATED, NEGATION, RULES, SEQUENCE, Rule
from easyanim_server.prompts.terms import UNSPACED, found_in

EXCERPT_CHARS = 60
"""Longest excerpt; longer ones are cut with an ellipsis."""
LINTED_CHARS = 4000
"""The rules read so much of each text: more than any model does, and a few milliseconds of work at most."""
MOST_OF_A_RULE = 8
"""Warnings of one rule; the last one says how many more there are."""


_WORD = re.compile(rf"[^\W\d_{UNSPACED}]+")
_HAN = re.compile(rf"[{UNSPACED}]")
_TERMS = re.compile(r"[,.;，。、；\n]+")
FEWEST_WORDS = 3
FEWEST_HAN = 4


def lint(prompt: str, negative_prompt: str) -> list[PromptWarning]:
    """What in a prompt is likely to be misread.

    Args:
        prompt: What the video shall show; its first `LINTED_CHARS` are read, as of the other.
        negative_prompt: What to avoid; empty where there is none, or where guidance is off.

    Returns:
        The warnings, in the order of the rules; of each rule `MOST_OF_A_RULE` at most.
    """
    prompt, negative_prompt = prompt[:LINTED_CHARS], negative_prompt[:LINTED_CHARS]
    found = []
    for rule in RULES:
        found += _apply(rule, prompt)
    found += _wanted_and_avoided(prompt, negative_prompt)
    if len(_WORD.findall(prompt)) < FEWEST_WORDS and len(_HAN.findall(prompt)) < FEWEST_HAN:
        message = (
            "the prompt says little; describe who or what is seen, how it moves, where it is and what the camera does"
        )
        found.append(PromptWarning("too_short", message))
    return found


def too_long(name: str, tokens: int, max_tokens: int, unread: str) -> PromptWarning:
    """The warning of a text that the model reads only in part.

    Args:
        name: What the text is called.
        tokens: Its tokens within the chat template.
        max_tokens: What the model reads.
        unread: The part of the text that is ignored.
    """
    message = (
        f"the {name} has {counted(tokens, 'token')} and the model reads {max_tokens}; "
        "its end is ignored, so say it shorter"
    )
    return PromptWarning("too_long", message, _excerpt(unread))


def read_by_one(name: str, tokens: int, max_tokens: int, unread: str, short: str, long: str) -> PromptWarning:
    """The warning of a text that one of two encoders reads only in part.

    Args:
        name: What the text is called.
        tokens: Its tokens by the tokenizer that reads less.
        max_tokens: What that one reads.
        unread: The part of the text that it does not read.
        short: That tokenizer's name.
        long: The other one's.
    """
    message = (
        f"the {name} has {counted(tokens, 'token')} for {short}, which reads {max_tokens}; {long} alone reads its end, "
        "so say first what matters most"
    )
    return PromptWarning("long_for_one_encoder", message, _excerpt(unread))


def _apply(rule: Rule, prompt: str) -> list[PromptWarning]:
    if rule.pattern is NEGATION:
        return _limited([PromptWarning(rule.id, rule.message, _excerpt(text)) for text in _negations(prompt)])
    match = rule.pattern.search(prompt)
    if match is None:
        return []
    if rule.opposite is None:
        return [PromptWarning(rule.id, rule.message, _excerpt(match[0]))]
    other = rule.opposite.search(prompt)
    if other is None:
        return []
    first, second = sorted((match, other), key=re.Match.start)
    if SEQUENCE.search(prompt, first.start(), second.start()):
        return []
    both = second[0] if second[0].startswith(first[0]) else f"{first[0]} … {second[0]}"
    if first[0].startswith(second[0]):
        both = first[0]
    return [PromptWarning(rule.id, rule.message, _excerpt(both))]


def _negations(prompt: str) -> list[str]:
    """Every negation with what it negates, in the order of the text."""
    found, said = list(NEGATION.finditer(prompt)), []
    ends = [*(match.start() for match in found[1:]), len(prompt)]
    end = 0
    for match, most in zip(found, ends, strict=False):
        if match.start() < end:  # it is part of what the one before negates
            continue
        negated = NEGATED.match(prompt, match.end(), most)
        end = negated.end() if negated else match.end()
        said.append(prompt[match.start() : end].strip())
    return said


def _wanted_and_avoided(prompt: str, negative_prompt: str) -> list[PromptWarning]:
    """Terms that stand in both prompts; most often the default negative prompt speaks against the prompt."""
    terms = (term for part in _TERMS.split(negative_prompt) if len(term := part.strip().lower()) > 1)
    found = []
    for term in found_in(prompt, terms):
        message = (
            f"{_excerpt(term)!r} stands in the prompt and in the negative prompt; give a negative prompt without it"
        )
        found.append(PromptWarning("wanted_and_avoided", message, _excerpt(term)))
    return _limited(found)


def _limited(warnings: list[PromptWarning]) -> list[PromptWarning]:
    """The first of them; callers choose how many there are, and none of these is to be read by the hundred."""
    if len(warnings) <= MOST_OF_A_RULE:
        return warnings
    *kept, last = warnings[:MOST_OF_A_RULE]
    left = len(warnings) - MOST_OF_A_RULE
    return [*kept, PromptWarning(last.rule, f"{last.message}; there are {left} more of this kind", last.excerpt)]


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT_CHARS else text[: EXCERPT_CHARS - 1] + "…"

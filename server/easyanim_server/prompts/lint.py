"""What in a prompt is likely to be misread: a small table of rules for English and Chinese, in pure Python.

The rules are few and quiet on purpose: a warning that is wrong teaches people to skip all of them. Nothing here changes
a text. docs/concepts.md explains the rules to callers; a test holds the two together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EXCERPT_CHARS = 60
"""Longest excerpt; longer ones are cut with an ellipsis."""


@dataclass(frozen=True, slots=True)
class PromptWarning:
    """Something that the model is likely to misread."""

    rule: str
    message: str
    """One sentence: what is wrong, and what to write instead."""
    excerpt: str = ""
    """The part of the prompt that is meant; empty where it is all of it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Finds one thing in a prompt.

    With `opposite`, both patterns must be found, and no word of sequence between them: "zooms in, then out" is a plan.
    """

    id: str
    pattern: re.Pattern[str]
    message: str
    """As in `PromptWarning`."""
    opposite: re.Pattern[str] | None = None


def _words(*alternatives: str) -> re.Pattern[str]:
    """English alternatives as whole words, in any case."""
    return re.compile(rf"\b(?:{'|'.join(alternatives)})\b", re.IGNORECASE)


def _either(english: re.Pattern[str], *chinese: str) -> re.Pattern[str]:
    return re.compile(f"{english.pattern}|{'|'.join(chinese)}", re.IGNORECASE)


_CAMERA = r"(?:camera|shot|view|frame|lens)"
_SLOWLY = r"(?:\w+ly )?"  # an adverb may stand between the camera and what it does

_STILL_CAMERA = _either(
    _words(
        rf"(?:static|fixed|stationary|locked(?:-| )?off|motionless|still) {_CAMERA}",
        rf"{_CAMERA} (?:is|stays|remains|keeps|holds) (?:completely |perfectly )?(?:static|fixed|stationary|still)",
        r"tripod shot",
    ),
    "(?:镜头|机位|相机|摄像机)(?:保持|始终|完全)*(?:静止|固定|不动)",
    "(?:固定|静止|静态)(?:的)?(?:镜头|机位|相机|摄像机)",
)
_MOVING_CAMERA = _either(
    _words(
        rf"camera {_SLOWLY}(?:pans?|tilts?|zooms?|doll(?:y|ies)|tracks?|orbits?|moves?|follows?|pushes|pulls|circles)",
        r"(?:pan|tilt|dolly|tracking|orbit|crane|handheld|zoom) shot",
        r"(?:pans?|panning|zooms?|zooming) (?:in|out|left|right)",
    ),
    "镜头[^，。,.;；]{0,6}(?:推进|推近|拉近|拉远|平移|移动|环绕|跟随|跟拍|旋转|摇)",
    "(?:推镜头|拉镜头|摇镜头|移镜头|跟拍|手持镜头)",
)
_ZOOM_IN = _either(
    _words(r"(?:zooms?|zooming|doll(?:y|ies)|push(?:es)?) in"), "镜头[^，。,.;；]{0,6}(?:推进|推近|拉近)"
)
_ZOOM_OUT = _either(
    _words(r"(?:zooms?|zooming|doll(?:y|ies)|pulls?) (?:out|back)"), "镜头[^，。,.;；]{0,6}(?:拉远|拉开)"
)
_PAN_LEFT = _either(_words(r"(?:pan(?:s|ning)?|camera moves?) (?:to the )?left"), "镜头[^，。,.;；]{0,4}向左")
_PAN_RIGHT = _either(_words(r"(?:pan(?:s|ning)?|camera moves?) (?:to the )?right"), "镜头[^，。,.;；]{0,4}向右")
_TILT_UP = _either(_words(r"tilt(?:s|ing)? (?:up|upwards?)"), "镜头[^，。,.;；]{0,4}(?:向上|上摇)")
_TILT_DOWN = _either(_words(r"tilt(?:s|ing)? (?:down|downwards?)"), "镜头[^，。,.;；]{0,4}(?:向下|下摇)")
_SLOW_MOTION = _either(_words("slow[- ]motion", "slow-mo"), "慢动作", "慢镜头", "升格")
_FAST_MOTION = _either(
    _words("fast[- ]motion", "time[- ]?lapse", "hyper[- ]?lapse", "sped[- ]up", "fast[- ]forward"),
    "快动作", "快镜头", "快进", "延时摄影", "缩时摄影",
)  # fmt: skip

_NEGATION = _either(
    _words(
        r"no (?!longer|matter|doubt|less|more than|sooner|other than|\d)[a-z]+",
        r"without (?!stopping|pause|pausing|end|ending|interruption|a break|hesitation|haste|effort)[a-z]+",
        r"(?:do not|does not|don['’]t|doesn['’]t|must not|should not|shouldn['’]t|cannot|can['’]t (?!help)|"
        r"is not|isn['’]t|are not|aren['’]t) (?!only|just|far|stop|end|cease|too)[a-z]+",
        r"never (?!stop|end|ceas|tir)[a-z]+",
        r"avoid(?:ing|s)? [a-z]+",
        r"not (?!only|just|far|long|stop|end|cease|too|to mention|unlike)[a-z]+",
    ),
    "不要|不得|不含|不包含|不出现|不能|不许|没有|切勿|请勿|禁止|避免",
    "无(?!人机|人驾驶|限|数|垠|边|尽|比|论|声|缝|意|穷|际|疑|瑕|暇|私|畏|辜|奈|所|敌|线|花果|锡|忧|聊|语|双|与伦比|影灯)[\u4e00-\u9fff]",
)
_FOREIGN_SYNTAX = re.compile(
    r"\([^()]*:\s*\d+(?:\.\d+)?\s*\)|\({2,}|\[{2,}|<\s*lora:[^>]*>|(?<!\S)--[a-z]+\b|\bBREAK\b",
)

RULES: tuple[Rule, ...] = (
    Rule(
        "negation",
        _NEGATION,
        "the prompt says what shall not be there, which the model is likely to show; use the negative prompt for that",
    ),
    Rule(
        "still_and_moving_camera",
        _STILL_CAMERA,
        "the prompt asks for a camera that stands still and one that moves; keep one of them",
        _MOVING_CAMERA,
    ),
    Rule(
        "zoom_in_and_out", _ZOOM_IN, "the prompt asks for both directions of zoom at once; keep one of them", _ZOOM_OUT
    ),
    Rule(
        "pan_left_and_right",
        _PAN_LEFT,
        "the prompt asks for both directions of pan at once; keep one of them",
        _PAN_RIGHT,
    ),
    Rule(
        "tilt_up_and_down",
        _TILT_UP,
        "the prompt asks for both directions of tilt at once; keep one of them",
        _TILT_DOWN,
    ),
    Rule(
        "slow_and_fast_motion",
        _SLOW_MOTION,
        "the prompt asks for slow and for fast motion; keep one of them",
        _FAST_MOTION,
    ),
    Rule(
        "foreign_syntax",
        _FOREIGN_SYNTAX,
        "the prompt has weights or switches of another tool, which are read as ordinary text here; leave them out",
    ),
)
"""Why, by rule: the text encoder (Qwen2-VL) reads a description of the video, as the captions that the model was
trained with are; those describe what is to be seen, and one movement of the camera."""

_SEQUENCE = re.compile(
    r"\b(?:then|before|after|afterwards|first|finally|later|followed by|until|next)\b"
    "|然后|接着|随后|之后|再|先|最后|直到",
    re.IGNORECASE,
)
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # kana, Han and Hangul: no spaces between words, or few
_WORD = re.compile(rf"[^\W\d_{_UNSPACED}]+")
_HAN = re.compile(rf"[{_UNSPACED}]")
_TERMS = re.compile(r"[,.;，。、；\n]+")
FEWEST_WORDS = 3
FEWEST_HAN = 4


def lint(prompt: str, negative_prompt: str) -> list[PromptWarning]:
    """What in a prompt is likely to be misread.

    Args:
        prompt: What the video shall show.
        negative_prompt: What to avoid; empty where there is none, or where guidance is off.

    Returns:
        The warnings, in the order of the rules.
    """
    found = [warning for rule in RULES if (warning := _apply(rule, prompt)) is not None]
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
    message = f"the {name} has {tokens} tokens and the model reads {max_tokens}; its end is ignored, so say it shorter"
    return PromptWarning("too_long", message, _excerpt(unread))


def _apply(rule: Rule, prompt: str) -> PromptWarning | None:
    match = rule.pattern.search(prompt)
    if match is None:
        return None
    if rule.opposite is None:
        return PromptWarning(rule.id, rule.message, _excerpt(match[0]))
    other = rule.opposite.search(prompt)
    if other is None:
        return None
    first, second = sorted((match, other), key=re.Match.start)
    if _SEQUENCE.search(prompt, first.start(), second.start()):
        return None
    return PromptWarning(rule.id, rule.message, _excerpt(f"{first[0]} … {second[0]}"))


def _wanted_and_avoided(prompt: str, negative_prompt: str) -> list[PromptWarning]:
    """Terms that stand in both prompts; most often the default negative prompt speaks against the prompt."""
    lowered = prompt.lower()
    found = []
    for term in dict.fromkeys(term.strip().lower() for term in _TERMS.split(negative_prompt)):
        if len(term) < 2 or term not in lowered:  # patterns are slow to make, and callers choose how many
            continue
        whole = re.escape(term) if _HAN.search(term) else rf"\b{re.escape(term)}\b"
        if re.search(whole, lowered):
            message = f"{term!r} stands in the prompt and in the negative prompt; give a negative prompt without it"
            found.append(PromptWarning("wanted_and_avoided", message, _excerpt(term)))
    return found


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT_CHARS else text[: EXCERPT_CHARS - 1] + "…"

"""The table of rules on prompts, for English and Chinese: patterns alone, which `promptlint` applies.

Every pattern takes time that grows with the text's length and no faster: a repetition without a limit never stands
where a match may begin anew inside of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """Finds one thing in a prompt.

    With `opposite`, both patterns must be found, and no word of sequence between them: "zooms in, then out" is a plan.
    """

    id: str
    pattern: re.Pattern[str]
    message: str
    """One sentence: what is wrong, and what to write instead."""
    opposite: re.Pattern[str] | None = None


def _words(*alternatives: str) -> str:
    """English alternatives as whole words."""
    return rf"\b(?:{'|'.join(alternatives)})\b"


def _either(*alternatives: str) -> re.Pattern[str]:
    """Any of them, in any case."""
    return re.compile("|".join(alternatives), re.IGNORECASE)


_CAMERA = r"(?:camera|shot|view|frame|lens)"
_SLOWLY = r"(?:\w+ly )?"  # an adverb may stand between the camera and what it does
_HAN_CAMERA = "(?:镜头|画面|机位|相机|摄像机|摄影机|视角)"
_HAN_GAP = "[^，。,.;；、！？]{0,6}"  # between the camera and what it does
_JOINED = r"(?:, ?| and | or | & |/)"
_HAN_JOINED = "[，,、 ]?(?:和|与|及|又|且|并|并且|同时)?"

_STILL_CAMERA = _either(
    _words(
        rf"(?:static|fixed|stationary|locked(?:-| )?off|motionless|still) {_CAMERA}",
        rf"{_CAMERA} (?:is|stays|remains|keeps|holds) (?:completely |perfectly )?(?:static|fixed|stationary|still)",
        r"tripod shot",
    ),
    "(?:镜头|机位|相机|摄像机)(?:保持|始终|完全){0,3}(?:静止|固定|不动)",
    "(?:固定|静止|静态)(?:的)?(?:镜头|机位|相机|摄像机)",
)
_MOVING_CAMERA = _either(
    _words(
        rf"camera {_SLOWLY}(?:pans?|tilts?|zooms?|doll(?:y|ies)|tracks?|trucks?|orbits?|moves?|follows?|pushes|pulls|"
        "circles|slides?|rotates?|rolls?|cranes?|glides?)",
        r"(?:pan|tilt|dolly|tracking|orbit|crane|handheld|zoom) shot",
        r"(?:pans?|panning|zooms?|zooming) (?:in|out|left|right)",
    ),
    "镜头[^，。,.;；]{0,6}(?:推进|推近|拉近|拉远|平移|移动|[左右上下前后]移|环绕|跟随|跟拍|旋转|摇)",
    "(?:推镜头|拉镜头|摇镜头|移镜头|跟拍|手持镜头)",
)
_SLOW_MOTION = _either(_words("slow[- ]motion", "slow-mo"), "慢动作", "慢镜头", "升格")
_FAST_MOTION = _either(
    _words("fast[- ]motion", "time[- ]?lapse", "hyper[- ]?lapse", "sped[- ]up", "fast[- ]forward"),
    "快动作", "快镜头", "快进", "延时摄影", "缩时摄影",
)  # fmt: skip

NEGATION = _either(
    _words(
        r"no (?!longer|matter|doubt|less|more than|sooner|other than|\d)[a-z]+",
        r"without (?!stopping|pause|pausing|end|ending|interruption|a break|hesitation|haste|effort)[a-z]+",
        r"(?:do not|does not|don['’]t|doesn['’]t|must not|should not|shouldn['’]t|cannot|can['’]t (?!help)|"
        r"is not|isn['’]t|are not|aren['’]t) (?!only|just|far|stop|end|cease|too)[a-z]+",
        r"never (?!stop|end|ceas|tir)[a-z]+",
        r"avoid(?:ing|s)? [a-z]+",
        r"not (?!only|just|far|long|stop|end|cease|too|to mention|unlike)[a-z]+",
    ),
    "不要|不得(?!不)|不含|不包含|不出现|不能|不许|没有|切勿|请勿|禁止|避免",
    "无(?!人机|人驾驶|限|数|垠|边|尽|比|论|声|缝|意|穷|际|疑|瑕|暇|私|畏|辜|奈|所|敌|线|花果|锡|忧|聊|语|双|与伦比|影灯)[\u4e00-\u9fff]",
)
"""What says that something is not there, without all of what is not."""
NEGATED = re.compile(
    r"(?<=[a-zA-Z])(?: (?!(?:and|but|while|as|in|on|at|with|who|that|which|is|are|to|from|into|over|under|through|near|"
    r"during|because|so|then|for|by)\b)[\w'’-]{1,30}){0,4}"
    "|(?<=无[\u4e00-\u9fff])[\u4e00-\u9fff]{0,5}?(?=[的地，。,.;；、！？!?\\s]|$)"
    "|(?<![a-zA-Z])[^，。,.;；！？!?\\s]{0,12}",
)
"""What follows on a negation and is what it negates: up to the end of the clause, or to a word that begins another."""
_FOREIGN_SYNTAX = re.compile(
    r"\([^()]{0,200}:\s{0,9}\d{1,9}(?:\.\d{1,9})?\s{0,9}\)|\({2}|\[{2}|<\s{0,9}lora:[^<>]{0,200}>|(?<!\S)--[a-z]+\b"
    r"|\bBREAK\b",
)


@dataclass(frozen=True, slots=True)
class _Way:
    """One of two directions, as patterns."""

    english: str
    """How it is called after a verb."""
    chinese: str
    """How the movement is called after the camera."""
    named: str = r"(?!)"
    """English that says this direction alone, with its verb."""


def _directions(id: str, what: str, verbs: str, one: _Way, other: _Way) -> Rule:
    """A rule on both directions of a movement of the camera, also where the second is said without its verb.

    "Pans left and right" and "镜头左移，右移" say both directions as "pans left, pans right" does.
    """

    def said(way: _Way, after: _Way) -> re.Pattern[str]:
        return _either(
            _words(rf"(?:{verbs}) (?:{way.english})", way.named),
            _words(rf"(?:{verbs}) (?:{after.english}){_JOINED}(?:{way.english})"),
            f"{_HAN_CAMERA}{_HAN_GAP}(?:{way.chinese})",
            f"{_HAN_CAMERA}{_HAN_GAP}(?:{after.chinese}){_HAN_JOINED}(?:{way.chinese})",
        )

    message = f"the prompt asks for both directions of {what} at once; keep one of them"
    return Rule(id, said(one, other), message, said(other, one))


_MOVES = rf"camera {_SLOWLY}(?:moves?|moving|slides?|sliding|glides?|gliding|drifts?|travels?|swings?|goes)"

RULES: tuple[Rule, ...] = (
    Rule(
        "negation",
        NEGATION,
        "the prompt says what shall not be there, which the model is likely to show; use the negative prompt for that",
    ),
    Rule(
        "still_and_moving_camera",
        _STILL_CAMERA,
        "the prompt asks for a camera that stands still and one that moves; keep one of them",
        _MOVING_CAMERA,
    ),
    _directions(
        "zoom_in_and_out",
        "zoom",
        rf"zooms?|zooming|doll(?:y|ies)|dollying|{_MOVES}",
        _Way(r"in|forwards?|closer", "推进|推近|拉近|前推|放大|(?:向|往|朝)?前(?:移|进|推)|靠近", "push(?:es)? in"),
        _Way(
            r"out|back|backwards?|away", "拉远|拉开|后拉|缩小|(?:向|往|朝)?后(?:移|退|拉)|远离", "pulls? (?:out|back)"
        ),
    ),
    _directions(
        "pan_left_and_right",
        "pan",
        rf"pan(?:s|ning)?|doll(?:y|ies)|camera {_SLOWLY}(?:trucks?|tracks?|orbits?|turns?)|{_MOVES}",
        _Way(r"(?:to the )?left(?:wards?)?", "(?:向|往|朝)左|左(?:平移|移|摇|转|滑)"),
        _Way(r"(?:to the )?right(?:wards?)?", "(?:向|往|朝)右|右(?:平移|移|摇|转|滑)"),
    ),
    _directions(
        "tilt_up_and_down",
        "tilt",
        rf"tilt(?:s|ing)?|camera {_SLOWLY}(?:cranes?|pedestals?|booms?)|{_MOVES}",
        _Way(r"up(?:wards?)?", "(?:向|往|朝)上|上(?:摇|移|升)|升起|升高"),
        _Way(r"down(?:wards?)?", "(?:向|往|朝)下|下(?:摇|移|降)|降低"),
    ),
    _directions(
        "rotate_both_ways",
        "rotation",
        rf"{_CAMERA} {_SLOWLY}(?:rotat(?:es?|ing)|rolls?|rolling|spins?|spinning|turns?|turning|orbits?|circles)",
        _Way(r"clockwise", "顺时针"),
        _Way(r"(?:counter|anti)[- ]?clockwise", "逆时针"),
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

SEQUENCE = re.compile(
    r"\b(?:then|before|after|afterwards|first|finally|later|followed by|until|next)\b"
    "|然后|接着|随后|之后|再|先|最后|直到",
    re.IGNORECASE,
)
"""Words between two movements that make a plan of them."""

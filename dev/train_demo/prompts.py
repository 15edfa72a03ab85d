"""Sentences for scenes, in English and Chinese, in many wordings."""

from __future__ import annotations

import random
from dataclasses import dataclass

from dev.train_demo.motion import GENTLE, Scene, Thing
from easyanim_server.prompts.negative import NEGATIVE_CHINESE, NEGATIVE_ENGLISH


@dataclass(frozen=True)
class Wording:
    """What a language has to say; `{s}` stands for the subject and `{v}` for the word of speed, with its blank."""

    camera: dict[str, tuple[str, ...]]
    hold: tuple[str, ...]
    gentle: tuple[str, ...]
    subjects: tuple[str, ...]
    speeds: dict[str, tuple[str, ...]]
    things: dict[str, tuple[str, ...]]
    shapes: dict[str, tuple[str, ...]]
    colours: dict[str, str]
    joints: tuple[str, ...]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]


ENGLISH = Wording(
    camera={
        "pan_left": (
            "the camera pans {v}left", "pan {v}left", "camera pan to the left{V}", "the camera {v}turns to the left",
            "the camera {v}moves left", "{v}panning left", "pan left over {s}{V}", "the camera pans left across {s}{V}",
            "the view {v}pans to the left", "{s}, pan left{V}", "the scene {v}moves to the right", "left pan{V}",
            "{s} {v}drifts to the right", "camera panning left{V}", "look {v}left", "the camera {v}slides to the left",
        ),
        "pan_right": (
            "the camera pans {v}right", "pan {v}right", "camera pan to the right{V}",
            "the camera {v}turns to the right", "the camera {v}moves right", "{v}panning right",
            "pan right over {s}{V}", "the camera pans right across {s}{V}", "the view {v}pans to the right",
            "{s}, pan right{V}",
            "the scene {v}moves to the left", "right pan{V}", "{s} {v}drifts to the left", "camera panning right{V}",
            "look {v}right", "the camera {v}slides to the right",
        ),
        "tilt_up": (
            "the camera tilts {v}up", "tilt {v}up", "camera tilt up{V}", "the camera {v}moves up", "{v}tilting up",
            "the camera tilts up over {s}{V}", "the view {v}tilts up", "{s}, tilt up{V}", "the camera {v}rises",
            "the scene {v}moves down", "look {v}up", "the camera tilts upwards{V}", "the camera {v}looks up",
        ),
        "tilt_down": (
            "the camera tilts {v}down", "tilt {v}down", "camera tilt down{V}", "the camera {v}moves down",
            "{v}tilting down", "the camera tilts down over {s}{V}", "the view {v}tilts down", "{s}, tilt down{V}",
            "the camera {v}sinks", "the scene {v}moves up", "look {v}down", "the camera tilts downwards{V}",
            "the camera {v}looks down",
        ),
        "zoom_in": (
            "the camera zooms {v}in", "zoom {v}in", "zoom in on {s}{V}", "the camera {v}moves closer", "{v}zooming in",
            "the camera zooms in on {s}{V}", "the camera {v}pushes in", "{s}, zoom in{V}", "{s} {v}grows larger",
            "the view {v}zooms in", "camera zoom in{V}", "dolly in{V}", "{s} {v}comes closer",
        ),
        "zoom_out": (
            "the camera zooms {v}out", "zoom {v}out", "zoom out from {s}{V}", "the camera {v}moves back",
            "{v}zooming out", "the camera zooms out from {s}{V}", "the camera {v}pulls back", "{s}, zoom out{V}",
            "{s} {v}becomes smaller", "the view {v}zooms out", "camera zoom out{V}", "dolly out{V}",
            "{s} {v}moves away",
        ),
        "turn_clockwise": (
            "the picture {v}rotates clockwise", "rotate clockwise{V}", "{s} {v}rotates clockwise",
            "the view {v}turns clockwise", "{v}rotating clockwise", "the scene {v}rotates clockwise",
            "{s}, rotate clockwise{V}", "turn clockwise{V}", "the image {v}spins clockwise", "clockwise rotation{V}",
            "the camera view {v}rotates clockwise", "rotate right{V}",
        ),
        "turn_counterclockwise": (
            "the picture {v}rotates counterclockwise", "rotate counterclockwise{V}",
            "{s} {v}rotates counterclockwise", "the view {v}turns counterclockwise", "{v}rotating counterclockwise",
            "the scene {v}rotates anticlockwise", "{s}, rotate counter-clockwise{V}", "turn anticlockwise{V}",
            "the image {v}spins counterclockwise", "counterclockwise rotation{V}",
            "the camera view {v}rotates counterclockwise", "rotate left{V}",
        ),
    },
    hold=(
        "hold still", "the camera holds still", "a still shot of {s}", "nothing moves", "static camera",
        "the camera does not move", "{s}, hold still", "keep the camera still", "no motion", "a static shot of {s}",
        "the picture stays still", "stand still", "{s} stands still", "the scene is still", "freeze",
    ),
    gentle=(
        "{s}", "a video of {s}", "{s} in the wind", "a beautiful shot of {s}", "{s}, smooth motion",
        "bring {s} to life", "{s} in soft light", "animate {s}", "{s} at sunset", "steam rises from {s}",
        "{s}, cinematic", "gentle motion",
        "{s} comes to life", "clouds drift over {s}", "light plays over {s}", "make it move", "water flows by {s}",
    ),
    subjects=(
        "the scene", "a cup of coffee", "the mountains", "a fish", "the city", "a cat", "the bridge", "a flower",
        "an old windmill", "the sea", "a woman", "the forest", "a car", "the castle", "a bird", "the table",
        "a tower at night", "the street", "a dog", "the garden", "a lake", "people", "the house", "a bowl of fruit",
        "the temple", "a boat", "the sky", "a coral reef", "the tools", "a portrait", "this photograph", "the picture",
    ),
    speeds={
        "slow": ("slowly", "gently", "gradually", "very slowly"),
        "fast": ("quickly", "fast", "rapidly", "swiftly"),
    },
    things={
        "left": ("{t} moves {v}left", "{t} moves to the left{V}", "{t} {v}slides to the left", "{t} {v}flies left"),
        "right": ("{t} moves {v}right", "{t} moves to the right{V}", "{t} {v}slides to the right",
                  "{t} {v}flies right"),
        "up": ("{t} moves {v}up", "{t} {v}rises", "{t} {v}goes up", "{t} {v}floats upwards"),
        "down": ("{t} moves {v}down", "{t} {v}sinks", "{t} {v}goes down", "{t} {v}slides downwards"),
        "fall": ("{t} falls", "{t} falls down", "{t} drops", "{t} falls to the ground", "let {t} fall"),
        "bounce": ("{t} bounces", "{t} bounces on the ground", "{t} falls and bounces", "{t} is bouncing"),
    },
    shapes={
        "ball": ("ball", "ball", "circle", "sphere"), "box": ("box", "square", "cube"), "triangle": ("triangle",),
        "star": ("star",), "ring": ("ring", "hoop"),
    },
    colours={
        "red": "red ", "green": "green ", "blue": "blue ", "yellow": "yellow ", "orange": "orange ",
        "purple": "purple ", "white": "white ", "black": "black ", "pink": "pink ", "brown": "brown ",
    },
    joints=(" and ", ", then ", " while ", ", "),
    prefixes=("", "", "", "", "", "A video: ", "In this video, ", "Please ", "Cinematic shot, "),
    suffixes=("", "", "", ".", ".", ", smooth motion.", ", high quality", " in one smooth move"),
)  # fmt: skip

CHINESE = Wording(
    camera={
        "pan_left": (
            "镜头{v}向左平移", "镜头{v}向左摇", "{v}向左平移", "相机{v}向左移动", "画面{v}向左摇移", "{s}，镜头{v}左移",
            "摄像机{v}向左转", "镜头{v}从右向左摇过{s}", "{v}向左看", "{s}{v}向右移动", "场景{v}向右移", "左摇{v}",
        ),
        "pan_right": (
            "镜头{v}向右平移", "镜头{v}向右摇", "{v}向右平移", "相机{v}向右移动", "画面{v}向右摇移", "{s}，镜头{v}右移",
            "摄像机{v}向右转", "镜头{v}从左向右摇过{s}", "{v}向右看", "{s}{v}向左移动", "场景{v}向左移", "右摇{v}",
        ),
        "tilt_up": (
            "镜头{v}向上倾斜", "镜头{v}上摇", "{v}向上摇", "相机{v}向上移动", "镜头{v}上仰", "{s}，镜头{v}上移",
            "摄像机{v}抬起", "{v}向上看", "场景{v}向下移", "镜头{v}上升",
        ),
        "tilt_down": (
            "镜头{v}向下倾斜", "镜头{v}下摇", "{v}向下摇", "相机{v}向下移动", "镜头{v}俯下", "{s}，镜头{v}下移",
            "摄像机{v}放低", "{v}向下看", "场景{v}向上移", "镜头{v}下降",
        ),
        "zoom_in": (
            "镜头{v}拉近", "镜头{v}推近", "{v}放大", "画面{v}放大", "{s}，镜头{v}推进", "相机{v}靠近{s}", "{s}{v}变大",
            "{v}拉近镜头", "镜头{v}向前推进", "{v}推近{s}",
        ),
        "zoom_out": (
            "镜头{v}拉远", "镜头{v}后退", "{v}缩小", "画面{v}缩小", "{s}，镜头{v}拉远", "相机{v}远离{s}", "{s}{v}变小",
            "{v}拉远镜头", "镜头{v}向后拉", "{v}远离{s}",
        ),
        "turn_clockwise": (
            "画面{v}顺时针旋转", "{v}顺时针旋转", "{s}{v}顺时针旋转", "镜头{v}顺时针旋转", "{s}，{v}顺时针转动",
            "场景{v}顺时针转", "{v}按顺时针方向旋转", "{v}向右旋转",
        ),
        "turn_counterclockwise": (
            "画面{v}逆时针旋转", "{v}逆时针旋转", "{s}{v}逆时针旋转", "镜头{v}逆时针旋转", "{s}，{v}逆时针转动",
            "场景{v}逆时针转", "{v}按逆时针方向旋转", "{v}向左旋转",
        ),
    },
    hold=(
        "静止不动", "镜头静止", "保持静止", "画面不动", "镜头不动", "{s}，保持不动", "固定镜头", "{s}静止不动",
        "没有运动", "静态画面", "镜头固定，{s}", "不要动",
    ),
    gentle=(
        "{s}", "{s}的视频", "风中的{s}", "美丽的{s}", "{s}，平滑运动", "让{s}动起来", "柔和光线下的{s}", "夕阳下的{s}",
        "{s}上升起热气", "{s}，电影感", "轻轻地动", "让画面动起来", "光影掠过{s}",
    ),
    subjects=(
        "场景", "一杯咖啡", "群山", "一条鱼", "城市", "一只猫", "大桥", "一朵花", "老风车", "大海", "一个女人", "森林",
        "一辆汽车", "城堡", "一只鸟", "桌子", "夜晚的塔", "街道", "一只狗", "花园", "湖泊", "人们", "房子", "一碗水果",
        "寺庙", "小船", "天空", "珊瑚礁", "工具", "肖像", "这张照片", "画面",
    ),
    speeds={"slow": ("缓慢", "慢慢", "缓缓", "轻轻"), "fast": ("快速", "迅速", "飞快地", "快")},
    things={
        "left": ("{t}{v}向左移动", "{t}{v}往左走", "{t}{v}向左滑动", "{t}{v}飞向左边"),
        "right": ("{t}{v}向右移动", "{t}{v}往右走", "{t}{v}向右滑动", "{t}{v}飞向右边"),
        "up": ("{t}{v}向上移动", "{t}{v}上升", "{t}{v}往上走", "{t}{v}向上飘"),
        "down": ("{t}{v}向下移动", "{t}{v}下沉", "{t}{v}往下走", "{t}{v}向下滑"),
        "fall": ("{t}落下", "{t}掉下来", "{t}坠落", "{t}掉到地上", "让{t}落下"),
        "bounce": ("{t}弹跳", "{t}在地上弹跳", "{t}落下又弹起", "{t}弹起来"),
    },
    shapes={
        "ball": ("球", "小球", "圆", "球体"), "box": ("盒子", "方块", "正方形"), "triangle": ("三角形",),
        "star": ("星星",), "ring": ("圆环", "环"),
    },
    colours={
        "red": "红色的", "green": "绿色的", "blue": "蓝色的", "yellow": "黄色的", "orange": "橙色的",
        "purple": "紫色的", "white": "白色的", "black": "黑色的", "pink": "粉色的", "brown": "棕色的",
    },
    joints=("，同时", "，并且", "，", "，然后"),
    prefixes=("", "", "", "", "", "视频：", "请", "电影镜头，"),
    suffixes=("", "", "", "。", "。", "，运动平滑。", "，高质量"),
)  # fmt: skip

LANGUAGES = {"en": ENGLISH, "zh": CHINESE}

UNCONDITIONAL = ("", "", "", NEGATIVE_ENGLISH, NEGATIVE_CHINESE, "low quality, blurry", "模糊，低质量")
"""What clips of any motion are described by, so that guidance knows what no wish looks like."""


def describe(scene: Scene, rng: random.Random, language: str | None = None) -> str:
    """Put a scene into words.

    Args:
        scene: Its motions and its object are named.
        rng: Chooses the wording.
        language: ``en`` or ``zh``; either by default.
    """
    words = LANGUAGES[language or rng.choice(("en", "zh"))]
    subject = rng.choice(words.subjects)
    parts = [
        _fill(rng.choice(words.camera[what]), words, speed, rng) for what, speed in scene.motions if what != GENTLE
    ]
    if scene.motions and scene.motions[0][0] == GENTLE:
        parts = [rng.choice(words.gentle)]
    if scene.thing is not None:
        parts.insert(0 if rng.random() < 0.7 else len(parts), _thing(scene.thing, words, rng))
        if not scene.motions and rng.random() < 0.15:
            parts.append(rng.choice([text for text in words.hold if "{s}" not in text][:3]))
    if not parts:
        parts = [rng.choice(words.hold)]
    text = rng.choice(words.joints).join(parts).replace("{s}", subject)
    if rng.random() < 0.12 and scene.thing is None and subject not in text:
        text = (
            rng.choice(words.subjects)
            + rng.choice(("，" if words is CHINESE else ", ", "。" if words is CHINESE else ". "))
            + text
        )
    text = rng.choice(words.prefixes) + text + rng.choice(words.suffixes)
    return text[:1].upper() + text[1:] if rng.random() < 0.5 else text


def unconditional(rng: random.Random) -> str:
    """A text that asks for nothing."""
    return rng.choice(UNCONDITIONAL)


def _thing(thing: Thing, words: Wording, rng: random.Random) -> str:
    name = rng.choice(words.shapes[thing.shape])
    if thing.colour is not None and rng.random() < 0.85:
        name = words.colours[thing.colour] + name
    elif rng.random() < 0.3:
        name = "物体" if words is CHINESE else "object"
    if words is ENGLISH:
        name = rng.choice(("the ", "the ", "a ")) + name
    return _fill(rng.choice(words.things[thing.motion]), words, thing.speed, rng).replace("{t}", name)


def _fill(text: str, words: Wording, speed: str, rng: random.Random) -> str:
    """Put the word of speed in its place, with its blank or comma; Chinese has one place only."""
    word = rng.choice(words.speeds[speed]) if speed else ""
    if words is CHINESE:
        return text.replace("{v}", word)
    return text.replace("{v}", f"{word} " if word else "").replace("{V}", f" {word}" if word else "")

"""A request's picture: untrusted bytes into an upright RGB image, and that into a bucket's size."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NoReturn

from PIL import Image, ImageCms, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from easyanim_server.domain.errors import InvalidArgument, Violation
from easyanim_server.domain.job import Bucket, FitPolicy, Picture

MIN_SIDE = 16
"""Fewest pixels of width and height: one of the model's patches."""
MAX_ASPECT = 10.0
"""Most times that one side may be as long as the other."""

_ALLOWED = "must be a PNG, JPEG or WebP file"

_OTHER_FILES = (
    # Offset, bytes, name. More telling signatures come first.
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftypavis", "an AVIF"),
    (4, b"ftyphei", "a HEIC"),
    (4, b"ftyphev", "a HEIC"),
    (4, b"ftypmif1", "a HEIF"),
    (4, b"ftypmsf1", "a HEIF"),
    (4, b"ftyp", "an MP4 or MOV video"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"<svg", "an SVG"),
    (0, b"<?xml", "XML text"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"data:image/", "a data URL, not the file's own bytes"),
    (0, b"iVBORw0KGgo", "base64 text, not the file's own bytes"),
    (0, b"/9j/", "base64 text, not the file's own bytes"),
    (0, b"UklGR", "base64 text, not the file's own bytes"),
    (0, b"http", "an address, not the file's own bytes"),
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation; 1 is upright."""
_ORIENTATION_TAG = 0x0112


def load(data: bytes, field: str, *, max_pixels: int) -> Image.Image:
    """Decode a picture.

    EXIF orientation is applied, transparency is laid on black, of an animation the first picture is taken, colours
    are converted to sRGB from an embedded profile, 16-bit grey is scaled to 8 bits. A broken profile or EXIF block is
    passed over, as browsers do. Safe to call from any thread.

    Args:
        data: A PNG, JPEG or WebP file.
        field: The request's field, as refusals name it.
        max_pixels: Most pixels, width times height; checked before anything is decoded.

    Returns:
        An image in mode RGB, upright.

    Raises:
        InvalidArgument: `data` is no such file, is damaged, or its size is not allowed.
    """

    def refuse(description: str) -> NoReturn:
        raise InvalidArgument([Violation(field, description)])

    name, file_type = _recognise(data, refuse)
    if file_type is WebPImageFile and (size := _webp_size(data)):
        # libwebp takes memory for the whole canvas when the file is opened.
        _check_size(*size, max_pixels, refuse)
    try:
        # Image.open would do the same, but also hold the size against Pillow's own limit, which is one global for
        # all threads; `max_pixels` takes its place.
        image = file_type(io.BytesIO(data))
    except Exception as error:  # Pillow does not say what its readers raise on damaged files; it is about anything
        refuse(_damaged(name, error))
    _check_size(*image.size, max_pixels, refuse)
    try:
        image.load()
        return _upright(_to_srgb(_opaque(image), image.info.get("icc_profile")), _orientation(image))
    except Exception as error:
        refuse(_damaged(name, error))


def fit(image: Image.Image, bucket: Bucket, policy: FitPolicy) -> Picture:
    """Bring a picture to a bucket's size.

    All policies resample with Pillow's bicubic filter, which is antialiased when it shrinks. STRETCH is bit for bit
    what diffusers' EasyAnimate pipeline does to its input (`preprocess_image`); so are the others where the
    picture has the bucket's aspect already. Safe to call from any thread.

    Args:
        image: Mode RGB, of any size; left as it is.
        bucket: The size to bring it to.
        policy: CROP covers the frame and keeps the centre, PAD fits into the frame on black, STRETCH scales each
            direction by itself.

    Returns:
        The picture, `bucket.width` by `bucket.height`.
    """
    size = (bucket.width, bucket.height)
    if policy is FitPolicy.CROP:
        fitted = image.resize(size, Image.Resampling.BICUBIC, box=_centre(image, bucket))
    elif policy is FitPolicy.PAD:
        fitted = _pad(image, bucket)
    else:
        fitted = image.resize(size, Image.Resampling.BICUBIC)
    return Picture(bucket.width, bucket.height, fitted.tobytes())


def _recognise(data: bytes, refuse: Callable[[str], NoReturn]) -> tuple[str, type[ImageFile.ImageFile]]:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", PngImageFile
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", JpegImageFile  # of an MPO, the first picture
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP", WebPImageFile
    if not data:
        refuse(f"is empty; {_ALLOWED}")
    for offset, signature, name in _OTHER_FILES:
        if data.startswith(signature, offset):
            refuse(f"is {name}; {_ALLOWED}")
    refuse(f"starts with the bytes {data[:8].hex(' ')}, {len(data)} in all; {_ALLOWED}")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """The canvas's width and height; None for a chunk that has none, which Pillow refuses.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    head, chunk = data[:30].ljust(30, b"\0"), data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return None


def _check_size(width: int, height: int, max_pixels: int, refuse: Callable[[str], NoReturn]) -> None:
    if width * height > max_pixels:
        refuse(f"is {width}x{height}, {width * height} pixels; must have at most {max_pixels}")
    if min(width, height) < MIN_SIDE:
        refuse(f"is {width}x{height}; must have at least {MIN_SIDE} pixels on each side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        refuse(f"is {width}x{height}; one side must be at most {MAX_ASPECT:g} times as long as the other")


def _damaged(name: str, error: Exception) -> str:
    return f"is a {name} that cannot be decoded ({str(error)[:200] or type(error).__name__}); must be a whole file"


def _opaque(image: Image.Image) -> Image.Image:
    """The picture on black, in mode L, RGB or CMYK: those that colour profiles are made for."""
    if image.mode == "I;16":
        return _grey_16_to_8(image)
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        colours = image.convert("L" if grey else "RGB")
        return Image.composite(colours, Image.new(colours.mode, image.size), image.getchannel("A"))
    if grey:
        return image.convert("L")
    return image if image.mode in ("RGB", "CMYK") else image.convert("RGB")


def _grey_16_to_8(image: Image.Image) -> Image.Image:
    # Pillow's own conversion would clip at 255.
    table = [(level * 255 + 32767) // 65535 for level in range(65536)]
    transparent = image.info.get("transparency")
    if transparent is not None:
        table[transparent] = 0
    return image.convert("I").point(table, "L")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                # lcms changes a profile when it reads from it, so threads must not share one.
                ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
                outputMode="RGB",
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # broken, or made for other colours than the picture has
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # as above: whatever a damaged block makes Pillow raise
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _centre(image: Image.Image, bucket: Bucket) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest part in the image's middle that has the bucket's aspect."""
    width = min(image.width, image.height * bucket.width / bucket.height)
    height = min(image.height, image.width * bucket.height / bucket.width)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return left, top, image.width - left, image.height - top


def _pad(image: Image.Image, bucket: Bucket) -> Image.Image:
    scale = min(bucket.width / image.width, bucket.height / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    frame = Image.new("RGB", (bucket.width, bucket.height))
    shrunk = image.resize((width, height), Image.Resampling.BICUBIC)
    frame.paste(shrunk, ((bucket.width - width) // 2, (bucket.height - height) // 2))
    return frame

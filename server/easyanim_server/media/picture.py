"""A request's picture: untrusted bytes into an upright RGB image, and that into a bucket's size."""

from __future__ import annotations

import io
from typing import NoReturn

from PIL import Image, ImageChops, ImageCms
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from easyanim_server.domain.errors import InvalidArgument, Violation
from easyanim_server.domain.job import BLACK, Bucket, FitPolicy, Picture
from easyanim_server.media import picture_kinds, picture_scan
from easyanim_server.media.picture_kinds import Refuse

MIN_SIDE = 16
"""Fewest pixels of width and height: one of the model's patches."""
MAX_ASPECT = 10.0
"""Most times that one side may be as long as the other."""

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


def load(data: bytes, field: str, *, max_pixels: int, background: str = BLACK) -> Image.Image:
    """Decode a picture.

    EXIF orientation is applied, transparency is laid on `background`, of an animation the first picture is taken,
    colours are converted to sRGB from an embedded profile, 16-bit grey is scaled to 8 bits. A broken profile or EXIF
    block is passed over, as browsers do, and so are chunks of a PNG that are not needed to show it. A JPEG may lack
    the marker of its end, but no pixel.

    Args:
        data: A file of one of `picture_kinds.readable`.
        field: The request's field, as refusals name it.
        max_pixels: Most pixels, width times height; checked before anything is decoded.
        background: ``#rrggbb``, in sRGB.

    Returns:
        An image in mode RGB, upright.

    Raises:
        InvalidArgument: `data` is no such file, is damaged, has too many parts, or its size is not allowed.
        MemoryError: there is not enough memory to decode it.
    """

    def refuse(description: str) -> NoReturn:
        raise InvalidArgument([Violation(field, description)])

    name = picture_kinds.recognise(data, refuse)
    try:
        image = _decode(name, data, max_pixels, refuse)
        return _upright(_on_background(image, image.info.get("icc_profile"), background), _orientation(image))
    except picture_scan.TooManyParts as error:
        refuse(f"is a {name} that {error}")
    except (InvalidArgument, MemoryError):
        raise
    except Exception as error:  # Pillow does not say what its readers raise on damaged files; it is about anything
        refuse(_damaged(name, error))


def _decode(name: str, data: bytes, max_pixels: int, refuse: Refuse) -> Image.Image:
    """The pixels as they are stored, with the profile and the EXIF block in `info`."""
    # The classes are used in place of Image.open, which would also hold the size against Pillow's own limit, which is
    # one global for all threads; `max_pixels` takes its place.
    if name == "JPEG":
        picture_scan.check_jpeg(data)
        image: Image.Image = JpegImageFile(io.BytesIO(data))  # of an MPO, the first picture
    elif name == "PNG":
        data, profile = picture_scan.png_essentials(data)
        image = PngImageFile(io.BytesIO(data))
        image.info["icc_profile"] = profile
    elif name == "WebP":
        picture_scan.check_webp(data)
        if size := _webp_size(data):
            # libwebp takes memory for the whole canvas when the file is opened.
            _check_size(*size, max_pixels, refuse)
        image = WebPImageFile(io.BytesIO(data))
    else:
        image = picture_kinds.heif_reader(name)(io.BytesIO(data))
    _check_size(*image.size, max_pixels, refuse)
    try:
        image.load()
    except OSError:
        if name != "JPEG" or (image := _without_end(data)) is None:  # type: ignore[assignment]
            raise
    return image


def _without_end(data: bytes) -> Image.Image | None:
    """A JPEG that lacks nothing but the marker of its end; None where pixels are missing too.

    Where pixels are missing, the decoder makes them up from what stands in their place, so two different fillings
    give two different pictures.
    """
    data = data.rstrip(b"\xff")  # the marker's first half, where that is there
    zeros, ones = (JpegImageFile(io.BytesIO(data + filling + b"\xff\xd9")) for filling in (b"", b"\xaa" * 16))
    try:
        zeros.load()
        ones.load()
    except OSError:
        return None
    return zeros if ImageChops.difference(zeros, ones).getbbox() is None else None


def fit(image: Image.Image, bucket: Bucket, policy: FitPolicy, background: str = BLACK) -> Picture:
    """Bring a picture to a bucket's size.

    All policies resample with Pillow's bicubic filter, which is antialiased when it shrinks. STRETCH is bit for bit
    what diffusers' EasyAnimate pipeline does to its input (`preprocess_image`); so are the others where the
    picture has the bucket's aspect already. Safe to call from any thread.

    Args:
        image: Mode RGB, of any size; left as it is.
        bucket: The size to bring it to.
        policy: CROP covers the frame and keeps the centre, PAD fits into the frame, STRETCH scales each direction by
            itself.
        background: What PAD has beside the picture, ``#rrggbb``.

    Returns:
        The picture, `bucket.width` by `bucket.height`.
    """
    size = (bucket.width, bucket.height)
    if policy is FitPolicy.CROP:
        fitted = image.resize(size, Image.Resampling.BICUBIC, box=_centre(image, bucket))
    elif policy is FitPolicy.PAD:
        fitted = _pad(image, bucket, background)
    else:
        fitted = image.resize(size, Image.Resampling.BICUBIC)
    return Picture(bucket.width, bucket.height, fitted.tobytes())


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


def _check_size(width: int, height: int, max_pixels: int, refuse: Refuse) -> None:
    if width * height > max_pixels:
        refuse(f"is {width}x{height}, {width * height} pixels; must have at most {max_pixels}")
    if min(width, height) < MIN_SIDE:
        refuse(f"is {width}x{height}; must have at least {MIN_SIDE} pixels on each side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        refuse(f"is {width}x{height}; one side must be at most {MAX_ASPECT:g} times as long as the other")


def _damaged(name: str, error: Exception) -> str:
    return f"is a {name} that cannot be decoded ({str(error)[:200] or type(error).__name__}); must be a whole file"


def _on_background(image: Image.Image, profile: bytes | None, background: str) -> Image.Image:
    """The picture in sRGB on a colour of sRGB."""
    colours, mask = _colours_and_mask(image)
    if mask is None:
        return _to_srgb(colours, profile)
    if background == BLACK:  # which is black in every profile; the profile then sees what is shown
        shown = Image.new(colours.mode, image.size)
        shown.paste(colours, mask=mask)
        return _to_srgb(shown, profile)
    shown = Image.new("RGB", image.size, background)
    shown.paste(_to_srgb(colours, profile), mask=mask)
    return shown


def _colours_and_mask(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours in mode L, RGB or CMYK, those that profiles are made for; and in mode L how opaque each pixel is.

    The second is None where all of them are opaque.
    """
    if image.mode == "I;16":
        transparent, levels = image.info.get("transparency"), image.convert("I")
        # Pillow's own conversion would clip at 255.
        grey = levels.point([(level * 255 + 32767) // 65535 for level in range(65536)], "L")
        if transparent is None:
            return grey, None
        return grey, levels.point([0 if level == transparent else 255 for level in range(65536)], "L")
    is_grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("LA" if is_grey else "RGBA")
        return image.convert("L" if is_grey else "RGB"), image.getchannel("A")
    if is_grey:
        return image.convert("L"), None
    return image if image.mode in ("RGB", "CMYK") else image.convert("RGB"), None


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


def _pad(image: Image.Image, bucket: Bucket, background: str) -> Image.Image:
    scale = min(bucket.width / image.width, bucket.height / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    frame = Image.new("RGB", (bucket.width, bucket.height), background)
    shrunk = image.resize((width, height), Image.Resampling.BICUBIC)
    frame.paste(shrunk, ((bucket.width - width) // 2, (bucket.height - height) // 2))
    return frame

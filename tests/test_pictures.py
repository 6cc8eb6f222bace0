"""Pictures that people give: what each kind becomes, and what is refused before it costs anything."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from mocogan_tf.data.sources.fitting import FitOptions, fit_frame
from mocogan_tf.pictures import MAX_BYTES, PictureError, fit_picture, read_picture


def photo(width=80, height=48, seed=0):
    """A smooth picture: JPEG and WebP keep it nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, body, *extra):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND")


def differences(found, image, size=32):
    """The mean difference to the picture that a set's clips would hold of the same image."""
    expected = fit_frame(image, FitOptions(image_size=size), source=type("Source", (), {"mirrored": False})())
    return np.abs(found.astype(int) - expected).mean()


@pytest.mark.parametrize(
    ("kind", "options", "allowed"),
    [("PNG", {}, 0), ("BMP", {}, 0), ("WEBP", {"lossless": True}, 0), ("WEBP", {}, 4), ("JPEG", {}, 4), ("GIF", {}, 8),
     ("JPEG", {"progressive": True}, 4), ("JPEG2000", {}, None), ("TIFF", {}, None), ("PPM", {}, None)],
)  # fmt: skip
def test_each_kind_becomes_what_a_clip_of_a_set_would_hold_and_others_are_refused(kind, options, allowed):
    image = photo()
    data = encoded(image, kind, **options)
    if allowed is None:
        with pytest.raises(PictureError, match="must be a PNG, JPEG, WebP, BMP or GIF"):
            read_picture(data, 32)
        return
    pixels, said = read_picture(data, 32)
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert differences(pixels, image) <= allowed
    assert said == "80x48 cropped to 48x48, resized to 32x32"


def test_a_picture_of_the_size_is_taken_as_it_is_and_a_file_is_read_by_its_name(tmp_path):
    image = photo(32, 32)
    path = tmp_path / "face.jpg"  # The bytes count, not the name.
    path.write_bytes(encoded(image, "PNG"))
    pixels, said = read_picture(path, 32)
    assert np.array_equal(pixels, np.asarray(image))
    assert said == "32x32 taken as it is"


def test_a_grey_model_gets_luma():
    pixels, _ = read_picture(encoded(photo(32, 32), "PNG"), 32, channels=1)
    assert np.array_equal(pixels[..., 0], np.asarray(photo(32, 32).convert("L")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_upright(orientation):
    upright = photo(80, 48)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Of `Image.Transpose`, what makes it lie as a camera stored it.
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, said = read_picture(encoded(stored, "PNG", exif=exif), 32)
    assert differences(pixels, upright) == 0
    assert ("turned upright" in said) == (orientation > 1)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode):
    image = photo(32, 32).convert(mode)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    pixels, _ = read_picture(encoded(image, kind), 32)
    assert np.abs(pixels.astype(int) - np.asarray(image.convert("RGB"))).mean() < 8


def test_sixteen_bits_lose_the_lower_eight():
    grey = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    pixels, _ = read_picture(encoded(Image.fromarray(grey), "PNG"), 32)
    assert np.array_equal(pixels[..., 0], grey >> 8)
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in grey)
    pixels, _ = read_picture(png(32, 32, 16, 2, rows), 32)
    assert np.array_equal(pixels[..., 2], grey >> 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_is_put_on_white(mode):
    image = Image.new("RGBA", (32, 32), (200, 0, 0, 255))
    image.paste((200, 0, 0, 0), (0, 0, 32, 16))
    image.paste((0, 0, 0, 128), (0, 24, 32, 32))
    stored = image.quantize(8) if mode == "PA" else image.convert(mode)
    pixels, said = read_picture(encoded(stored, "PNG"), 32)
    assert (pixels[:16] == 255).all()
    assert abs(int(pixels[30, 0, 1]) - 127) <= 1
    assert "put on white" in said
    opaque = image.copy()
    opaque.putalpha(255)
    assert "white" not in read_picture(encoded(opaque, "PNG"), 32)[1]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_what_moves_is_refused(kind):
    moving = encoded(photo(32, 32), kind, save_all=True, append_images=[photo(32, 32, seed=1)])
    with pytest.raises(PictureError, match="several frames"):
        read_picture(moving, 32)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_what_moves_the_first_frame_is_taken_on_request_and_is_said(kind):
    see_through = photo(32, 32).convert("RGBA")
    see_through.paste((0, 0, 0, 0), (0, 8, 32, 16))
    moving = encoded(see_through, kind, save_all=True, append_images=[photo(32, 32, seed=1)])
    pixels, said = read_picture(moving, 32, of_moving=True)
    assert (pixels[9:15] == 255).all()
    assert np.abs(pixels[17:].astype(int) - np.asarray(photo(32, 32))[17:]).mean() < 8
    assert said == "first frame, 32x32 put on white"
    assert "first" not in read_picture(encoded(photo(32, 32), kind), 32, of_moving=True)[1]


def test_further_pictures_behind_a_photo_are_no_movement():
    pair = encoded(photo(32, 32), "MPO", save_all=True, append_images=[photo(16, 16, seed=1)])
    assert differences(read_picture(pair, 32)[0], photo(32, 32)) < 8


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_picture_that_is_cut_off_is_refused(kind, kept):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), kind)
    with pytest.raises(PictureError, match="cut off|whole"):
        read_picture(whole[: int(kept * len(whole))], 32)


@pytest.mark.parametrize(("size", "reason"), [((7, 90), "at least 8"), ((1, 1), "at least 8"), ((90, 7), "at least 8")])
def test_a_tiny_picture_is_refused(size, reason):
    with pytest.raises(PictureError, match=reason):
        read_picture(encoded(photo(*size), "PNG"), 32)


def test_floating_point_pixels_are_refused():
    with pytest.raises(PictureError, match="floating point"):
        fit_picture(Image.fromarray(np.zeros((32, 32), np.float32)), 32)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"GIF89a", b"%!PS-Adobe"]
)
def test_bytes_that_are_no_picture_are_refused(data):
    with pytest.raises(PictureError):
        read_picture(data, 32)


def test_a_file_that_is_missing_a_folder_or_no_picture_is_named(tmp_path):
    (tmp_path / "text.png").write_bytes(b"hello")
    for name, reason in (("none.png", "There is no such file"), ("", "is no file"), ("text.png", "must be a PNG")):
        with pytest.raises(PictureError, match=reason) as refused:
            read_picture(tmp_path / name, 32)
        assert str(refused.value).startswith(f"{tmp_path / name}: ")


def scans(number):
    """A progressive JPEG whose last scan is there many times."""
    data = encoded(photo(64, 64), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * number + data[-2:]


def gif(comments, of=b"\1a"):
    whole = encoded(photo(32, 32), "GIF")
    head = 13 + 3 * 256
    return whole[:head] + b"!\xfe" + of * comments + b"\0" + whole[head:]


BOMBS = {
    "pixels": ("10000x10000", lambda: png(10000, 10000, 8, 2, b"\0" * 1000)),
    "pixels beyond Pillow's own bound": ("more than 16777216 pixels", lambda: png(2**31 - 1, 2**31 - 1, 1, 0, b"")),
    "bytes": ("bytes; at most", lambda: encoded(photo(32, 32), "BMP") + bytes(MAX_BYTES)),
    "scans": ("scans", lambda: scans(2000)),
    "chunks": ("parts", lambda: png(32, 32, 8, 0, b"\0" * 33 * 32, chunk(b"teSt") * 300_000)),
    "segments": ("parts", lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 900_000 + encoded(photo(32, 32), "JPEG")[2:]),
    "bytes between segments": ("parts", lambda: b"\xff\xd8" + b"\xff" * 4_000_000),
    "comments": ("parts", lambda: gif(1_800_000)),
    "long comments": ("parts", lambda: gif(15_000, b"\xff" + b"a" * 255)),
    "a text that unpacks to much": (
        "damaged",
        lambda: png(32, 32, 8, 0, b"\0" * 33 * 32, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**25)))),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_costs_anything(name):
    reason, make = BOMBS[name]
    data = make()
    began = time.process_time()
    with pytest.raises(PictureError, match=reason):
        read_picture(data, 32, max_pixels=2**24)
    assert time.process_time() - began < 0.3


def test_the_largest_picture_of_the_limits_is_read():
    flat = png(4096, 4096, 1, 0, b"\0" * (513 * 4096))
    assert read_picture(flat, 32, max_pixels=2**24)[0].max() == 0
    with pytest.raises(PictureError, match="4096x4097"):
        read_picture(png(4096, 4097, 1, 0, b""), 32, max_pixels=2**24)

"""Makes test/fixtures/pictures: small picture files of many kinds, and table.json with what Pillow reads from each.

    python3 scripts/golden/make-pictures.py        Pillow 9.4 and numpy, as Debian 12 has them (python3-pil, python3-numpy)

The tests need no Python: they compare SHA-256 of the RGB bytes. The files are the same from run to run.
"""
import hashlib
import io
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin
import PIL

out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "test/fixtures/pictures")
out.mkdir(parents=True, exist_ok=True)
table = {}


def scene(width, height, seed=1):
    """Something with edges, gradients and noise."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    r = 255 * x / max(1, width - 1)
    g = 255 * y / max(1, height - 1)
    b = 127 + 127 * np.sin(x / 3.0 + y / 5.0)
    rgb = np.stack([r, g, b], 2) * 0.8 + noise
    rgb[height // 4 : height // 2, width // 4 : width // 2] = (250, 20, 30)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def add(name, data):
    (out / name).write_bytes(data)
    with Image.open(io.BytesIO(data)) as image:
        mode = image.mode
        rgb = image.convert("RGB")
    table[name] = {"mode": mode, "size": list(rgb.size), "rgb_sha256": hashlib.sha256(rgb.tobytes()).hexdigest()}


def save(name, image, format=None, **options):
    buffer = io.BytesIO()
    image.save(buffer, format or {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "gif": "GIF", "webp": "WEBP"}[name.split(".")[-1]], **options)
    add(name, buffer.getvalue())


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


base = scene(37, 23)
alpha = Image.fromarray(((np.mgrid[0:23, 0:37][1] * 7) % 256).astype(np.uint8))
rgba = base.copy()
rgba.putalpha(alpha)
grey = base.convert("L")
profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

# ---- JPEG ----
for subsampling, name in enumerate(("444", "422", "420")):
    save(f"jpeg-{name}.jpg", base, quality=80, subsampling=subsampling)
save("jpeg-progressive.jpg", base, quality=85, progressive=True)
save("jpeg-optimised-q10.jpg", base, quality=10, optimize=True)
save("jpeg-q100.jpg", base, quality=100)
save("jpeg-grey.jpg", grey, quality=80)
save("jpeg-grey-progressive.jpg", grey, quality=80, progressive=True)
save("jpeg-cmyk.jpg", base.convert("CMYK"), quality=90)
save("jpeg-cmyk-progressive.jpg", base.convert("CMYK"), quality=70, progressive=True)
save("jpeg-profile.jpg", base, quality=80, icc_profile=srgb)
for orientation in range(1, 9):
    save(f"jpeg-exif{orientation}.jpg", base, quality=80, exif=exif(orientation))
for width, height in ((2, 2), (2, 65), (65, 2), (7, 9), (8, 8), (16, 16), (17, 33), (250, 3)):
    save(f"jpeg-{width}x{height}.jpg", scene(width, height), quality=80, subsampling=2)
# Three components that are RGB, as the Adobe marker says: the colours of the DCT are the picture's.
stored = io.BytesIO()
Image.merge("YCbCr", base.split()).save(stored, "JPEG", quality=90, subsampling=0)
jfif = stored.getvalue()
adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
add("jpeg-rgb.jpg", jfif[:2] + adobe + jfif[2 + 18 :])

# ---- PNG ----
save("png-rgb.png", base)
save("png-rgba.png", rgba)
save("png-grey.png", grey)
save("png-grey-alpha.png", Image.merge("LA", (grey, alpha)))
save("png-bilevel.png", base.convert("1"))
save("png-palette.png", base.quantize(200, dither=0))
save("png-palette-4bit.png", base.quantize(16, dither=0), bits=4)
save("png-palette-2bit.png", base.quantize(4, dither=0), bits=2)
save("png-palette-1bit.png", base.quantize(2, dither=0), bits=1)
save("png-palette-transparent.png", base.quantize(64, dither=0), transparency=3)
save("png-palette-alphas.png", base.quantize(64, dither=0), transparency=bytes(range(0, 256, 4)))
save("png-rgb-transparent.png", base, transparency=(250, 20, 30))
save("png-grey-transparent.png", grey, transparency=200)
save("png-profile.png", base, icc_profile=srgb)
save("png-exif6.png", base, exif=exif(6))
for width, height in ((2, 2), (3, 64), (64, 3), (9, 7)):
    save(f"png-{width}x{height}.png", scene(width, height))


def png(width, height, bits, colour, rows, interlaced=False, extra=()):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    body = b"".join(chunk(kind, data) for kind, data in extra)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def adam7(pixels):
    """Rows of the seven passes; pixels [height, width, bytes]."""
    rows = b""
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
        part = pixels[y0::dy, x0::dx]
        if part.size:
            rows += b"".join(b"\0" + row.tobytes() for row in part)
    return rows


def plain(pixels):
    return b"".join(b"\0" + row.tobytes() for row in pixels)


pixels = np.asarray(base)
wide = (pixels.astype(np.uint16) * 257 ^ np.arange(23 * 37 * 3, dtype=np.uint16).reshape(pixels.shape) % 256).astype(">u2")
add("png-interlaced.png", png(37, 23, 8, 2, adam7(pixels), True))
add("png-interlaced-grey.png", png(37, 23, 8, 0, adam7(np.asarray(grey)[:, :, None]), True))
add("png-interlaced-rgba.png", png(37, 23, 8, 6, adam7(np.asarray(rgba)), True))
add("png-rgb16.png", png(37, 23, 16, 2, plain(wide)))
add("png-rgb16-interlaced.png", png(37, 23, 16, 2, adam7(wide), True))
add("png-rgba16.png", png(37, 23, 16, 6, plain(np.concatenate([wide, wide[:, :, :1]], 2))))
add("png-grey-alpha16.png", png(37, 23, 16, 4, plain(wide[:, :, :2])))
add("png-grey16.png", png(37, 23, 16, 0, plain(wide[:, :, :1])))
add("png-grey2.png", png(36, 23, 2, 0, b"".join(b"\0" + bytes((x * 37 + y * 11) % 256 for x in range(9)) for y in range(23))))
add("png-grey4.png", png(36, 23, 4, 0, b"".join(b"\0" + bytes((x * 37 + y * 11) % 256 for x in range(18)) for y in range(23))))
add("png-gamma.png", png(37, 23, 8, 2, plain(pixels), extra=[(b"gAMA", struct.pack(">I", 100000))]))

# ---- WebP ----
save("webp-lossless.webp", base, lossless=True)
save("webp-lossless-alpha.webp", rgba, lossless=True, exact=True)
save("webp-lossless-alpha-cleared.webp", rgba, lossless=True)
save("webp-lossy.webp", base, quality=70)
save("webp-lossy-alpha.webp", rgba, quality=70)
save("webp-exif6.webp", base, lossless=True, exif=exif(6).tobytes())
save("webp-animation.webp", base, save_all=True, append_images=[scene(37, 23, 2), scene(37, 23, 3)], lossless=True, duration=50)
save("webp-animation-alpha.webp", rgba, save_all=True, append_images=[base.convert("RGBA")], lossless=True, duration=50)
save("webp-2x2.webp", scene(2, 2), lossless=True)

# ---- TIFF ----
save("tiff-rgb.tif", base)
save("tiff-rgba.tif", rgba)
save("tiff-grey.tif", grey)
save("tiff-grey-alpha.tif", Image.merge("LA", (grey, alpha)))
save("tiff-bilevel.tif", base.convert("1"))
save("tiff-bilevel-fax.tif", base.convert("1"), compression="group4")
save("tiff-palette.tif", base.quantize(200, dither=0))
save("tiff-cmyk.tif", base.convert("CMYK"))
for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
    save(f"tiff-{compression.replace('tiff_', '').replace('adobe_', '')}.tif", base, compression=compression)
save("tiff-grey-white-is-zero.tif", grey, tiffinfo={262: 0})
for orientation in range(1, 9):
    save(f"tiff-orientation{orientation}.tif", base, tiffinfo={274: orientation})
save("tiff-orientation6-lzw.tif", base, compression="tiff_lzw", tiffinfo={274: 6})
save("tiff-orientation8-cmyk.tif", base.convert("CMYK"), tiffinfo={274: 8})
save("tiff-orientation3-grey.tif", grey, tiffinfo={274: 3})
save("tiff-pages.tif", base, save_all=True, append_images=[scene(20, 30, 2)])
save("tiff-grey16.tif", Image.fromarray(wide[:, :, 0].astype("<u2")))
save("tiff-float.tif", Image.fromarray(np.asarray(grey).astype(np.float32)))
save("tiff-profile.tif", base, icc_profile=srgb)

# ---- GIF ----
quantised = base.quantize(64, dither=0)
save("gif-palette.gif", quantised)
save("gif-grey.gif", grey)
save("gif-bilevel.gif", base.convert("1"))
save("gif-interlaced.gif", quantised, interlace=True)
save("gif-not-interlaced.gif", quantised, interlace=False)
save("gif-transparent.gif", quantised, transparency=quantised.getpixel((12, 8)))
save("gif-transparent-other.gif", quantised, transparency=quantised.getpixel((1, 1)))
save("gif-transparent-unused.gif", quantised, transparency=63)
save("gif-grey-transparent.gif", grey, transparency=grey.getpixel((12, 8)))
save("gif-animation.gif", quantised, save_all=True, append_images=[scene(37, 23, 2).quantize(32, dither=0)], duration=50)
save("gif-animation-transparent.gif", quantised, save_all=True, append_images=[scene(37, 23, 2).quantize(32, dither=0)], duration=50, transparency=quantised.getpixel((12, 8)), disposal=2)


def gif(screen, frame, indices, palette, transparent=None, local=None, background=0):
    """A GIF89a whose first frame covers a part of the screen; LZW of literals only, a clear code before the table grows."""
    (width, height), (left, top, frame_width, frame_height) = screen, frame
    bits = max(1, (len(palette) // 3 - 1).bit_length())
    flags = 0x80 | (bits - 1)
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, flags, background, 0) + palette.ljust(3 << bits, b"\0")
    if transparent is not None:
        data += b"\x21\xf9\x04" + struct.pack("<BHB", 1, 0, transparent) + b"\0"
    data += b"\x2c" + struct.pack("<HHHH", left, top, frame_width, frame_height)
    size = bits
    if local is not None:
        size = max(1, (len(local) // 3 - 1).bit_length())
        data += bytes([0x80 | (size - 1)]) + local.ljust(3 << size, b"\0")
    else:
        data += b"\0"
    size = max(2, size)
    codes, clear = [], 1 << size
    for i, index in enumerate(indices):
        if i % ((1 << size) - 2) == 0:
            codes.append(clear)
        codes.append(index)
    codes.append(clear + 1)
    value = sum(code << (i * (size + 1)) for i, code in enumerate(codes))
    body = value.to_bytes((len(codes) * (size + 1) + 7) // 8, "little")
    data += bytes([size]) + b"".join(bytes([len(body[i : i + 255])]) + body[i : i + 255] for i in range(0, len(body), 255)) + b"\0\x3b"
    return data


colours = bytes([10, 200, 30, 250, 20, 30, 40, 50, 240, 90, 90, 0, 1, 2, 3, 200, 100, 50, 60, 70, 80, 255, 255, 255])
others = bytes([7, 8, 9, 100, 120, 140, 33, 66, 99, 222, 111, 55])
cells = [(x * 3 + y) % 8 for y in range(6) for x in range(9)]
add("gif-part.gif", gif((16, 12), (3, 4, 9, 6), cells, colours, background=2))
add("gif-part-transparent.gif", gif((16, 12), (3, 4, 9, 6), cells, colours, transparent=5, background=2))
add("gif-part-local.gif", gif((16, 12), (3, 4, 9, 6), [c % 4 for c in cells], colours, local=others))
add("gif-part-local-transparent.gif", gif((16, 12), (3, 4, 9, 6), [c % 4 for c in cells], colours, transparent=2, local=others))

(out / "table.json").write_text(json.dumps({"made_with": {"pillow": PIL.__version__}, "pictures": dict(sorted(table.items()))}, indent=1) + "\n")
print(len(table), "pictures,", sum(f.stat().st_size for f in out.iterdir()) // 1024, "KiB")

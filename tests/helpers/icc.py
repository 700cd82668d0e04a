"""Build small ICC profiles (version 2) of every kind found in photographs."""

import struct
from collections.abc import Callable

import numpy as np

# Red, green and blue in XYZ under D50, as in the profiles of these names
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
WHITE = (0.96420, 1.0, 0.82491)
Curve = Callable[[np.ndarray], np.ndarray]  # encoded 0 to 1 → linear light


def srgb_curve(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def gamma(power: float) -> Curve:
    return lambda x: x**power


def rgb_profile(primaries: tuple, curve: Curve, name: str = "test") -> bytes:
    tags = {key: _xyz(color) for key, color in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    return _profile(
        b"mntr", b"RGB ", b"XYZ ", name, tags | {key: _curve(curve) for key in (b"rTRC", b"gTRC", b"bTRC")}
    )


def gray_profile(curve: Curve) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", "gray", {b"kTRC": _curve(curve)})


def cmyk_profile() -> bytes:
    """Return a profile of inks that absorb light in proportion, magenta more than the naive inverse of sRGB."""
    nodes = np.stack(np.meshgrid(*[(0.0, 1.0)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    lightness = 100 * (1 - nodes[:, 3]) * (1 - 0.25 * nodes[:, 0] - 0.45 * nodes[:, 1] - 0.1 * nodes[:, 2])
    a = np.where(nodes[:, 3] > 0, 0, 70 * nodes[:, 1] - 35 * nodes[:, 0])
    b = np.where(nodes[:, 3] > 0, 0, 90 * nodes[:, 2] - 45 * nodes[:, 0])
    lab = np.stack([lightness * 2.55, a + 128, b + 128], axis=1).round().clip(0, 255).astype(np.uint8)
    linear = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + linear * 4 + lab.tobytes() + linear * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", "ink", {b"A2B0": table, b"A2B1": table})


def _xyz(color: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * part) for part in color))


def _curve(curve: Curve) -> bytes:
    values = (65535 * curve(np.linspace(0, 1, 1024))).round().astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(values)) + values.tobytes()


def _profile(device: bytes, space: bytes, pcs: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _xyz(WHITE),
    } | tags
    directory, data = struct.pack(">I", len(tags)), b""
    for key, tag in tags.items():
        directory += key + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    size = 128 + len(directory) + len(data)
    header = struct.pack(">I4sI", size, bytes(4), 0x02400000) + device + space + pcs + bytes(12) + b"acsp" + bytes(28)
    return header + struct.pack(">3i", *(round(65536 * part) for part in WHITE)) + bytes(48) + directory + data

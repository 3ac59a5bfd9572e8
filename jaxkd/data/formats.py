"""The kind of a file by its suffix or its first bytes: a supported picture, an unsupported one, or none."""

from pathlib import Path

PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif",
    ".avif", ".avifs", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".ppm", ".pgm",
    ".pbm", ".pnm", ".tga", ".pcx", ".qoi",
)  # fmt: skip
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts")
# Suffixes of pictures that are not supported, and the name of their format.
UNSUPPORTED = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    ".jxl": "JPEG XL",
    **dict.fromkeys((".svg", ".svgz"), "SVG, a drawing"),
    **dict.fromkeys((".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef"), "a camera's raw format"),
    **dict.fromkeys((".psd", ".psb", ".xcf"), "the file of an image editor"),
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    ".exr": "OpenEXR",
}
# Suffixes of other files that lie beside pictures.
NOT_PICTURES = (
    ".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".md", ".html", ".htm", ".pdf", ".py", ".ipynb",
    ".npy", ".npz", ".pkl", ".h5", ".mat", ".zip", ".gz", ".tar", ".db", ".log", ".ini", ".toml", ".xmp", ".aae",
)  # fmt: skip
PICTURE = "picture"  # the kind of a supported picture
HEADER_BYTES = 32  # first bytes of a file that tell its kind
ADVICE = "convert it to JPEG or PNG"


def kind_of(file: Path) -> str:
    """The kind of a file by its suffix, else by its first bytes: PICTURE, a name in UNSUPPORTED, or ""."""
    suffix = file.suffix.lower()
    if suffix in PICTURES:
        return PICTURE
    if suffix in UNSUPPORTED:
        return UNSUPPORTED[suffix]
    if suffix in (*VIDEOS, *NOT_PICTURES):
        return ""
    try:
        with file.open("rb") as stream:
            return kind(stream.read(HEADER_BYTES))
    except OSError:
        return ""


def kind(content: bytes) -> str:
    """The kind of a file by its first bytes: PICTURE, a name in UNSUPPORTED, or "" for no picture."""
    brands = content[8:HEADER_BYTES] if content[4:8] == b"ftyp" else b""
    if any(brand in brands for brand in (b"avif", b"avis")):
        return PICTURE
    if any(brand in brands for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")):
        return "HEIC"
    if content.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")):
        return "JPEG XL"
    if content.startswith((b"<svg", b"<?xml")) and b"svg" in content[:HEADER_BYTES]:
        return "SVG, a drawing"
    if content.startswith(b"8BPS"):
        return "the file of an image editor"
    webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    bitmap = content[:2] == b"BM" and content[6:10] == bytes(4)
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\x00\x00\x00\x0cjP  ")
    return PICTURE if webp or bitmap or content.startswith(starts) else ""


def why_unknown(content: bytes) -> str:
    """Why the content of a file cannot be read as a picture, as the end of a sentence."""
    name = kind(content)
    if name and name != PICTURE:
        return f"is {name}, which is not read here; {ADVICE}."
    return "is not a picture; replace it or take it off the list."

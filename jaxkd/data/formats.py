"""Which files are pictures that can be read here, and what others are, by their names and first bytes."""

from pathlib import Path

PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif",
    ".avif", ".avifs", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".ppm", ".pgm",
    ".pbm", ".pnm", ".tga", ".pcx", ".qoi",
)  # fmt: skip
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts")
# Pictures that cannot be read here, and what they are.
OTHERS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    ".jxl": "JPEG XL",
    **dict.fromkeys((".svg", ".svgz"), "SVG, a drawing"),
    **dict.fromkeys((".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef"), "a camera's raw format"),
    **dict.fromkeys((".psd", ".psb", ".xcf"), "the file of an image editor"),
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    ".exr": "OpenEXR",
}
# Endings of files that lie beside pictures and are none.
BESIDE = (
    ".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".md", ".html", ".htm", ".pdf", ".py", ".ipynb",
    ".npy", ".npz", ".pkl", ".h5", ".mat", ".zip", ".gz", ".tar", ".db", ".log", ".ini", ".toml", ".xmp", ".aae",
)  # fmt: skip
READ = "picture"  # the kind of what can be read
HEAD = 32  # bytes that tell kinds apart
ADVICE = "convert it to JPEG or PNG"


def kind_of(file: Path) -> str:
    """What a file is, by its suffix or else by its first bytes: READ, a name in OTHERS, or "" for no picture."""
    suffix = file.suffix.lower()
    if suffix in PICTURES:
        return READ
    if suffix in OTHERS:
        return OTHERS[suffix]
    if suffix in (*VIDEOS, *BESIDE):
        return ""
    try:
        with file.open("rb") as opened:
            return kind(opened.read(HEAD))
    except OSError:
        return ""


def kind(content: bytes) -> str:
    """What the first bytes of a file are those of: READ, a name in OTHERS, or "" for no picture."""
    brands = content[8:HEAD] if content[4:8] == b"ftyp" else b""
    if any(brand in brands for brand in (b"avif", b"avis")):
        return READ
    if any(brand in brands for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")):
        return "HEIC"
    if content.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")):
        return "JPEG XL"
    if content.startswith((b"<svg", b"<?xml")) and b"svg" in content[:HEAD]:
        return "SVG, a drawing"
    if content.startswith(b"8BPS"):
        return "the file of an image editor"
    webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    bitmap = content[:2] == b"BM" and content[6:10] == bytes(4)
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\x00\x00\x00\x0cjP  ")
    return READ if webp or bitmap or content.startswith(starts) else ""


def why_unknown(content: bytes) -> str:
    """Why the content of a file is not read as a picture, as the end of a sentence."""
    found = kind(content)
    if found and found != READ:
        return f"is {found}, which is not read here; {ADVICE}."
    return "is not a picture; replace it or take it off the list."

"""Vision transformers of random weights under the names of each family of files, and their forward pass in numpy."""

import math

import numpy as np

WIDTH, DEPTH, HEADS, HIDDEN, TABLE = 128, 2, 2, 192, 5
PIECES = {  # name here -> (shape, name in Hugging Face's DINOv2, in its DINOv3, in the authors' files)
    "cls": ((1, 1, WIDTH), "embeddings.cls_token", "embeddings.cls_token", "cls_token"),
    "positions": ((1, 1 + TABLE**2, WIDTH), "embeddings.position_embeddings", None, "pos_embed"),
    "patch.w": (None, "embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.weight",
                "patch_embed.proj.weight"),
    "patch.b": ((WIDTH,), "embeddings.patch_embeddings.projection.bias", "embeddings.patch_embeddings.bias",
                "patch_embed.proj.bias"),
    "norm.w": ((WIDTH,), "layernorm.weight", "norm.weight", "norm.weight"),
    "norm.b": ((WIDTH,), "layernorm.bias", "norm.bias", "norm.bias"),
}  # fmt: skip
BLOCK = {
    "norm1": ("norm1", "norm1", "norm1"),
    "query": ("attention.attention.query", "attention.q_proj", "attn.query"),
    "key": ("attention.attention.key", "attention.k_proj", "attn.key"),
    "value": ("attention.attention.value", "attention.v_proj", "attn.value"),
    "out": ("attention.output.dense", "attention.o_proj", "attn.proj"),
    "scale1": ("layer_scale1.lambda1", "layer_scale1.lambda1", "ls1.gamma"),
    "norm2": ("norm2", "norm2", "norm2"),
    "up": ("mlp.fc1", "mlp.up_proj", "mlp.fc1"),
    "down": ("mlp.fc2", "mlp.down_proj", "mlp.fc2"),
    "scale2": ("layer_scale2.lambda1", "layer_scale2.lambda1", "ls2.gamma"),
}
FORMS = {"hf2": 0, "hf3": 1, "authors": 2}
STEM = ("encoder.layer.{}.", "layer.{}.", "blocks.{}.")
SHAPES = {"up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)}


def weights(*, seed=0, patch=14, registers=0, rotary=False):
    """Random weights by plain names."""
    rng = np.random.default_rng(seed)

    def draw(*shape, scale=0.3, around=0.0):
        return (around + scale * rng.standard_normal(shape)).astype(np.float32)

    out = {name: draw(*(shape or (WIDTH, 3, patch, patch))) for name, (shape, *_) in PIECES.items()}
    out["patch.w"] *= 0.1
    if rotary:
        del out["positions"]
    if registers:
        out["registers"] = draw(1, registers, WIDTH)
    for block in range(DEPTH):
        for name in BLOCK:
            stem = f"{block}.{name}"
            if name.startswith("scale"):
                out[stem] = draw(WIDTH, scale=0.1, around=0.7)
            elif name.startswith("norm"):
                out |= {f"{stem}.w": draw(WIDTH, scale=0.1, around=1.0), f"{stem}.b": draw(WIDTH, scale=0.1)}
            else:
                rows, columns = SHAPES.get(name, (WIDTH, WIDTH))
                out |= {f"{stem}.w": draw(rows, columns, scale=columns**-0.5), f"{stem}.b": draw(rows, scale=0.1)}
        if rotary:
            out[f"{block}.key.b"] = np.zeros(WIDTH, np.float32)
    return out


def named(plain, form):
    """The weights under the names of a family of files."""
    which, out = FORMS[form], {}
    for name, (_, *names) in PIECES.items():
        if name in plain:
            out[names[which]] = plain[name]
    if "registers" in plain:
        out["register_tokens" if form == "authors" else "embeddings.register_tokens"] = plain["registers"]
    out["mask_token" if form == "authors" else "embeddings.mask_token"] = np.zeros((1, WIDTH), np.float32)
    for block in range(DEPTH):
        for name, names in BLOCK.items():
            stem = STEM[which].format(block) + names[which]
            if name.startswith("scale"):
                out[stem] = plain[f"{block}.{name}"]
            else:
                out |= {f"{stem}.weight": plain[f"{block}.{name}.w"], f"{stem}.bias": plain[f"{block}.{name}.b"]}
        if form == "hf3":
            del out[f"layer.{block}.attention.k_proj.bias"]
        if form == "authors":
            stem = f"blocks.{block}.attn."
            for kind in ("weight", "bias"):
                parts = [out.pop(f"{stem}{name}.{kind}") for name in ("query", "key", "value")]
                out[f"{stem}qkv.{kind}"] = np.concatenate(parts)
    return out


def forward(plain, picture, *, patch, resize="plain", eps=1e-6):
    """The normalised tokens [h w c] of the patches of one normalised picture [H W 3], in float64."""
    plain = {name: array.astype(np.float64) for name, array in plain.items()}
    rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
    x = np.zeros((rows, columns, WIDTH))
    for row in range(rows):
        for column in range(columns):
            window = picture[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            x[row, column] = np.einsum("hwc,dchw->d", window, plain["patch.w"]) + plain["patch.b"]
    first, angles = plain["cls"][0], None
    if "positions" in plain:
        first = first + plain["positions"][0, :1]
        x = x + table(plain["positions"][0, 1:], rows, columns, resize)
    else:
        angles = rotations(rows, columns)
    if "registers" in plain:
        first = np.concatenate([first, plain["registers"][0]])
    x = np.concatenate([first, x.reshape(-1, WIDTH)])
    for block in range(DEPTH):
        x = one_block({name.removeprefix(f"{block}."): a for name, a in plain.items()}, x, angles, eps)
    x = normed(x, plain["norm.w"], plain["norm.b"], eps)
    return x[len(first) :].reshape(rows, columns, WIDTH)


def one_block(of, x, angles, eps):
    def dense(name, x):
        return x @ of[f"{name}.w"].T + of[f"{name}.b"]

    inner = normed(x, of["norm1.w"], of["norm1.b"], eps)
    size, outs = WIDTH // HEADS, []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        query, key, value = (dense(name, inner)[:, part] for name in ("query", "key", "value"))
        if angles is not None:
            query, key = turned(query, angles), turned(key, angles)
        scores = query @ key.T / math.sqrt(size)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        outs.append(scores / scores.sum(-1, keepdims=True) @ value)
    x = x + of["scale1"] * dense("out", np.concatenate(outs, -1))
    hidden = dense("up", normed(x, of["norm2.w"], of["norm2.b"], eps))
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return x + of["scale2"] * dense("down", hidden)


def normed(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def rotations(rows, columns):
    """[patches, size / 2]: as complex numbers of length 1, pairs of which a head's halves are."""
    size, out = WIDTH // HEADS, []
    for row in range(rows):
        for column in range(columns):
            places = [2 * (row + 0.5) / rows - 1, 2 * (column + 0.5) / columns - 1]
            periods = [100 ** (4 * index / size) for index in range(size // 4)]
            out.append([2 * np.pi * place / period for place in places for period in periods])
    return np.exp(1j * np.array(out))


def turned(tokens, angles):
    half = tokens.shape[1] // 2
    numbers = tokens[-len(angles) :, :half] + 1j * tokens[-len(angles) :, half:]
    numbers = numbers * angles
    return np.concatenate([tokens[: -len(angles)], np.concatenate([numbers.real, numbers.imag], 1)])


def table(values, rows, columns, resize):
    values = values.reshape(TABLE, TABLE, -1)
    if (rows, columns) == (TABLE, TABLE):
        return values
    return np.einsum("hy,wx,yxc->hwc", taps(rows, resize), taps(columns, resize), values)


def taps(length, resize):
    more = 0.1 if resize == "offset" else 0.0
    ratio, out = TABLE / (length + more), np.zeros((length, TABLE))
    for position in range(length):
        center = (position + 0.5) * ratio
        if resize == "antialias":
            wide = max(ratio, 1.0)
            row = [keys((index + 0.5 - center) / wide, -0.5) for index in range(TABLE)]
            out[position] = np.array(row) / sum(row)
            continue
        low = math.floor(center - 0.5)
        for index in range(low - 1, low + 3):
            out[position, min(max(index, 0), TABLE - 1)] += keys(center - 0.5 - index, -0.75)
    return out


def keys(x, a):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

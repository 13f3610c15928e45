#!/usr/bin/env python3
"""Writes a Hugging Face checkpoint of a real model's shape with random BF16 weights: for times, not for text.

    random_checkpoint.py SHAPE FOLDER TOKENIZER      SHAPE: one of those below; TOKENIZER: a folder whose tokenizer is copied

Needs nothing but Python. The same 32 MiB of random numbers come again and again, from another place in every tensor: 16 GB in a
quarter of a minute where the disk takes them.
"""
import json
import os
import pathlib
import shutil
import struct
import sys

# hidden, feed-forward, layers, heads, key-value heads, head, vocabulary, output shares the embeddings
SHAPES = {
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 64, 128256, True),
    "llama-3-8b": (4096, 14336, 32, 32, 8, 128, 128256, False),
    "mini": (256, 512, 2, 4, 2, 64, 2048, True),
}
BLOCK = 32 << 20


def tensors(shape):
    hidden, ffn, layers, heads, kv, head, vocabulary, tied = shape
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for i in range(layers):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (hidden,)
        yield at + "self_attn.q_proj.weight", (heads * head, hidden)
        yield at + "self_attn.k_proj.weight", (kv * head, hidden)
        yield at + "self_attn.v_proj.weight", (kv * head, hidden)
        yield at + "self_attn.o_proj.weight", (hidden, heads * head)
        yield at + "post_attention_layernorm.weight", (hidden,)
        yield at + "mlp.gate_proj.weight", (ffn, hidden)
        yield at + "mlp.up_proj.weight", (ffn, hidden)
        yield at + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (vocabulary, hidden)


def random_block():
    """BF16 numbers of either sign, mostly between 2^-7 and 2^-5, one of 64 up to 2^-3, a quarter below 2^-7."""
    sizes = [0x3d] + [0x3b] * 16 + [0x3c] * 47   # sign and upper bits of the exponent; the lowest is in the other byte
    table = bytes(byte & 0x80 | sizes[byte & 63] for byte in range(256))
    block = bytearray(BLOCK)
    block[0::2] = os.urandom(BLOCK // 2)
    block[1::2] = os.urandom(BLOCK // 2).translate(table)
    return memoryview(bytes(block))


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES:
        raise SystemExit(f"{__doc__}\nShapes: {', '.join(SHAPES)}")
    shape, folder = SHAPES[sys.argv[1]], pathlib.Path(sys.argv[2])
    hidden, ffn, layers, heads, kv, head, vocabulary, tied = shape
    folder.mkdir(parents=True, exist_ok=True)
    for file in pathlib.Path(sys.argv[3]).glob("tokenizer*"):
        shutil.copy(file, folder)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head,
        "vocab_size": vocabulary, "tie_word_embeddings": tied, "hidden_act": "silu", "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"}))
    header, at = {}, 0
    for name, dims in tensors(shape):
        size = 2
        for n in dims:
            size *= n
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block, begin = random_block(), 0
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in header.values():
            left = entry["data_offsets"][1] - entry["data_offsets"][0]
            if len(entry["shape"]) == 1:
                file.write(b"\x80\x3f" * (left // 2))   # norms: ones
                continue
            begin = (begin + 1234566) % BLOCK
            here = begin
            while left:
                part = block[here:here + left]
                file.write(part)
                left -= len(part)
                here = 0


if __name__ == "__main__":
    main()

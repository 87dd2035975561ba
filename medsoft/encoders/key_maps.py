"""Names of weights in published files, turned into those of timm's models of today.

What a file holds besides the encoder gets the prefix ``beside.``, which recipes leave out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

State = dict[str, Tensor]
BESIDE = "beside."

TRANSFORMERS = (
    # Vision transformers of Hugging Face's transformers (ViT, Dinov2, with registers), of its versions 4 and 5.
    (r"^(?:vit|dinov2|dinov2_with_registers|model|backbone)\.(?=embeddings|encoder|layers|layernorm)", ""),
    (r"^embeddings\.(?:cls_token)$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:embeddings\.mask_token$|pooler\.)", rf"{BESIDE}\g<0>"),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:attention\.)?(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.(q|k|v)_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    # Meta's own DINOv2.
    (r"^register_tokens$", "reg_token"),
    (r"^mask_token$", f"{BESIDE}mask_token"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
PARTS = {"attn.qkv": (("query", "key", "value"), ("q", "k", "v")), "mlp.fc1": (("gate_proj", "up_proj"),)}
"""Layers that timm keeps as one, and their parts in other packages, in order."""


def vit(state: State) -> State:
    """Weights of a vision transformer of transformers, of Meta's DINOv2 or of timm.

    With registers, timm keeps the position of the class token in the token itself.
    """
    has_places_of_class_token = any(key.endswith("register_tokens") for key in state)
    state = {_renamed(key): value for key, value in state.items()}
    for whole, choices in PARTS.items():
        layer = whole.partition(".")[0]
        for parts in choices:
            for key in [key for key in state if key.rpartition(".")[0].endswith(f".{layer}.{parts[0]}")]:
                start, kind = key.split(f".{layer}.")[0], key.rpartition(".")[2]
                keys = [f"{start}.{layer}.{part}.{kind}" for part in parts]
                if all(part in state for part in keys):
                    state[f"{start}.{whole}.{kind}"] = torch.cat([state.pop(part) for part in keys])
    if has_places_of_class_token and {"pos_embed", "cls_token"} <= state.keys():
        places = state["pos_embed"]
        state["cls_token"] = state["cls_token"] + places[:, :1]
        state["pos_embed"] = places[:, 1:]
    return state


def mae_mean(state: State) -> State:
    """Weights of a masked autoencoder for the mean of its patches: the norm after the mean begins as it is drawn.

    The encoder's own norm was trained for all tokens and has no place there, in the authors' fine-tuning as here.
    """
    state = {f"{BESIDE}{key}" if _is_of_decoder(key) else key: value for key, value in state.items()}
    if "fc_norm.weight" not in state and "cls_token" in state:
        width = state["cls_token"].shape[-1]
        state |= {"fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)}
        for key in ("norm.weight", "norm.bias"):
            if key in state:
                state[f"{BESIDE}{key}"] = state.pop(key)
    return state


def _is_of_decoder(key: str) -> bool:
    return key == "mask_token" or key.startswith("decoder")


def cae(state: State) -> State:
    """Weights of PanDerm, after CAE: the encoder beside teacher and decoder, and no bias of the keys."""
    state = of_encoder(state)
    found = {}
    for key, value in state.items():
        start, _, name = key.rpartition(".")
        if name == "q_bias":
            values = state[f"{start}.v_bias"]
            found[f"{start}.qkv.bias"] = torch.cat([value, torch.zeros_like(values), values])
        elif name in ("gamma_1", "gamma_2"):
            found[f"{start}.ls{name[-1]}.gamma"] = value
        elif name != "v_bias":
            found[key] = value
    return found


def conch(state: State) -> State:
    """Weights of CONCH's vision tower, and of CONCH v1.5's: trunk, pooling by a query, and the rest of CoCa beside."""
    found = {}
    for key, value in state.items():
        name = key.removeprefix("visual.")
        if name.startswith("trunk."):
            found[name.removeprefix("trunk.")] = value
        elif name.startswith("ln_contrast."):
            found[name.replace("ln_contrast.", "query_norm.")] = value
        elif name.startswith("attn_pool_contrast."):
            found |= _query_pool(name.removeprefix("attn_pool_contrast."), value, state, key)
        else:
            found[f"{BESIDE}{key}"] = value
    return found


def _query_pool(name: str, value: Tensor, state: State, key: str) -> State:
    """What one entry of the pooling becomes; torch's attention has its projections' biases in one tensor."""
    width = value.shape[0] // 3
    if name == "attn.in_proj_bias":
        return {"query_pool.to_q.bias": value[:width], "query_pool.to_kv.bias": value[width:]}
    if name == "attn.k_proj_weight":
        values = state[key.replace("k_proj_weight", "v_proj_weight")]
        return {"query_pool.to_kv.weight": torch.cat([value, values])}
    if name == "attn.v_proj_weight":
        return {}
    names = {"attn.q_proj_weight": "to_q.weight", "attn.out_proj.weight": "to_out.weight"}
    names |= {"attn.out_proj.bias": "to_out.bias"}
    return {f"query_pool.{names.get(name, name)}": value}


def clip_trunk(state: State) -> State:
    """Weights of the vision tower that open_clip builds from timm: its trunk, and the rest of CLIP beside."""
    return _within(state, "visual.trunk.")


def swin_unetr(state: State) -> State:
    """Weights of SwinUNETR's encoder, alone or in a whole SwinUNETR, as published or as MONAI keeps them."""
    if any(key.startswith("swinViT.") for key in state):
        state = _within(state, "swinViT.")
    known = re.compile(r"^(patch_embed|layers\dc?)\.")
    renamed = {}
    for key, value in state.items():
        key = key.replace(".mlp.fc1.", ".mlp.linear1.").replace(".mlp.fc2.", ".mlp.linear2.")
        renamed[key if known.match(key) or key.startswith(BESIDE) else f"{BESIDE}{key}"] = value
    return renamed


def of_vision_model(state: State) -> State:
    """Weights of FLAIR's network for images, before its projection; the rest of the model beside."""
    return _within(state, "vision_model.model.")


def eva(state: State) -> State:
    """Weights of EVA-02 as its authors name them; after masked pretraining the last norm becomes that of the mean.

    Rotary positions are computed, and not read.
    """
    is_masked = "mask_token" in state
    has_own_keys = any(key.endswith("attn.q_proj.weight") for key in state)
    renamed = {}
    for key, value in state.items():
        if "rope" in key or key.startswith(("mask_token", "lm_head.")):
            renamed[f"{BESIDE}{key}"] = value
            continue
        for theirs, ours in EVA:
            key = key.replace(theirs, ours)
        if has_own_keys:
            key = key.replace("q_bias", "q_proj.bias").replace("v_bias", "v_proj.bias")
        renamed[f"fc_{key}" if is_masked and key.startswith("norm.") else key] = value
    return renamed


EVA = (
    (".mlp.ffn_ln.", ".mlp.norm."),
    (".attn.inner_attn_ln.", ".attn.norm."),
    (".mlp.w12.", ".mlp.fc1."),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.w3.", ".mlp.fc2."),
)
"""Parts of names in the authors' files, and in timm's models."""


def merlin(state: State) -> State:
    """Weights of Merlin's network for images, whose three equal colours become the one channel that they are of."""
    if any(key.startswith("encode_image.") for key in state):
        state = _within(state, "encode_image.i3_resnet.")
    stem = state.get("conv1.weight")
    return state if stem is None else state | {"conv1.weight": stem.sum(dim=1, keepdim=True)}


def of_encoder(state: State) -> State:
    """Weights of an encoder alone, or within a network that calls it so."""
    return _within(state, "encoder.") if any(key.startswith("encoder.") for key in state) else state


def _within(state: State, prefix: str) -> State:
    """The weights under a prefix, without it; all others beside."""
    return {
        key.removeprefix(prefix) if key.startswith(prefix) else f"{BESIDE}{key}": value for key, value in state.items()
    }


def swin_of_timm_05(state: State) -> State:
    """Weights of a Swin transformer of timm 0.5 under today's names: stages now begin with the downsampling.

    Tables that are computed from the sizes alone are left out.
    """
    renamed = {}
    for key, value in state.items():
        if key.endswith(("relative_position_index", "attn_mask")):
            continue
        if ".downsample." in key:
            stage = int(key.split(".")[1])
            key = key.replace(f"layers.{stage}.", f"layers.{stage + 1}.", 1)
        renamed[key] = value
    return renamed


def _renamed(key: str) -> str:
    for pattern, replacement in TRANSFORMERS:
        key = re.sub(pattern, replacement, key)
    return key


KEY_MAPS: dict[str, Callable[[State], State]] = {
    "vit": vit,
    "mae_mean": mae_mean,
    "cae": cae,
    "conch": conch,
    "clip_trunk": clip_trunk,
    "swin_unetr": swin_unetr,
    "of_vision_model": of_vision_model,
    "eva": eva,
    "merlin": merlin,
    "of_encoder": of_encoder,
    "swin_of_timm_05": swin_of_timm_05,
}
"""By the name that a recipe gives."""

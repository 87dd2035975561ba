"""Layer-wise rates, a part that is frozen at first, mixed batches, and hybrids: of models, without a run."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from medsoft.classifiers.image import Classifier
from medsoft.classifiers.mixing import Mixing
from medsoft.classifiers.optimizer import WarmupCosine, parameter_groups
from medsoft.classifiers.slices import SliceClassifier
from medsoft.errors import InputError
from medsoft.models.attribution.patches import can_be_attributed, patch_contributions
from medsoft.specs import Covariates, DataSpec
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
HYBRID = {"encoder": "test_resnet", "embed_dim": 24, "depth": 2, "num_heads": 2}


def spec(task: Task = BINARY, size: tuple[int, ...] = (32, 32), covariates: Covariates | None = None) -> DataSpec:
    scale = None if task.has_classes else (5.0, 2.0)
    return DataSpec(task, 3, size, np.ones(task.class_counts_shape, np.int64), scale, covariates)


def model(backbone: str = "resnet10t", arguments: dict | None = None, **options) -> Classifier:
    torch.manual_seed(0)
    return Classifier(spec(), backbone, arguments, **options)


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("resnet18", ["conv1.weight", "layer1.0.conv1.weight", "layer3.1.conv1.weight", "layer4.1.conv2.weight"]),
        ("tf_efficientnet_lite0", ["conv_stem.weight", "blocks.1.0.conv_pw.weight", "conv_head.weight"]),
        ("convnext_atto", ["stem.0.weight", "stages.1.blocks.0.conv_dw.weight", "head.norm.weight"]),
        ("vit_seqnorm_tiny_patch16_224", ["patch_embed.proj.weight", "blocks.3.attn.proj.weight", "norm.weight"]),
        ("resnet18_3d", ["conv1.weight", "layer1.0.conv1.weight", "layer4.1.conv2.weight"]),
        (
            "hybrid",
            [
                "encoder.conv1.0.weight",
                "encoder.layer1.0.conv1.weight",
                "encoder.layer4.0.conv1.weight",
                "map_norm.bias",
            ],
        ),
    ],
)
def test_earlier_layers_learn_slower_in_every_architecture(name, order):
    network = timm.create_model(name, num_classes=0, **({"encoder": "resnet10t"} if name == "hybrid" else {}))
    groups = parameter_groups(network, nn.Linear(2, 2), 1.0, 0.05, 0.8)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    rates = [rate[id(dict(network.named_parameters())[key])] for key in order]
    assert rates == sorted(rates)
    assert len(set(rates)) == len(rates)
    assert rates[-1] == 1.0
    assert len(rate) == len(list(network.parameters())) + 2, "each parameter is in one group"


def test_all_that_is_new_in_a_hybrid_learns_at_the_full_rate():
    own = model("hybrid", HYBRID, layer_decay=0.5, lr=1.0)
    rate = {id(parameter): group["lr"] for group in own.parameter_groups() for parameter in group["params"]}
    for key, parameter in own.named_parameters():
        assert (rate[id(parameter)] < 1) == key.startswith("backbone.encoder."), key


def test_a_network_that_does_not_name_its_layers_is_refused(monkeypatch):
    monkeypatch.delattr(timm.models.resnet.ResNet, "group_matcher")
    with pytest.raises(InputError, match=r"layer_decay: ResNet does not say what its layers are"):
        model(layer_decay=0.8)


def test_a_part_that_rests_begins_late_with_a_warm_up_of_its_own():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [parameters[0]]}, {"params": [parameters[1]], "rest_epochs": 2}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = WarmupCosine(optimizer, 5, 100, 0.0, steps_of_epoch=10)
    seen = []
    for _ in range(100):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    head, rests = zip(*seen, strict=True)
    plain = WarmupCosine(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 5, 100, 0.0)
    assert list(head) == [plain.lr_lambdas[0](step) for step in range(100)]
    assert rests[:20] == (0.0,) * 20
    assert list(rests[20:25]) == pytest.approx([head[20 + i] * (i + 1) / 6 for i in range(5)])
    assert rests[25:] == head[25:]


# --- frozen at first --------------------------------------------------------------------------------------------------


class _Samples(torch.utils.data.Dataset):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(8, 3, 32, 32, generator=generator)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index):
        return {"image": self.images[index], "target": torch.tensor(index % 2), "index": torch.tensor(index)}


class _States(Callback):
    """The state after each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def train(own: Classifier, epochs: int) -> list[dict[str, torch.Tensor]]:
    states = _States()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[states],
    )
    loader = DataLoader(_Samples(), batch_size=4)
    trainer.fit(own, loader, loader)
    return states.states


@pytest.mark.parametrize(
    ("backbone", "arguments", "part"), [("resnet10t", None, "backbone."), ("hybrid", HYBRID, "backbone.encoder.")]
)
def test_the_pretrained_part_is_frozen_for_the_first_epochs_batch_statistics_too(backbone, arguments, part):
    own = model(backbone, arguments, freeze_epochs=2, lr=1e-2, warmup_epochs=0)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    first, second, third = train(own, 3)
    frozen = [name for name in before if name.startswith(part)]
    assert any(name.endswith("running_mean") for name in frozen)
    for state in (first, second):
        assert all(torch.equal(state[name], before[name]) for name in frozen)
        assert not torch.equal(state["head.weight"], before["head.weight"])
    new = [name for name in before if name.startswith("backbone.blocks.")]
    assert all(not torch.equal(first[name], before[name]) for name in new if name.endswith("mlp.fc1.weight"))
    # One weight: what the batch normalisation after it takes away has no gradient.
    changed = [name for name in frozen if not torch.equal(third[name], before[name])]
    assert any(name.endswith("running_mean") for name in changed)
    assert any(name.endswith("conv1.weight") for name in changed)
    assert all(parameter.requires_grad for parameter in own.parameters())


def test_of_several_processes_the_gradients_of_a_part_that_rests_are_dropped_before_they_are_clipped():
    own = model("hybrid", HYBRID, freeze_epochs=1)
    type(own).rests, before = True, type(own).rests
    try:
        own.training_loss({"image": torch.randn(4, 3, 32, 32), "target": torch.tensor([0, 1, 0, 1])}).backward()
        own.on_before_optimizer_step(torch.optim.SGD(own.parameters()))
    finally:
        type(own).rests = before
    assert all(parameter.grad is None for parameter in own.pretrained_part.parameters())
    assert own.head.weight.grad is not None


def test_frozen_for_good_and_frozen_at_first_is_one_too_many():
    with pytest.raises(InputError, match="freezes for good"):
        model(freeze=True, freeze_epochs=1)


def test_the_encoder_of_slices_is_frozen_too():
    torch.manual_seed(0)
    own = SliceClassifier(spec(size=(16, 16, 8)), encoder="resnet10t", freeze=True)
    assert not own.train().encoder.training
    assert own.train().aggregator.training
    trained = {id(parameter) for group in own.parameter_groups() for parameter in group["params"]}
    assert not trained & {id(parameter) for parameter in own.encoder.parameters()}


# --- mixing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 3, 8, 10), (6, 2, 4, 5, 6)])
def test_mixup_is_the_weighted_mean_of_an_image_and_the_one_before_it(shape):
    images = torch.randn(shape)
    kept = images.clone()
    shares = set()
    for seed in range(5):
        torch.manual_seed(seed)
        mixed, share = Mixing(mixup=1.0, cutmix=0)(images)
        assert torch.allclose(mixed, share * images + (1 - share) * images.roll(1, 0), atol=1e-6)
        shares.add(share)
        torch.manual_seed(seed)
        assert torch.equal(Mixing(mixup=1.0, cutmix=0)(images)[0], mixed), "the same seed draws the same"
    assert len(shares) == 5
    assert torch.equal(images, kept)


def test_cutmix_takes_each_pixel_from_one_of_two_images_and_says_the_share_of_them():
    images = torch.arange(6.0)[:, None, None, None].expand(6, 3, 20, 30)
    for seed in range(5):
        torch.manual_seed(seed)
        mixed, share = Mixing(mixup=0, cutmix=1.0)(images)
        own = mixed == images
        assert torch.equal(own | (mixed == images.roll(1, 0)), torch.ones_like(own))
        assert own.float().mean() == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("kind", ["multiclass", "ordinal", "multilabel"])
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(kind, monkeypatch):
    task = Task.of(kind, ("a", "b", "c"))
    torch.manual_seed(0)
    own = Classifier(spec(task), "resnet10t", mixup=0.4).eval()
    batch = {"image": torch.randn(4, 3, 32, 32), "target": torch.tensor([0, 2, 1, 0])}
    if kind == "multilabel":
        batch["target"] = torch.tensor([[1, 0, float("nan")], [0, 0, 1], [1, 1, 1], [float("nan"), 0, 0]])
    share = 0.3
    monkeypatch.setattr(Mixing, "__call__", lambda self, x: (share * x + (1 - share) * x.roll(1, 0), share))
    logits = own(share * batch["image"] + (1 - share) * batch["image"].roll(1, 0))
    expected = share * own.objective.loss(logits, batch["target"])
    expected += (1 - share) * own.objective.loss(logits, batch["target"].roll(1, 0))
    assert float(own.training_loss(batch).detach()) == pytest.approx(float(expected), abs=1e-5)
    if kind == "multiclass":
        soft = share * F.one_hot(batch["target"], 3) + (1 - share) * F.one_hot(batch["target"].roll(1, 0), 3)
        assert float(F.cross_entropy(logits, soft)) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("task", "size", "covariates", "options", "said"),
    [
        (Task.of("regression", ()), (32, 32), None, {"mixup": 0.2}, "model.mixup: two images mixed have no regression"),
        (BINARY, (16, 16, 16), None, {"cutmix": 1.0}, "model.cutmix pastes rectangles"),
        (BINARY, (32, 32), Covariates(("age",), ((60.0, 9.0),)), {"cutmix": 1.0}, "model.cutmix: .* no covariates"),
        (BINARY, (32, 32), None, {"mixup": -1.0}, "model.mixup -1 must be 0 or more"),
    ],
)
def test_what_cannot_be_mixed_is_refused(task, size, covariates, options, said):
    backbone = "resnet10t" if len(size) == 2 else "resnet18_3d"
    with pytest.raises(InputError, match=said):
        Classifier(spec(task, size, covariates), backbone, **options)


# --- hybrids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "size", "grid"),
    [
        ("resnet10t", (64, 96), (2, 3)),
        ("tf_efficientnet_lite0", (64, 64), (2, 2)),
        ("vit_seqnorm_tiny_patch16_224", (48, 64), (3, 4)),
        ("swin_tiny_patch4_window7_224", (224, 224), (7, 7)),
        ("vit_seqnorm_tiny_patch8_224", (16, 24, 16), (2, 3, 2)),
    ],
)
def test_any_network_with_a_map_is_an_encoder_of_pictures_and_of_volumes(encoder, size, grid):
    arguments = HYBRID | {"encoder": encoder}
    if "seqnorm" in encoder:
        arguments["encoder_args"] = {"depth": 1}
    torch.manual_seed(0)
    own = Classifier(spec(size=size), "hybrid", arguments).eval()
    image = torch.randn(2, 3, *size)
    tokens, found = own.backbone.embed_tokens(image)
    assert found == grid
    assert tokens.shape == (2, 1 + int(np.prod(grid)), 24)
    assert own(image).shape == (2, 2)
    assert own.layers == list(own.backbone.blocks), "what the out-of-distribution detector looks at"
    assert can_be_attributed(own.backbone)


@pytest.mark.parametrize("attention", ["seqnorm", "softmax", "sima", "relu_linear", "soft", "soft_norm"])
def test_a_hybrid_takes_images_of_any_size_with_any_attention(attention):
    own = model("hybrid", HYBRID | {"attention": attention}).eval()
    for size in ((32, 32), (64, 128), (50, 70)):
        assert own(torch.randn(1, 3, *size)).isfinite().all()


def test_the_contributions_of_a_hybrids_tokens_add_up_to_what_its_last_attention_adds():
    """As of a vision transformer: the sum is the branch's output without its bias, along the logit's gradient."""
    own = model("hybrid", HYBRID).eval()
    image = torch.randn(2, 3, 64, 96)
    backbone = own.backbone
    contributions = patch_contributions(backbone, image, lambda features: own.head(features)[:, 1])
    assert contributions.shape == (2, 2, 3)
    last = backbone.blocks[-1]
    with torch.no_grad():
        x, grid = backbone.embed_tokens(image)
        x = backbone.blocks[0](x, None, grid)
        branch = last.attn(last.norm1(x), None, grid)[:, 0]
    branch.requires_grad_()
    token = x[:, 0] + branch
    token = token + last.mlp(last.norm2(token))
    logit = own.head(backbone.forward_head(backbone.norm(token[:, None]), pre_logits=True))[:, 1]
    (gradient,) = torch.autograd.grad(logit.sum(), branch)
    assert torch.allclose(logit, own(image)[:, 1], atol=1e-5)
    whole = ((branch - last.attn.proj.bias) * gradient).sum(dim=1)
    with torch.no_grad():  # the class token has a share of its own
        weights, values = last.attn.contributions(last.norm1(x), 0, None, grid)
        of_class = torch.einsum("bh,bhd->bhd", weights[..., 0], values[:, :, 0]).flatten(1) @ last.attn.proj.weight.T
    assert torch.allclose(contributions.sum(dim=(1, 2)) + (of_class * gradient).sum(1), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "name the encoder"),
        ({"encoder": "resnet1"}, "encoder 'resnet1': no model of timm"),
        ({"encoder": "resnet10t", "encoder_args": {"pretrained": True}}, "Nothing is downloaded"),
        ({"encoder": "resnet10t", "patch_size": 8}, "patch_size is not an option of a hybrid"),
        ({"encoder": "resnet10t", "global_pool": "avg"}, "loses what seqnorm attention computes"),
    ],
)
def test_a_hybrid_that_cannot_be_built_says_why(arguments, said):
    with pytest.raises(InputError, match=said):
        model("hybrid", arguments)

"""CLIP-T and the aesthetic head on small random weights of the real format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from likeness.evaluation.metrics.aesthetic import AestheticHead
from likeness.evaluation.metrics.clip import ClipModel, clip_t
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def tiny_clip():
    """A random CLIP of open_clip's own making, 64 wide, reading 32 px pictures."""
    open_clip = pytest.importorskip("open_clip", exc_type=ImportError)

    torch.manual_seed(0)
    model = open_clip.model.CLIP(
        24,
        open_clip.CLIPVisionCfg(layers=2, width=64, patch_size=8, image_size=32),
        open_clip.CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=2),
        quick_gelu=True,
    )
    return model.eval()


@pytest.fixture(scope="session")
def clip_file(tiny_clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "ViT-tiny.safetensors"
    save_file({key: value.contiguous() for key, value in tiny_clip.state_dict().items()}, path)
    return path


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), np.uint8) for size in ((48, 48), (64, 40), (32, 50))]


def test_embeddings_are_those_of_open_clip_with_its_own_preprocessing(tiny_clip, clip_file, pictures):
    import open_clip

    model = ClipModel(clip_file)
    preprocess = open_clip.transform.image_transform(
        32, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    with torch.inference_mode():
        seen = tiny_clip.encode_image(torch.stack([preprocess(Image.fromarray(each)) for each in pictures]))
        asked = tiny_clip.encode_text(open_clip.tokenize(["a person", "two people in a park"]))
    images, texts = model.embed_images(pictures), model.embed_texts(["a person", "two people in a park"])
    np.testing.assert_allclose(images, seen / seen.norm(dim=-1, keepdim=True), atol=1e-5)
    np.testing.assert_allclose(texts, asked / asked.norm(dim=-1, keepdim=True), atol=1e-5)
    expected = torch.nn.functional.cosine_similarity(seen[:1], asked[1:])[0]
    assert clip_t(images[0], texts[1]) == pytest.approx(100 * float(expected), abs=1e-3)
    assert model.width == 24


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_other_formats_of_the_same_weights_are_read(tiny_clip, clip_file, pictures, tmp_path):
    expected = ClipModel(clip_file).embed_images(pictures)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in tiny_clip.state_dict().items()}}, tmp_path / "a.pt"
    )
    np.testing.assert_array_equal(ClipModel(tmp_path / "a.pt").embed_images(pictures), expected)

    class Archive(torch.nn.Module):
        """Holds the weights as the first published files do; what it computes plays no part."""

        def __init__(self):
            super().__init__()
            self.visual, self.transformer = tiny_clip.visual, tiny_clip.transformer

        def forward(self, x):
            return x

    scripted = torch.jit.trace(Archive(), torch.zeros(1))
    torch.jit.save(scripted, str(tmp_path / "b.pt"))
    with pytest.raises(ValueError, match="b.pt is no complete CLIP"):  # read, and found to lack the text's embedding
        ClipModel(tmp_path / "b.pt")


def test_the_activation_of_laions_weights_is_another(clip_file, pictures):
    quick, plain = ClipModel(clip_file), ClipModel(clip_file, quick_gelu=False)
    assert np.abs(quick.embed_images(pictures) - plain.embed_images(pictures)).max() > 1e-4


def test_other_files_are_no_clip(tmp_path):
    pytest.importorskip("open_clip", exc_type=ImportError)
    save_file({"vision_model.embeddings.class_embedding": torch.zeros(4)}, tmp_path / "hf.safetensors")
    with pytest.raises(ValueError, match="a CLIP in the layout of transformers"):
        ClipModel(tmp_path / "hf.safetensors")
    save_file({"weight": torch.zeros(4)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors is no complete CLIP"):
        ClipModel(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="the weights .*missing.pt could not be read"):
        ClipModel(tmp_path / "missing.pt")


def test_a_linear_head_and_a_stack_of_linear_layers_score(tmp_path):
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(3, 6))
    weight, bias = random.normal(size=(1, 6)), random.normal(size=1)
    torch.save({"weight": torch.tensor(weight), "bias": torch.tensor(bias)}, tmp_path / "linear.pth")
    np.testing.assert_allclose(
        AestheticHead(tmp_path / "linear.pth", 6).score(embeddings), embeddings @ weight[0] + bias
    )
    stack = torch.nn.Sequential(
        *[torch.nn.Linear(6, 5), torch.nn.Dropout(), torch.nn.Linear(5, 4), torch.nn.Dropout(), torch.nn.Linear(4, 1)]
    ).eval()
    torch.save({f"layers.{key}": value for key, value in stack.state_dict().items()}, tmp_path / "stack.pth")
    expected = stack(torch.tensor(embeddings).float()).detach()[:, 0]
    np.testing.assert_allclose(AestheticHead(tmp_path / "stack.pth", 6).score(embeddings), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"weight": torch.zeros(1, 8), "bias": torch.zeros(1)},
            "reads embeddings of length 8, but the CLIP model gives 6",
        ),
        ({"weight": torch.zeros(2, 6), "bias": torch.zeros(2)}, "where one score should come out"),
        ({"weight": torch.zeros(1, 6)}, "'bias' is missing"),
        ({"scale": torch.zeros(1)}, "no aesthetic head"),
    ],
)
def test_other_heads_are_refused(tmp_path, weights, message):
    torch.save(weights, tmp_path / "head.pth")
    with pytest.raises(ValueError, match=message):
        AestheticHead(tmp_path / "head.pth", 6)

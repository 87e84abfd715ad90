"""UniID's tiny system of file 00, whole, in diffusers and transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from likeness.adapters.image_resampler import ImageResamplerSizes
from likeness.adapters.layers import sdxl_layers
from likeness.adapters.perceiver import StackSizes
from likeness.adapters.prompt_tokens import CHUNK, insert_tokens, match_norms
from likeness.adapters.text_branch import TextBranchSizes
from likeness.adapters.uniid import UniID, UniIDSizes, load_uniid
from likeness.adapters.uniid_attention import UniIDTerm
from likeness.adapters.uniid_tokens import uniid_tokens
from safetensors.torch import save_file
from torch import Tensor

TOLERANCE = 1e-5


@pytest.fixture(scope="session")
def assert_near() -> Callable[..., None]:
    """`assert_near(actual, expected, what, tolerance=1e-5, floor=1.0)`: tolerance of the largest value, or floor."""

    def check(actual: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE, floor: float = 1.0) -> None:
        assert actual.shape == expected.shape, (what, actual.shape, expected.shape)
        difference = (actual - expected).abs().max().item()
        assert difference <= tolerance * max(floor, expected.abs().max().item()), f"{what}: {difference:.2e}"

    return check


@pytest.fixture(scope="session")
def tiny_uniid_sizes() -> UniIDSizes:
    """Sizes of a complete tiny UniID, with another width wherever there can be one."""
    return UniIDSizes(
        TextBranchSizes((StackSizes(8, 2, 2, 4, 2), StackSizes(12, 2, 3, 4, 2)), 3, face_dim=7, map_dim=10, hidden=9),
        ImageResamplerSizes(StackSizes(12, 2, 3, 4, 2), 5, shallow_dim=9, map_dim=10, output_dim=20),
        tuple(8 * layer.level for layer in sdxl_layers(1, 2)),
    )


@pytest.fixture
def tiny_uniid(tiny_uniid_sizes) -> Callable[..., UniID]:
    """`tiny_uniid("text", "adapter")`: random weights of these branches, both if none is named; ID tokens not zero."""

    def make(*branches: str) -> UniID:
        torch.manual_seed(0)
        whole = UniID(tiny_uniid_sizes)
        torch.nn.init.normal_(whole.resampler.proj_out.weight)
        without = {} if "text" in branches else {"text": None}
        without |= {} if "adapter" in branches else {"adapter": None, "hidden": ()}
        made = UniID(replace(tiny_uniid_sizes, **without)) if branches else whole
        made.load_state_dict({key: value for key, value in whole.state_dict().items() if key in made.state_dict()})
        return made.requires_grad_(False)

    return make


@pytest.fixture
def seen() -> Callable[[int], tuple[Tensor, list[Tensor]]]:
    """`seen(k)`: a tiny backbone's vectors and maps of k photos."""

    def draw(photos: int) -> tuple[Tensor, list[Tensor]]:
        generator = torch.Generator().manual_seed(1)
        sizes = ((2, 8), (3, 4), (4, 2), (10, 2))
        maps = [torch.randn(photos, width, side, side, generator=generator) for width, side in sizes]
        return torch.randn(photos, 7, generator=generator), maps

    return draw


@dataclass
class System:
    """The tiny system of file 00: its face, networks and tokenizers."""

    config: dict[str, Any]
    face: Tensor
    maps: list[Tensor]
    adapter: UniID
    unet: Any
    terms: dict[int, UniIDTerm]
    encoders: list[Any]
    tokenizers: list[Any]

    @property
    def split(self) -> int:
        return self.adapter.sizes.text.widths[0]

    def predict(self, sample, timestep, text, tokens, conditions, scale=0.0, rescaling=True) -> Tensor:
        """The U-Net's noise with the text and the ID tokens of each row."""
        self.terms.clear()
        for number, projection in self.adapter.projections.items():
            self.terms[int(number)] = UniIDTerm([projection(tokens)], scale, rescaling=rescaling)
        return self.unet(sample, timestep, text, added_cond_kwargs=conditions).sample

    def token_ids(self, text: str) -> list[list[int]]:
        """Token numbers for both encoders, padded."""
        arguments = {"padding": "max_length", "max_length": CHUNK, "truncation": True}
        return [tokenizer(text, **arguments)["input_ids"] for tokenizer in self.tokenizers]

    def encode(self, token_ids) -> tuple[Tensor, Tensor]:
        """The prompt (B, 77, D) and the second encoder's pooled vector."""
        outputs = [
            encoder(torch.as_tensor(ids), output_hidden_states=True)
            for encoder, ids in zip(self.encoders, token_ids, strict=True)
        ]
        return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[1].text_embeds

    def encoded_vectors(self, vectors, encoder) -> Tensor:
        """What an encoder makes of token embeddings (n, width) that stand behind its first token."""
        table = encoder.get_input_embeddings()
        longer = torch.cat([table.weight, vectors])
        encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(longer))
        own = list(range(len(table.weight), len(longer)))
        ids = torch.tensor([[self.tokenizers[0].bos_token_id, *own]])
        states = encoder(ids, output_hidden_states=True).hidden_states[-2]
        encoder.set_input_embeddings(table)
        return states[0, 1:]


def loaded_adapter(file, folder) -> UniID:
    """File 00's branches as one file, through the loader; heads that are not 64 wide need metadata."""
    text, adapter = file.metadata["config"]["text_branch"], file.metadata["config"]["adapter_branch"]
    tensors = {f"{name}.{key}": value for name in ("text_branch", "adapter_branch") for key, value in
               file.part(f"{name}.").items()}  # fmt: skip
    heads = {
        "likeness.heads": adapter["hidden_dim"] // adapter["dim_head"],
        "likeness.heads_1": text["cross_attention_dim_1"] // text["dim_head"],
        "likeness.heads_2": text["cross_attention_dim_2"] // text["dim_head"],
    }
    save_file(tensors, folder / "uniid.safetensors", metadata={key: str(value) for key, value in heads.items()})
    return load_uniid([folder / "uniid.safetensors"])


def text_encoder(kind, config, weights):
    encoder = kind(kind.config_class(**config))
    known = encoder.state_dict()  # newer editions of transformers have no "text_model." in one of the two
    encoder.load_state_dict({k if k in known else k.removeprefix("text_model."): v for k, v in weights.items()})
    return encoder.requires_grad_(False).eval()


def tokenizer(kind, config, pad_token, folder):
    (folder / "vocab.json").write_text(json.dumps(config["vocab"]), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *config["merges"]]), "utf-8")
    return kind.from_pretrained(folder, pad_token=pad_token)


@pytest.fixture(scope="session")
def system(golden, hosted, tmp_path_factory) -> System:
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("uniid")
    file = golden("uniid", "00_system_weights")
    config, face = file.metadata["config"], file.part("face.")
    adapter = loaded_adapter(file, folder)
    unet = diffusers.UNet2DConditionModel(**config["unet"])
    unet.load_state_dict(file.part("unet."))
    assert [f"{layer.diffusers}.processor" for layer in adapter.sizes.layers] == config["attn_processor_order"]
    terms = hosted(unet, adapter.sizes.layers)
    kinds = {"text_encoder": transformers.CLIPTextModel, "text_encoder_2": transformers.CLIPTextModelWithProjection}
    encoders = [text_encoder(kind, config[name], file.part(f"{name}.")) for name, kind in kinds.items()]
    tokenizers = [
        tokenizer(transformers.CLIPTokenizer, config, pad_token, folder) for pad_token in ("<|endoftext|>", "!")
    ]
    maps = [face[f"hidden_{level}"] for level in range(4)]
    return System(config, face["output"], maps, adapter, unet.requires_grad_(False), terms, encoders, tokenizers)


@pytest.fixture(scope="session")
def assembly(golden) -> Any:
    """File 04: prompts, names and contexts."""
    return golden("uniid", "04_prompt_assembly")


@pytest.fixture(scope="session")
def name_norms(assembly) -> Tensor:
    return torch.cat([assembly.tensors["names.norm_1"], assembly.tensors["names.norm_2"]], dim=-1)


@pytest.fixture(scope="session")
def contexts(system, assembly, name_norms) -> Callable[[float], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """`contexts(text_scale)`: the prompt with the person's words, the negative prompt, the ID tokens of both."""

    @torch.no_grad()
    def build(text_scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        person = uniid_tokens(system.adapter, system.face, system.maps)
        words = text_scale * match_norms(person["text"], name_norms, system.split)
        positive = insert_tokens(assembly.tensors["prompt.embeds"], words)
        return positive, assembly.tensors["prompt.negative_embeds"], person["cond"][None], person["uncond"][None]

    return build

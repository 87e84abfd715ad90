"""PuLID on both bases: what is refused, stored and computed dtypes, compiled models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from likeness.adapters.identity import Identity
from likeness.adapters.pulid_attention import Injection

SAME = {"rtol": 1e-4, "atol": 1e-4}


@dataclass(frozen=True)
class Base:
    """One base model with the tiny PuLID for it."""

    make: Any  # ModelPatchers
    model: Any
    models: Any
    lab: Any
    people: Any

    def apply(
        self, people: Sequence[int], model: Any = None, models: Any = None, form: str = "plain", **rest: Any
    ) -> Any:
        from likeness.model_patches.pulid import PulidSettings, apply_pulid

        models = models or self.models
        settings = PulidSettings(Injection(form, 0 if form == "plain" else 4), **rest)
        return apply_pulid(model or self.model, models, self.people(models, people), settings)[0]


@pytest.fixture(scope="module")
def sdxl(make_sdxl: Any, make_pulid: Any, lab_of_base: Any, pulid_people: Any) -> Base:
    return Base(make_sdxl, make_sdxl(), make_pulid("pulid-v1.1"), lab_of_base("SDXL"), pulid_people)


@pytest.fixture(scope="module")
def flux(make_flux: Any, make_pulid: Any, lab_of_base: Any, pulid_people: Any) -> Base:
    return Base(make_flux, make_flux(), make_pulid("pulid-flux"), lab_of_base("FLUX"), pulid_people)


@pytest.fixture(params=["sdxl", "flux"])
def base(request: Any) -> Base:
    return request.getfixturevalue(request.param)


class TestNumbers:
    @pytest.mark.parametrize("form", ["plain", "ortho", "ortho_v2"])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_forms_in_half_precision(self, sdxl: Base, form: str, dtype: torch.dtype) -> None:
        half = sdxl.lab.predict(sdxl.apply([0], sdxl.make(compute=dtype), form=form))
        full = sdxl.lab.predict(sdxl.apply([0], form=form))
        error = (half.positive - full.positive).abs().mean() / full.positive.abs().mean()
        assert error < (0.02 if dtype == torch.float16 else 0.1)

    @pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2])
    @pytest.mark.parametrize("compute", [torch.float16, torch.bfloat16])
    def test_weights_stored_in_fp8(
        self, base: Base, make_pulid: Any, compute: torch.dtype, stored: torch.dtype
    ) -> None:
        """Model and adapter hold fp8 and compute in half precision, as with the usual FLUX files."""
        small = base.make(compute=compute, stored=stored)
        assert {w.dtype for w in small.model.diffusion_model.state_dict().values()} == {stored}
        models = make_pulid(base.models.system, stored)
        found = base.lab.predict(base.apply([0], small, models, form="ortho"))
        plain = base.lab.predict(small)
        assert torch.isfinite(found.positive).all()
        assert (found.positive - plain.positive).abs().mean() > 0.01
        wide, wide_models = base.make(), make_pulid(base.models.system)  # the same values, computed in float32
        for ours, theirs in (
            (wide.model.diffusion_model, small.model.diffusion_model),
            (wide_models.weights, models.weights),
        ):
            ours.load_state_dict({key: value.float() for key, value in theirs.state_dict().items()})
        expected = base.lab.predict(base.apply([0], wide, wide_models, form="ortho")).positive
        error = (found.positive - expected).abs().mean() / expected.abs().mean()
        assert error < (0.02 if compute == torch.float16 else 0.1)


@pytest.mark.parametrize(("form", "num_zero"), [("plain", 0), ("ortho", 4), ("ortho_v2", 4)])
def test_the_plain_code_of_the_benchmark_agrees(base: Base, form: str, num_zero: int) -> None:
    """It projects in every layer and step, for each row; its FLUX blocks use their own weights."""
    from likeness.benchmarks.plain_pulid import apply_plainly

    (person,) = base.people(base.models, [0])
    plain = base.lab.predict(apply_plainly(base.model, base.models, person, Injection(form, num_zero)))
    found = base.lab.predict(base.apply([0], form=form))
    torch.testing.assert_close(found.positive, plain.positive, **SAME)
    torch.testing.assert_close(found.negative, plain.negative, **SAME)


class TestRefusals:
    def test_nobody(self, base: Base) -> None:
        with pytest.raises(ValueError, match="Apply PuLID: no identity is connected"):
            base.apply([])

    @pytest.mark.parametrize(
        ("edition", "network", "message"),
        [
            (
                "pulid-v1",
                "flux",
                "this is a TinyFlux model. PuLID v1 works with SDXL models: load an SDXL.*FLUX models",
            ),
            ("pulid-v1.1", "sd15", "this is a TinySD15 model. PuLID v1.1 works with SDXL models: load an SDXL"),
            ("pulid-flux", "sdxl", "this is a TinySDXL model. PuLID for FLUX works with FLUX models: .*pulid_v1.1"),
            ("pulid-flux", "sd15", "this is a TinySD15 model. PuLID for FLUX works with FLUX models"),
        ],
    )
    def test_another_base_model(
        self, request: Any, make_pulid: Any, pulid_people: Any, edition: str, network: str, message: str
    ) -> None:
        from likeness.model_patches.pulid import PulidSettings, apply_pulid

        models, model = make_pulid(edition), request.getfixturevalue(f"make_{network}")()
        with pytest.raises(ValueError, match=message):
            apply_pulid(model, models, pulid_people(models, [0]), PulidSettings())

    def test_a_network_of_another_pack(self, base: Base) -> None:
        """As packs with engines of their own load it: ComfyUI's model around a network without ComfyUI's layers."""
        replaced = base.make()
        replaced.model.diffusion_model = torch.nn.Linear(2, 2)
        with pytest.raises(ValueError, match="the network of this Tiny.* model is Linear, which is not ComfyUI's own"):
            base.apply([0], replaced)

    def test_other_sizes(self, sdxl: Base, flux: Base) -> None:
        with pytest.raises(ValueError, match="other layer widths.*model 32 wide with context 128, adapter 32 with 64"):
            sdxl.apply([0], sdxl.make(context=128))
        with pytest.raises(ValueError, match="model 64 wide with 5 \\+ 9 blocks, which have 6 places.*with 4 places"):
            flux.apply([0], flux.make(depth=5, depth_single_blocks=9))
        with pytest.raises(ValueError, match="model 32 wide with 3 \\+ 5 blocks.*adapter 64 wide"):
            flux.apply([0], flux.make(hidden_size=32, num_heads=2))

    def test_identities_of_others(self, sdxl: Base) -> None:
        from likeness.model_patches.pulid import PulidSettings, apply_pulid

        (one,) = sdxl.people(sdxl.models, [0])
        strangers = {
            "identity 1 .Ann. was made by another PuLID v1.1 file": Identity(one.system, "0" * 64, one.tokens, "Ann"),
            "was made by pulid-v1, and pulid-v1.1 is connected": Identity("pulid-v1", one.adapter, one.tokens),
            "was made by uniportrait, and pulid-v1.1": Identity("uniportrait", one.adapter, one.tokens),
            "was made by pulid-flux, and pulid-v1.1": Identity("pulid-flux", one.adapter, one.tokens),
        }
        for message, stranger in strangers.items():
            with pytest.raises(ValueError, match=message):
                apply_pulid(sdxl.model, sdxl.models, [stranger], PulidSettings())

    @pytest.mark.parametrize(
        ("masks", "message"),
        [
            ((torch.ones(1, 64, 64), torch.ones(1, 64, 32)), r"different sizes \(64x64, 32x64\)"),
            ((torch.ones(3, 64, 64),), "identity 1 holds 3 pictures"),
            ((None, torch.zeros(1, 96, 64)), "identity 2 is empty, so"),
            ((None, None, torch.ones(1, 64, 64)), "3 masks for 2 identities"),
        ],
    )
    def test_masks(self, base: Base, masks: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            base.apply([0, 1], masks=masks)

    def test_unknown_ways_of_sharing(self, base: Base) -> None:
        with pytest.raises(ValueError, match='people share places by attention or one each, not by "router"'):
            base.apply([0, 1], sharing="router")


def test_compiled_models_agree(base: Base, dynamo: Any) -> None:
    """ComfyUI's own torch.compile wrapper traces through the patch in one graph, and compiles twice at most.

    The first call of a run arranges tokens by rows, the others find them arranged. No code generator stands behind the
    tracing here, which takes most of the time.
    """
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = base.apply([0], form="ortho_v2")
    expected = base.lab.sample(model, steps=4)
    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend="eager", fullgraph=True)
    torch.testing.assert_close(base.lab.sample(compiled, steps=4), expected, **SAME)
    assert dynamo.utils.counters["stats"]["unique_graphs"] == 2

"""Each system's entry in the contract: how to build it tiny, where its first slot is, how to apply it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch


@dataclass(frozen=True)
class SystemUnderContract:
    """One system's entry in the contract (test_contract.py, test_neighbours.py)."""

    model: Any  # an unpatched ModelPatcher of its base, tiny and random
    lab: Any  # runs of that model
    first_slot: tuple[str, tuple[Any, ...]]  # kind and key of the first slot that the patch fills
    grid: tuple[int, int]  # that layer's, for the lab's latent
    a_weight: str  # a weight that another LoRA may patch
    cast_model: Callable[[torch.dtype], Any]  # the same model computing in another dtype
    projections: Callable[[], list[torch.nn.Module]]  # modules that must run once per run and guidance half
    patchers: Callable[[], list[Any]]  # what holds the adapter's weights for ComfyUI's memory manager
    _apply: Callable[..., Any]

    def apply(
        self,
        model: Any = None,
        people: int | Sequence[int] = 1,
        strength: float = 1.0,
        start: float = 0.0,
        end: float = 1.0,
        masks: Sequence[torch.Tensor] = (),
        term_only: bool = False,
    ) -> Any:
        """The patched model. `people` counts them or numbers them; `term_only` leaves out weight patches."""
        numbers = range(people) if isinstance(people, int) else people
        return self._apply(model or self.model, list(numbers), strength, start, end, tuple(masks), term_only)

    def first_output(self, model: Any, **kwargs: Any) -> torch.Tensor:
        """What the first patched layer gives in one step: what reaches it does not depend on the identity yet."""
        seen: list[torch.Tensor] = []
        probe = model.clone()
        kind, key = self.first_slot
        if kind == "attn2":
            probe.set_model_attn2_output_patch(lambda x, options: (seen.append(x.clone()), x)[1])
        else:
            previous = self.slot_of(probe)

            def watch(args: Any, extra: Any) -> Any:
                out = previous(args, extra) if previous else extra["original_block"](args)
                seen.append(out["img"].clone())  # the next block works in place
                return out

            probe.set_model_patch_replace(watch, kind, *key)
        self.lab.predict(probe, **kwargs)
        return seen[0]

    def slot_of(self, model: Any) -> Any:
        """What sits in the first slot, or None."""
        kind, key = self.first_slot
        return model.model_options["transformer_options"].get("patches_replace", {}).get(kind, {}).get(key)

    def set_slot(self, model: Any, patch: Any) -> None:
        """Put a patch into the first slot, as other packs do."""
        kind, key = self.first_slot
        model.set_model_patch_replace(patch, kind, *key)

    def foreign(self, previous: Any = None) -> Any:
        """Another pack's patch for the first slot, which adds something of its own to what was there.

        Behind a block it adds a constant: the adapter normalises what it finds there, and so does not see it.
        """
        from comfy.ldm.modules.attention import optimized_attention

        def attention(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
            base = previous(q, k, v, options) if previous else optimized_attention(q, k, v, options["n_heads"])
            return base + 0.1 * q

        def block(args: Any, extra: Any) -> Any:
            out = previous(args, extra) if previous else extra["original_block"](args)
            return {**out, "img": out["img"] + 0.1}

        return attention if self.first_slot[0] == "attn2" else block


def contract_of(request: Any) -> SystemUnderContract:
    return request.getfixturevalue("contract_of_" + request.param.replace("-", "_"))


@pytest.fixture(
    scope="session", params=["uniportrait", "pulid-sdxl", "pulid-sdxl-ortho", "pulid-flux", "uniid", "uniid-plain"]
)
def system(request: Any) -> SystemUnderContract:
    """Each system of the contract in turn."""
    return contract_of(request)


@pytest.fixture(scope="session", params=["uniportrait", "pulid-sdxl", "pulid-flux", "uniid-plain"])
def linear_system(request: Any) -> SystemUnderContract:
    """Each whose term does not depend on the rest of the layer; PuLID's ortho forms and UniID's rescaling do."""
    return contract_of(request)


@pytest.fixture(scope="session", params=["uniportrait", "pulid-sdxl", "pulid-flux", "uniid", "uniid-plain"])
def additive_system(request: Any) -> SystemUnderContract:
    """Each whose term does not depend on what other packs put into the slot; PuLID's ortho forms do."""
    return contract_of(request)


@pytest.fixture(scope="session", params=["uniportrait", "pulid-sdxl", "pulid-sdxl-ortho", "uniid", "uniid-plain"])
def attention_system(request: Any) -> SystemUnderContract:
    """Each system that sits in attention slots, to which other packs may add."""
    return contract_of(request)


@pytest.fixture(scope="session")
def contract_of_uniportrait(
    make_sd15: Any, lab_of_base: Any, uniportrait_models: Any, uniportrait_people: Any
) -> SystemUnderContract:
    from likeness.model_patches.uniportrait import UniPortraitSettings, apply_uniportrait

    def apply(
        model: Any, people: list[int], strength: float, start: float, end: float, masks: Any, term_only: bool
    ) -> Any:
        settings = UniPortraitSettings(strength, 0.0 if term_only else strength, start, end, masks)
        return apply_uniportrait(model, uniportrait_models, uniportrait_people(people), settings)[0]

    return SystemUnderContract(
        model=make_sd15(),
        lab=lab_of_base("SD 1.5"),
        first_slot=("attn2", ("input", 1)),
        grid=(16, 16),
        a_weight="diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight",
        cast_model=lambda dtype: make_sd15(dtype=dtype),
        projections=lambda: list(uniportrait_models.weights.projections.values()),
        patchers=lambda: list(uniportrait_models.patchers.values()),
        _apply=apply,
    )


@pytest.fixture(scope="session")
def make_sdxl_contract(make_sdxl: Any, lab_of_base: Any) -> Callable[..., Any]:
    """`make_sdxl_contract(models, apply)` -> the contract's entry for a system in SDXL's layers."""

    def make(models: Any, apply: Callable[..., Any]) -> SystemUnderContract:
        return SystemUnderContract(
            model=make_sdxl(),
            lab=lab_of_base("SDXL"),
            first_slot=("attn2", ("input", 4, 0)),
            grid=(8, 8),
            a_weight="diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_q.weight",
            cast_model=lambda dtype: make_sdxl(compute=dtype),
            projections=lambda: list(models.weights.projections.values()),
            patchers=lambda: list(models.patchers.values()),
            _apply=apply,
        )

    return make


@pytest.fixture(scope="session")
def contract_of_pulid_sdxl(make_sdxl_contract: Any, make_pulid: Any, apply_pulid_with: Any) -> SystemUnderContract:
    models = make_pulid("pulid-v1.1")
    return make_sdxl_contract(models, apply_pulid_with(models))


@pytest.fixture(scope="session")
def contract_of_pulid_sdxl_ortho(
    make_sdxl_contract: Any, make_pulid: Any, apply_pulid_with: Any
) -> SystemUnderContract:
    models = make_pulid("pulid-v1.1")
    return make_sdxl_contract(models, apply_pulid_with(models, "ortho_v2", 4))


@pytest.fixture(scope="session")
def contract_of_uniid(make_sdxl_contract: Any, make_uniid: Any, apply_uniid_with: Any) -> SystemUnderContract:
    models = make_uniid()
    return make_sdxl_contract(models, apply_uniid_with(models, rescaling=True))


@pytest.fixture(scope="session")
def contract_of_uniid_plain(make_sdxl_contract: Any, make_uniid: Any, apply_uniid_with: Any) -> SystemUnderContract:
    models = make_uniid()
    return make_sdxl_contract(models, apply_uniid_with(models, rescaling=False))


@pytest.fixture(scope="session")
def contract_of_pulid_flux(
    make_flux: Any, lab_of_base: Any, make_pulid: Any, apply_pulid_with: Any
) -> SystemUnderContract:
    models = make_pulid("pulid-flux")
    return SystemUnderContract(
        model=make_flux(),
        lab=lab_of_base("FLUX"),
        first_slot=("dit", ("double_block", 0)),
        grid=(8, 8),
        a_weight="diffusion_model.double_blocks.0.img_attn.qkv.weight",
        cast_model=lambda dtype: make_flux(compute=dtype),
        projections=lambda: [block.to_kv for block in models.weights.blocks],
        patchers=lambda: list(models.patchers.values()),
        _apply=apply_pulid_with(models),
    )


@pytest.fixture(scope="session")
def apply_pulid_with(pulid_people: Any) -> Callable[..., Callable[..., Any]]:
    """`apply_pulid_with(models, form, num_zero)` -> how the contract applies this PuLID."""
    from likeness.adapters.pulid_attention import Injection
    from likeness.model_patches.pulid import PulidSettings, apply_pulid

    def of(models: Any, form: str = "plain", num_zero: int = 0) -> Callable[..., Any]:
        def apply(
            model: Any, people: list[int], strength: float, start: float, end: float, masks: Any, term_only: bool
        ) -> Any:
            settings = PulidSettings(
                Injection(form, num_zero, strength), start_percent=start, end_percent=end, masks=masks
            )
            return apply_pulid(model, models, pulid_people(models, people), settings)[0]

        return apply

    return of


@pytest.fixture(scope="session")
def apply_uniid_with(uniid_people: Any) -> Callable[..., Callable[..., Any]]:
    """`apply_uniid_with(models, rescaling)` -> how the contract applies UniID: its part on the model."""
    from likeness.model_patches.uniid import apply_uniid
    from likeness.model_patches.uniid_patch import Scales, UniidSettings

    def of(models: Any, rescaling: bool) -> Callable[..., Any]:
        def apply(
            model: Any, people: list[int], strength: float, start: float, end: float, masks: Any, term_only: bool
        ) -> Any:
            settings = UniidSettings(
                adapter=Scales(strength, strength),
                rescaling=rescaling,
                start_percent=start,
                end_percent=end,
                masks=masks,
            )
            return apply_uniid(model, [], models, uniid_people(models, people), settings)[0]

        return apply

    return of

"""PuLID's nodes in this process, on tiny files with the published names: from photo to latents."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

EDITIONS = {"v1": "SDXL", "v1_1": "SDXL", "flux": "FLUX"}


@pytest.fixture
def apply(call):
    """`apply(model, adapter, people, ...)`: Apply PuLID; returns the model and the routing record."""

    def run(model, adapter, *people, masks=(), method="auto", id_scale=1.0, sharing="attention", **inputs):
        identities = {f"identity_{number}": person for number, person in enumerate(people, 1)}
        by_number = {f"mask_{number}": mask for number, mask in enumerate(masks, 1) if mask is not None}
        method = method if isinstance(method, dict) else {"method": method}
        settings = dict(start_percent=0.0, end_percent=1.0, keep_soft_edges=True) | inputs
        settings |= dict(method=method, id_scale=id_scale, sharing=sharing)
        return call("ApplyPuLID", model=model, adapter=adapter, identities=identities, masks=by_number, **settings)

    return run


@pytest.fixture
def options(call):
    """`options(joining="mean")`: PuLID Options."""

    def run(**changes):
        inputs = dict(joining="published", faces="one for both", shrinking="as released", noise=0.0, noise_seed=0)
        return call("PuLIDOptions", **inputs | changes)[0]

    return run


@pytest.mark.parametrize("edition", EDITIONS)
def test_a_photo_changes_the_picture(load, encode, apply, sample, tiny_bases, woman, edition):
    base, adapter = EDITIONS[edition], load(edition)
    identity, crops, found = encode(adapter, woman, label=" Anna ")
    assert (identity.system, identity.label, identity.preprocessing, found) == (adapter.system, "Anna", "1", True)
    assert crops.shape == (1, 512, 512, 3) and torch.equal(crops[..., 0], crops[..., 1])
    model, record = apply(tiny_bases[base], adapter, identity)
    assert record.labels == ("Anna",)
    plain, drawn = sample(base), sample(base, model)
    assert torch.isfinite(drawn).all() and (drawn - plain).abs().max() > 1e-3
    assert torch.equal(sample(base), plain)
    nothing, _ = apply(tiny_bases[base], adapter, identity, id_scale=0.0)
    assert torch.equal(sample(base, nothing), plain)


def test_a_saved_person_needs_no_encoder(call, load, encode, apply, sample, tiny_bases, woman):
    from likeness.nodes.model_folders import saved_identities_folder

    identity = encode(load("v1_1"), woman, label="Anna")[0]
    call("SaveIdentity", identity=identity, filename="pulid anna", overwrite=True)
    loaded = call("LoadIdentity", file="pulid anna.safetensors")[0]
    (saved_identities_folder() / "pulid anna.safetensors").unlink()
    assert loaded == identity
    blind = load("v1_1", blind=True)
    assert blind.encoder is None
    pictures = [
        sample("SDXL", apply(tiny_bases["SDXL"], adapter, person)[0])
        for adapter, person in ((load("v1_1"), identity), (blind, loaded))
    ]
    assert torch.equal(*pictures)


def test_identities_mix(call, load, encode, woman, group):
    adapter = load("v1")
    anna, ben = encode(adapter, woman, label="Anna")[0], encode(adapter, group, label="Ben")[0]
    mixed = call("MixIdentities", identities={"identity_1": anna, "identity_2": ben}, weights="1, 3", label="")[0]
    expected = (anna.tokens["cond"] + 3 * ben.tokens["cond"]) / 4
    torch.testing.assert_close(mixed.tokens["cond"], expected)
    assert mixed.system == "pulid-v1"


def test_two_people_with_masks(load, encode, apply, sample, tiny_bases, woman, group):
    """Each mask decides where its person is; with full masks for nobody else nothing is left of the other."""
    adapter = load("v1_1")
    anna, ben = encode(adapter, woman)[0], encode(adapter, group)[0]
    left, everywhere = torch.zeros(1, 64, 64), torch.ones(1, 64, 64)
    left[..., :32] = 1

    def picture(*people, **settings):
        return sample("SDXL", apply(tiny_bases["SDXL"], adapter, *people, method="neutral", **settings)[0])

    torch.testing.assert_close(picture(anna), picture(anna, masks=[everywhere]), rtol=1e-4, atol=1e-4)
    both = picture(anna, ben, masks=[left, 1 - left])
    assert min((both - picture(anna)).abs().max(), (both - picture(ben)).abs().max()) > 1e-4
    shared, divided = picture(anna, ben), picture(anna, ben, sharing="one each")
    assert (shared - divided).abs().max() > 1e-5


def test_several_photos_are_joined_as_the_options_say(load, encode, options, woman, group):
    adapter = load("v1")
    counts = {
        joining: len(encode(adapter, woman, group, pulid_options=options(joining=joining))[0].tokens["cond"])
        for joining in ("published", "all tokens", "mean")
    }
    assert counts == {"published": 15, "all tokens": 20, "mean": 10}
    plain, usual = encode(adapter, woman, group)[0], encode(adapter, woman, group, pulid_options=options())[0]
    assert plain == usual


def test_options_reach_the_encoder(load, encode, options, group):
    adapter = load("v1_1")
    usual = encode(adapter, group)[0]
    for changes in (dict(faces="as released"), dict(shrinking="sharp")):
        other = encode(adapter, group, pulid_options=options(**changes))[0]
        assert not torch.equal(other.tokens["cond"], usual.tokens["cond"]), changes
        assert torch.equal(other.tokens["uncond"], usual.tokens["uncond"])
    assert encode(adapter, group, pulid_options=options(shrinking="smooth"))[0] == usual
    noisy = encode(adapter, group, pulid_options=options(noise=0.5, noise_seed=3))[0]
    assert torch.equal(noisy.tokens["cond"], usual.tokens["cond"])
    assert not torch.equal(noisy.tokens["uncond"], usual.tokens["uncond"])


def test_settings_of_the_other_system_are_named(shown, call, load, options, woman):
    from likeness.nodes.encode_identity import _idle_settings

    faces = {"faces_1": call("DetectFaces", image=woman, detector="bundled")[0]}
    inputs = dict(adapter=load("v1_1"), faces=faces, label="", no_face="error")
    assert "Warning" not in shown("EncodeIdentity", structure_scale=0.1, **inputs)
    text = shown("EncodeIdentity", structure_scale=0.3, **inputs)
    assert "Warning: structure_scale changes nothing here: it is UniPortrait's" in text
    assert _idle_settings("uniportrait", 0.3, None) == []
    assert _idle_settings("uniportrait", 0.3, options()) == [
        "pulid_options change nothing here: the adapter is UniPortrait's"
    ]


def test_strangers_among_the_photos_are_noticed(shown, call, load, woman):
    """The tests' recogniser is the mean colours of quarters, so that a negative is a stranger."""
    faces = call("DetectFaces", image=torch.cat([woman, woman]), detector="bundled")[0]
    adapter = load("v1_1")
    adapter.encoder.recogniser = SimpleNamespace(
        name="test", embed=lambda crops: torch.eye(12).numpy()[: len(crops)] * 20
    )
    text = shown(
        "EncodeIdentity",
        adapter=adapter,
        faces={"faces_1": faces},
        structure_scale=0.1,
        label="",
        no_face="error",
    )
    assert "picture 1 and picture 2 look like different people (similarity 0.00; below 0.2)" in text


def test_a_person_without_a_face_can_be_left_out(call, load, encode, apply, sample, tiny_bases, woman):
    adapter, wall = load("v1_1"), torch.full((1, 96, 160, 3), 0.6)
    with pytest.raises(ValueError, match="no face in picture 1"):
        encode(adapter, wall)
    nobody, crops, found = encode(adapter, wall, label="Ben", no_face="leave person out")
    assert nobody.is_nobody and not found and crops.shape == (1, 224, 224, 3)
    alone, record = apply(tiny_bases["SDXL"], adapter, nobody)
    assert alone is tiny_bases["SDXL"] and record.labels == ()
    anna = encode(adapter, woman, label="Anna")[0]
    model, record = apply(tiny_bases["SDXL"], adapter, nobody, anna, masks=[torch.ones(1, 64, 64)])
    assert record.labels == ("Anna",)
    assert torch.equal(sample("SDXL", model), sample("SDXL", apply(tiny_bases["SDXL"], adapter, anna)[0]))
    with pytest.raises(ValueError, match="Save Identity: no photo of this person showed a face"):
        call("SaveIdentity", identity=nobody, filename="", overwrite=False)
    with pytest.raises(ValueError, match="Mix Identities: no photo of identity 2 showed a face"):
        call("MixIdentities", identities={"identity_1": anna, "identity_2": nobody}, weights="", label="")


@pytest.mark.parametrize(
    ("system", "method", "expected"),
    [
        ("pulid-v1", {"method": "auto"}, ("ortho_v2", 8)),
        ("pulid-v1.1", {"method": "auto"}, ("ortho_v2", 20)),
        ("pulid-v1", {"method": "fidelity"}, ("ortho_v2", 8)),
        ("pulid-v1.1", {"method": "style"}, ("ortho", 16)),
        ("pulid-v1", {"method": "neutral"}, ("plain", 0)),
        ("pulid-v1", {"method": "v1.1"}, ("ortho_v2", 20)),
        ("pulid-v1", {"method": "custom", "form": "ortho", "num_zero": 3}, ("ortho", 3)),
        ("pulid-flux", {"method": "style"}, ("plain", 0)),
        ("pulid-flux", {"method": "custom", "form": "ortho", "num_zero": 3}, ("plain", 0)),
    ],
)
def test_methods_are_the_published_ones(node_classes, system, method, expected):
    from likeness.nodes.apply_pulid import chosen_injection

    injection = chosen_injection(system, method, 0.7)
    assert (injection.form, injection.num_zero, injection.scale) == (*expected, 0.7)


def test_the_node_says_what_auto_means(shown, load, encode, tiny_bases, woman):
    adapter = load("v1_1")
    identity = encode(adapter, woman, label="Anna")[0]
    inputs = dict(start_percent=0.0, end_percent=1.0, sharing="attention", keep_soft_edges=True, masks={})
    inputs |= dict(model=tiny_bases["SDXL"], adapter=adapter, identities={"identity_1": identity})
    text = shown("ApplyPuLID", method={"method": "auto"}, id_scale=0.8, **inputs)
    assert text == "Anna: PuLID v1.1, ortho_v2 with 20 zero tokens"


def test_an_adapter_of_another_system_is_refused(apply, tiny_bases):
    with pytest.raises(ValueError, match="Apply PuLID: this is a uniportrait adapter. Connect Load PuLID"):
        apply(tiny_bases["SDXL"], SimpleNamespace(system="uniportrait"))


@pytest.mark.parametrize(("edition", "base"), [("v1_1", "FLUX"), ("flux", "SDXL")])
def test_a_model_of_another_base_is_named_with_the_file(load, encode, apply, tiny_bases, woman, edition, base):
    adapter = load(edition)
    with pytest.raises(ValueError, match=r"Apply PuLID: this is a \w+ model. PuLID .* works with"):
        apply(tiny_bases[base], adapter, encode(adapter, woman)[0])


@pytest.mark.parametrize("edition", ["v1", "flux"])
def test_identities_of_another_edition_are_refused(load, encode, apply, tiny_bases, woman, edition):
    other, adapter = encode(load(edition), woman, label="Anna")[0], load("v1_1")
    with pytest.raises(ValueError, match=r"identity 1 \(Anna\) was made by pulid-.*, and pulid-v1.1 is connected"):
        apply(tiny_bases["SDXL"], adapter, other)


def test_an_adapter_without_eva_clip_cannot_see_photos(load, encode, woman):
    with pytest.raises(ValueError, match=r"loaded without EVA-CLIP.*EVA02_CLIP_L_336_psz14_s6B.pt \(856 MB"):
        encode(load("v1", blind=True), woman)


def test_a_mask_without_its_person_is_named(load, encode, apply, tiny_bases, woman):
    adapter = load("v1_1")
    with pytest.raises(ValueError, match="Apply PuLID: mask_2 is connected, but identity_2 is not"):
        apply(tiny_bases["SDXL"], adapter, encode(adapter, woman)[0], masks=[None, torch.ones(1, 64, 64)])


@pytest.mark.parametrize("edition", [None, "pulid-v1.1"])
def test_pulids_recogniser_does_not_judge_pulid(node_classes, edition):
    from likeness.adapters.identity import Identity
    from likeness.nodes.similarity import _check_independence

    glintr = "models/antelopev2/glintr100.onnx"
    person = edition and Identity(edition, "", {half: torch.zeros(1, 4) for half in ("cond", "uncond")})
    if person is None:
        assert "conditions PuLID" in _check_independence(glintr, None)[0]
    else:
        with pytest.raises(ValueError, match="the identity was made with this recogniser"):
            _check_independence(glintr, person)
        assert _check_independence("buffalo_l/w600k_r50.onnx", person) == []
        assert _check_independence("glint360k_curricular_face_r101_backbone.bin", person) == []

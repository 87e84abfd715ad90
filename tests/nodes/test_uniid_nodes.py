"""UniID's nodes in this process, on tiny files and a tiny SDXL: from photo to latents."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

NONE = "(none)"
SCALES = ("text_scale_before", "text_scale", "adapter_scale_before", "adapter_scale")
STEP = {"merge": "at step", "merge_step": 5, "steps": 30}
SIDE = 64  # pixels
SETTINGS = dict(merge=STEP, text_scale_before=0.5, text_scale=1.8, adapter_scale_before=0.8, adapter_scale=1.2)
SETTINGS |= dict(rescaling=True, sharing="attention", several_texts="together", keep_soft_edges=True)


@pytest.fixture(scope="module")
def prompt(sdxl):
    """`prompt("a man")`: conditioning from the SDXL's text encoders."""

    def encode(text="photo of a man"):
        with torch.inference_mode():
            return sdxl[1].encode_from_tokens_scheduled(sdxl[1].tokenize(text))

    return encode


@pytest.fixture
def inputs(sdxl, prompt):
    """`inputs(adapter, anna, ben, masks=[...], merge=...)`: what Apply UniID is given, with the published settings."""

    def make(adapter, *people, masks=(), **changes):
        identities = {f"identity_{number}": person for number, person in enumerate(people, 1)}
        by_number = {f"mask_{number}": mask for number, mask in enumerate(masks, 1) if mask is not None}
        given = dict(model=sdxl[0], positive=prompt(), adapter=adapter, identities=identities, masks=by_number)
        return {**given, **SETTINGS, **changes}

    return make


@pytest.fixture
def apply(call, inputs):
    """`apply(adapter, anna, ...)`: Apply UniID; returns the model, the prompt and the routing record."""
    return lambda *args, **changes: call("ApplyUniID", **inputs(*args, **changes))


@pytest.fixture
def sample(prompt):
    """`sample(model, positive)`: the latents of six steps with guidance."""
    import comfy.sample

    def run(model, positive, *rest):
        noise = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            latent = torch.zeros_like(noise)
            arguments = (noise, 6, 4.0, "euler", "normal", positive, prompt("lowres"), latent)
            return comfy.sample.sample(model, *arguments, disable_pbar=True, seed=5)

    return run


@pytest.fixture
def plain(sample, sdxl, prompt):
    return sample(sdxl[0], prompt())


@pytest.fixture
def anna(load_uniid, encode, woman):
    return encode(load_uniid(), woman, label="Anna")[0]


@pytest.fixture
def ben(load_uniid, encode, group):
    return encode(load_uniid(), group, label="Ben")[0]


def difference(first, second):
    return float((first - second).abs().max())


def test_a_photo_changes_the_picture(load_uniid, encode, apply, sample, plain, sdxl, prompt, woman):
    adapter = load_uniid()
    identity, crops, found = encode(adapter, woman, label=" Anna ")
    assert (identity.system, identity.label, identity.preprocessing, found) == ("uniid", "Anna", "1", True)
    assert {key: tuple(value.shape) for key, value in identity.tokens.items()} == {
        "cond": (25, 64),
        "uncond": (25, 64),
        "text": (3, 64),
    }
    assert crops.shape == (1, 112, 112, 3)
    *drawn, record = apply(adapter, identity)
    assert record.labels == ("Anna",)
    picture = sample(*drawn)
    assert torch.isfinite(picture).all() and difference(picture, plain) > 1e-3
    assert torch.equal(sample(sdxl[0], prompt()), plain)
    assert torch.equal(sample(*apply(adapter, identity, **dict.fromkeys(SCALES, 0.0))), plain)


def test_each_branch_works_alone(load_uniid, encode, apply, sample, plain, anna, woman):
    """Also with a person who was encoded with both."""
    both = sample(*apply(load_uniid(), anna))
    for changes, left_out in ((dict(adapter_branch=NONE), SCALES[2:]), (dict(text_branch=NONE), SCALES[:2])):
        adapter = load_uniid(**changes)
        alone = sample(*apply(adapter, encode(adapter, woman, label="Anna")[0]))
        assert min(difference(alone, plain), difference(alone, both)) > 1e-3
        assert torch.equal(sample(*apply(adapter, anna)), alone)
        assert torch.equal(sample(*apply(load_uniid(), anna, **dict.fromkeys(left_out, 0.0))), alone)


def test_a_saved_person_needs_no_backbone(call, load_uniid, apply, sample, anna):
    from likeness.nodes.model_folders import saved_identities_folder

    call("SaveIdentity", identity=anna, filename="uniid anna", overwrite=True)
    loaded = call("LoadIdentity", file="uniid anna.safetensors")[0]
    (saved_identities_folder() / "uniid anna.safetensors").unlink()
    assert loaded == anna
    blind = load_uniid(backbone=NONE)
    assert blind.encoder is None
    assert torch.equal(sample(*apply(blind, loaded)), sample(*apply(load_uniid(), anna)))


def test_identities_mix(call, anna, ben):
    mixed = call("MixIdentities", identities={"identity_1": anna, "identity_2": ben}, weights="1, 3", label="")[0]
    for kind in ("cond", "text"):
        torch.testing.assert_close(mixed.tokens[kind], (anna.tokens[kind] + 3 * ben.tokens[kind]) / 4)
    assert torch.equal(mixed.tokens["uncond"], anna.tokens["uncond"])


def test_several_photos_are_averaged(load_uniid, encode, woman, group):
    adapter = load_uniid()
    single = [encode(adapter, photo)[0].tokens for photo in (woman, group)]
    tokens = encode(adapter, woman, group)[0].tokens
    for kind in ("cond", "text"):
        torch.testing.assert_close(tokens[kind], (single[0][kind] + single[1][kind]) / 2, rtol=1e-4, atol=1e-5)


def test_the_merge_point_parts_the_run(load_uniid, apply, sample, anna):
    """Step 2 of 6 is the same as step 10 of 30, and neither end of the scale; so is the noise level between them."""
    adapter = load_uniid(backbone=NONE)

    def picture(**merge):
        return sample(*apply(adapter, anna, merge=merge))

    def at_step(step, steps):
        return picture(merge="at step", merge_step=step, steps=steps)

    def constant(text, adapter_scale):
        scales = dict(zip(SCALES, (text, text, adapter_scale, adapter_scale), strict=True))
        return sample(*apply(adapter, anna, **scales))

    second = at_step(2, 6)
    assert torch.equal(second, at_step(10, 30))
    assert torch.equal(second, picture(merge="at percent", merge_percent=0.3))  # the steps are at 0.2 k
    assert min(difference(second, at_step(step, 6)) for step in (1, 3)) > 1e-4
    assert torch.equal(at_step(0, 6), constant(1.8, 1.2))
    assert torch.equal(at_step(6, 6), constant(0.5, 0.8))


def test_the_published_step_and_the_default_percent_agree(load_uniid, apply, sample, anna):
    adapter = load_uniid(backbone=NONE)
    percent = {"merge": "at percent", "merge_percent": 0.19}
    assert torch.equal(sample(*apply(adapter, anna)), sample(*apply(adapter, anna, merge=percent)))


def test_two_people_with_masks(load_uniid, apply, sample, anna, ben):
    """With each one's words in their mask the places decide, and not the numbers of the sockets."""
    adapter = load_uniid(backbone=NONE)
    left = torch.zeros(1, SIDE, SIDE)
    left[..., : SIDE // 2] = 1

    def picture(*people, masks, several_texts="by mask"):
        return sample(*apply(adapter, *people, masks=masks, several_texts=several_texts))

    both = picture(anna, ben, masks=[left, 1 - left])
    torch.testing.assert_close(picture(ben, anna, masks=[1 - left, left]), both, rtol=1e-3, atol=1e-3)
    assert difference(picture(ben, anna, masks=[left, 1 - left]), both) > 1e-2
    assert difference(picture(anna, ben, masks=[left, 1 - left], several_texts="together"), both) > 1e-2


def test_people_without_masks_share_the_picture(load_uniid, apply, sample, anna, ben):
    adapter = load_uniid(backbone=NONE)
    shared, divided = (sample(*apply(adapter, anna, ben, sharing=how)) for how in ("attention", "one each"))
    alone = [sample(*apply(adapter, person)) for person in (anna, ben)]
    assert min(difference(shared, other) for other in (divided, *alone)) > 1e-4


def test_rescaling_is_a_choice(load_uniid, apply, sample, anna):
    adapter = load_uniid(backbone=NONE)
    assert difference(sample(*apply(adapter, anna)), sample(*apply(adapter, anna, rescaling=False))) > 1e-3


def norms(value, label, tokens=3):
    from likeness.model_patches.name_norms import NameNorms

    return NameNorms(torch.full((tokens, 2), value), label)


def test_the_nearest_norms_count_and_are_named(shown, inputs, load_uniid, encode, anna, woman):
    """Those that Apply is given, else the adapter's, else the identity's, else none."""
    adapter, normed = load_uniid(backbone=NONE), load_uniid(name_norms=norms(2.0, "2 names"))
    normed_anna = encode(normed, woman, label="Anna")[0]
    assert torch.equal(normed_anna.tokens["norms"], torch.full((3, 2), 2.0))
    who = "Anna: UniID, text and adapter, merge at step 5 of 30\n"
    for loaded, person, given, used in (
        (normed, normed_anna, norms(3.0, "9 names"), "norms of 9 names"),
        (normed, anna, None, "the adapter's norms"),
        (adapter, normed_anna, None, "the identity's norms"),
        (adapter, anna, None, "no name norms: words as loud as the text branch makes them"),
    ):
        assert shown("ApplyUniID", **inputs(loaded, person, name_norms=given)) == who + used


def test_norms_set_the_length_of_the_words(load_uniid, apply, anna):
    adapter = load_uniid(backbone=NONE)
    constant = dict(text_scale_before=1.0, text_scale=1.0)
    ((embeds, _),) = apply(adapter, anna, name_norms=norms(2.0, ""), **constant)[1]
    lengths = embeds[0, 1:4].unflatten(-1, (2, 32)).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full((3, 2), 2.0))


def test_the_node_says_what_it_does(shown, inputs, load_uniid, anna):
    adapter = load_uniid(adapter_branch=NONE, backbone=NONE)
    percent = {"merge": "at percent", "merge_percent": 0.19}
    text = shown("ApplyUniID", **inputs(adapter, anna, merge=percent, name_norms=norms(2.0, "9 names")))
    assert text == "Anna: UniID, text, merge at 19% of the noise\nnorms of 9 names"
    assert shown("ApplyUniID", **inputs(adapter, anna, **dict.fromkeys(SCALES, 0.0))) == "Anna: UniID, switched off"


def test_masks_that_nothing_reads_are_named(shown, inputs, load_uniid, anna):
    mask = torch.ones(1, SIDE, SIDE)
    both, words = load_uniid(backbone=NONE), load_uniid(adapter_branch=NONE, backbone=NONE)
    off = {"adapter_scale_before": 0.0, "adapter_scale": 0.0}
    for adapter, settings, idle in (
        (both, {}, False),
        (both, off, True),
        (words, {}, True),
        (words, {"several_texts": "by mask"}, False),
    ):
        text = shown("ApplyUniID", **inputs(adapter, anna, masks=[mask], **settings))
        assert ("the masks change nothing" in text) == idle
    assert "Warning" not in shown("ApplyUniID", **inputs(words, anna))


def test_settings_of_other_systems_are_named(shown, call, load_uniid, woman):
    faces = {"faces_1": call("DetectFaces", image=woman, detector="bundled")[0]}
    given = dict(adapter=load_uniid(), faces=faces, label="", no_face="error")
    assert "Warning" not in shown("EncodeIdentity", structure_scale=0.1, **given)
    options = call("PuLIDOptions", joining="mean", faces="one for both", shrinking="sharp", noise=0.0, noise_seed=0)[0]
    text = shown("EncodeIdentity", structure_scale=0.3, pulid_options=options, **given)
    assert "pulid_options change nothing here: the adapter is UniID's" in text
    assert "structure_scale changes nothing here: it is UniPortrait's, and the adapter is UniID's" in text


def test_strangers_among_the_photos_are_noticed(shown, call, load_uniid, woman):
    """The tiny backbone finds all people alike, so this one is told what it sees."""
    faces = call("DetectFaces", image=torch.cat([woman, woman]), detector="bundled")[0]
    adapter = load_uniid()
    see = adapter.encoder.see
    adapter.encoder.see = lambda crops: replace(see(crops), embeddings=20 * torch.eye(32)[: len(crops)])
    given = dict(structure_scale=0.1, label="", no_face="error")
    text = shown("EncodeIdentity", adapter=adapter, faces={"faces_1": faces}, **given)
    assert "picture 1 and picture 2 look like different people (similarity 0.00; below 0.2)" in text


def test_a_person_without_a_face_can_be_left_out(call, load_uniid, encode, inputs, apply, sample, sdxl, anna):
    adapter, wall = load_uniid(), torch.full((1, 96, 160, 3), 0.6)
    nobody, _, found = encode(adapter, wall, label="Ben", no_face="leave person out")
    assert nobody.is_nobody and not found
    given = inputs(adapter, nobody)
    model, positive, record = call("ApplyUniID", **given)
    assert model is given["model"] and positive is given["positive"] and record.labels == ()
    *drawn, record = apply(adapter, nobody, anna)
    assert record.labels == ("Anna",)
    assert torch.equal(sample(*drawn), sample(*apply(adapter, anna)[:2]))


def test_an_adapter_of_another_system_is_refused(apply):
    with pytest.raises(ValueError, match="Apply UniID: this is a pulid-v1 adapter. Connect Load UniID"):
        apply(SimpleNamespace(system="pulid-v1"))


def test_nobody_to_apply(apply, load_uniid):
    with pytest.raises(ValueError, match="Apply UniID: no identity is connected"):
        apply(load_uniid(backbone=NONE))


@pytest.mark.parametrize("branch", ["text_branch", "adapter_branch"])
def test_a_model_of_another_base_is_named(apply, load_uniid, tiny_bases, anna, branch):
    adapter = load_uniid(backbone=NONE, **{branch: NONE})
    with pytest.raises(ValueError, match=r"Apply UniID: this is a Flux model. UniID works with SDXL models"):
        apply(adapter, anna, model=tiny_bases["FLUX"])


def test_a_prompt_of_other_text_encoders_is_named(apply, load_uniid, anna):
    with pytest.raises(ValueError, match=r"are 64 wide and the prompt 48"):
        apply(load_uniid(backbone=NONE), anna, positive=[[torch.zeros(1, 77, 48), {}]])


def test_identities_of_another_adapter_are_refused(apply, load_uniid, anna):
    with pytest.raises(ValueError, match=r"identity 1 \(Anna\) was made by another UniID file"):
        apply(load_uniid(backbone=NONE), replace(anna, adapter="else+where"))
    with pytest.raises(ValueError, match=r"identity 1 \(Anna\) was made by pulid-v1, and uniid is connected"):
        apply(load_uniid(backbone=NONE), replace(anna, system="pulid-v1"))


def test_norms_for_another_number_of_words_are_refused(apply, load_uniid, anna):
    with pytest.raises(ValueError, match=r"name norms are \(4, 2\), but a person has 3 text tokens"):
        apply(load_uniid(backbone=NONE), anna, name_norms=norms(1.0, "", tokens=4))


def test_an_adapter_without_a_backbone_cannot_see_photos(load_uniid, encode, woman):
    with pytest.raises(ValueError, match=r"loaded without a backbone.*Choose the backbone in Load UniID.*261 MB"):
        encode(load_uniid(backbone=NONE), woman)


def test_a_mask_without_its_person_is_named(apply, load_uniid, anna):
    with pytest.raises(ValueError, match="Apply UniID: mask_2 is connected, but identity_2 is not"):
        apply(load_uniid(backbone=NONE), anna, masks=[None, torch.ones(1, SIDE, SIDE)])

"""Facts about ALBEF's released files of fine-tuning: their task is recognised, and every tensor accounted for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertLMHeadModel

from harness.hosts.albef.model import PRESETS, Albef, AlbefConfig
from harness.hosts.parts.answer_targets import AnswerTargets
from harness.hosts.weights.load import load_model
from harness.hosts.weights.released import LoadReport, load_released
from harness.kit.errors import HarnessError
from harness.reduction import Tokens

SMALL: dict[str, Any] = {
    **PRESETS["tiny"],
    "image_size": 16,
    "width": 24,
    "depth": 2,
    "projection": 16,
    "vocab_size": 41,
    "text_length": 12,
    "token_types": 2,
}
TASKS = ("vqa", "entailment", "nlvr2")
Weights = dict[str, Tensor]
EMBEDDINGS = {
    r"words\.(.+)": r"embeddings.word_embeddings.\1",
    r"positions\.(.+)": r"embeddings.position_embeddings.\1",
    r"types\.(.+)": r"embeddings.token_type_embeddings.\1",
    r"norm\.(.+)": r"embeddings.LayerNorm.\1",
}
NAMES = {
    r"vision\.(.+)": r"visual_encoder.\1",
    r"image_projection\.(.+)": r"vision_proj.\1",
    r"text_projection\.(.+)": r"text_proj.\1",
    r"match_head\.(.+)": r"itm_head.\1",
    r"temperature": "temp",
    **{rf"embeddings\.{ours}": f"text_encoder.{theirs}" for ours, theirs in EMBEDDINGS.items()},
    r"text\.(.+)": r"text_encoder.encoder.layer.\1",
    r"mlm_transform\.0\.(.+)": r"text_encoder.cls.predictions.transform.dense.\1",
    r"mlm_transform\.2\.(.+)": r"text_encoder.cls.predictions.transform.LayerNorm.\1",
    r"mlm_bias": "text_encoder.cls.predictions.bias",
    **{rf"decoder\.embeddings\.{ours}": f"text_decoder.bert.{theirs}" for ours, theirs in EMBEDDINGS.items()},
    r"decoder\.layers\.(.+)": r"text_decoder.bert.encoder.layer.\1",
    r"decoder\.transform\.0\.(.+)": r"text_decoder.cls.predictions.transform.dense.\1",
    r"decoder\.transform\.2\.(.+)": r"text_decoder.cls.predictions.transform.LayerNorm.\1",
    r"decoder\.bias": "text_decoder.cls.predictions.bias",
    r"task_head\.(.+)": r"cls_head.\1",
}
# What files of vqa, entailment and nlvr2 lack (harness.hosts.albef.names.OPTIONAL).
LACKING = r"(vision_proj|text_proj|itm_head)\..+|temp|text_encoder\.cls\..+"


def small(task: str | None = None, seed: int = 0) -> Albef:
    torch.manual_seed(seed)
    return Albef(AlbefConfig.model_validate({**SMALL, "task": task})).double().eval()


def released_file(model: Albef) -> Weights:
    """A model's tensors under the names of the program that fine-tuned it: no "bert." but in the decoder."""
    file: Weights = {}
    for name, tensor in model.state_dict().items():
        layer = re.fullmatch(r"fusion\.(\d+)\.(.+)", name)
        if layer is None:
            (place,) = (found.expand(there) for here, there in NAMES.items() if (found := re.fullmatch(here, name)))
            file[place] = tensor
            continue
        index = int(layer[1]) + model.config.text_layers
        file[f"text_encoder.encoder.layer.{index}.{layer[2]}"] = tensor
        if model.config.task == "nlvr2" and re.match(r"crossattention\.self\.(key|value)", layer[2]):
            file[f"text_encoder.encoder.layer.{index + 1}.{layer[2]}"] = tensor.clone()
    if model.config.task is not None:
        file = {name: tensor for name, tensor in file.items() if not re.fullmatch(LACKING, name)}
    for side, words in (("text_encoder", "text_encoder."), ("text_decoder", "text_decoder.bert.")):
        head = f"{side}.cls.predictions"
        if f"{head}.bias" in file:
            file[f"{head}.decoder.bias"] = file[f"{head}.bias"].clone()
            file[f"{head}.decoder.weight"] = file[f"{words}embeddings.word_embeddings.weight"].clone()
        if f"{words}embeddings.word_embeddings.weight" in file:
            file[f"{words}embeddings.position_ids"] = torch.arange(12)[None]
    sides = ("visual_encoder", "text_encoder", "text_decoder", "cls_head")
    momentum = {name.replace(".", "_m.", 1): tensor for name, tensor in file.items() if name.startswith(sides)}
    return file | momentum


def accounted(report: LoadReport, file: Weights) -> None:
    assert set(report.loaded) | set(report.left_out) == set(file)
    assert not set(report.loaded) & set(report.left_out)
    assert set(report.missing) == set(report.reasons)


@pytest.mark.parametrize("task", TASKS)
def test_a_fine_tuned_file_says_its_task_and_loads_completely(task: str) -> None:
    model = small(task)
    file = released_file(model)
    sizes = Albef.sizes_for(file)
    assert sizes == {"vocab_size": 41, "task": task}
    loaded = small(sizes["task"], seed=1)
    report = load_released(loaded, file, "a.pth")
    accounted(report, file)
    heads = {"match_head", "image_projection", "text_projection", "temperature", "mlm_transform", "mlm_bias"}
    assert {name.split(".")[0] for name in report.missing} == heads
    mine, theirs = loaded.state_dict(), model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine if name not in report.missing)
    kinds = {"state of pre-training", "0, 1, 2, ..."}
    doubles = {name for name, reason in report.left_out.items() if reason not in kinds}
    assert all(report.left_out[name].startswith("double of ") for name in doubles)
    assert len(doubles) == {"vqa": 2, "entailment": 0, "nlvr2": 3 * 4}[task]


@torch.no_grad()
def test_a_loaded_file_says_what_its_model_said() -> None:
    ids = torch.randint(5, 41, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for task in TASKS:
        model, loaded = small(task), small(task, seed=1)
        load_released(loaded, released_file(model), "a.pth")
        said = []
        for one in (model, loaded):
            texts, images = one.text_batch(ids, mask), one.encode_image(pixels)
            negated = images.with_states(-images.states)
            if task == "vqa":
                targets = AnswerTargets(torch.arange(2), ids, mask, torch.ones(2), torch.ones(2, 3))
                said.append(one.answer_outputs(texts, images, targets))
            else:
                said.append(one.entail(texts, images) if task == "entailment" else one.compare(texts, images, negated))
        assert torch.equal(*said)


@torch.no_grad()
def test_the_decoder_is_transformers_bert_with_cross_attention() -> None:
    """The released decoder is such a BERT of 6 layers; its tensors' names are transformers' behind "text_decoder."."""
    sizes = {"vocab_size": 41, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 96, "max_position_embeddings": 12, "type_vocab_size": 2}
    torch.manual_seed(2)
    theirs = BertLMHeadModel(BertConfig(**sizes, is_decoder=True, add_cross_attention=True)).double().eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.3)
    model = small("vqa")
    file = {name: tensor for name, tensor in released_file(model).items() if not name.startswith("text_decoder")}
    file |= {f"text_decoder.{name}": tensor for name, tensor in theirs.state_dict().items()}
    accounted(load_released(model, file, "a.pth"), file)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 41, (2, 6), generator=generator)
    read = torch.randn(2, 4, 24, dtype=torch.float64, generator=generator)
    mask, read_mask = torch.arange(6) < torch.tensor([[6], [4]]), torch.arange(4) < torch.tensor([[3], [4]])
    expected = theirs(
        ids, attention_mask=mask.long(), encoder_hidden_states=read, encoder_attention_mask=read_mask.long()
    ).logits
    assert model.decoder is not None
    found = model.decoder(ids, mask, Tokens(read, read_mask))
    torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "task"), [("vqa", "vqa"), ("ve", "entailment"), ("nlvr", "nlvr2")])
def test_a_released_file_is_loaded_by_the_host_s_name(tmp_path: Path, name: str, task: str) -> None:
    torch.manual_seed(0)
    model = Albef(AlbefConfig.model_validate({**PRESETS["tiny"], "task": task}))
    file = {key: tensor for key, tensor in released_file(model).items() if not key.endswith("position_ids")}
    torch.save({"model": file, "epoch": 3}, tmp_path / f"{name}.pth")
    loaded = load_model("albef-tiny", tmp_path / f"{name}.pth")
    assert loaded.model.config.task == task
    assert loaded.report is not None
    accounted(loaded.report, file)


def test_files_before_fine_tuning_and_of_retrieval_name_no_task() -> None:
    file = released_file(small())
    assert Albef.sizes_for(file) == {"vocab_size": 41}
    head = {"cls_head.2.weight": torch.zeros(2, 24)}
    assert Albef.sizes_for(file | head) == {"vocab_size": 41}


def test_a_decoder_that_a_file_lacks_starts_as_its_fusion_half() -> None:
    model, file = small("vqa"), released_file(small(seed=1))
    report = load_released(model, file, "a.pth")
    accounted(report, file)
    assert report.missing
    assert all(name.startswith("decoder.") for name in report.missing)
    assert "starts from the encoder's fusion half" in report.reasons["decoder.bias"]
    state = model.state_dict()
    assert torch.equal(
        state["decoder.layers.2.output.dense.weight"], file["text_encoder.encoder.layer.4.output.dense.weight"]
    )
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(state["decoder.embeddings.words.weight"], file[f"text_encoder.{words}"])
    assert torch.equal(state["decoder.bias"], file["text_encoder.cls.predictions.bias"])


@pytest.mark.parametrize("task", TASKS[:2])
def test_a_model_without_the_task_names_what_it_leaves_out(task: str) -> None:
    file, model = released_file(small(task)), small(seed=1)
    report = load_released(model, file, "a.pth")
    accounted(report, file)
    prefix, tasks = {"vqa": ("text_decoder.", "vqa"), "entailment": ("cls_head.", "entailment and nlvr2")}[task]
    left = [name for name in file if name.startswith(prefix) and not name.endswith("position_ids")]
    assert left
    assert all(re.search(f"which only tasks? {tasks} ha(s|ve)", report.left_out[name]) for name in left)


def test_text_assignment_s_files_are_of_pairs_and_their_head_is_named() -> None:
    """The released program's step between pre-training and NLVR2 saves paired layers and a head `ta_head`."""
    file = {name: tensor for name, tensor in released_file(small("nlvr2")).items() if not name.startswith("cls_head")}
    file["ta_head.weight"] = torch.zeros(3, 24)
    assert Albef.sizes_for(file)["task"] == "nlvr2"
    model = small("nlvr2", seed=1)
    report = load_released(model, file, "a.pth")
    accounted(report, file)
    assert "which of two images" in report.left_out["ta_head.weight"]
    assert "task_head.0.weight" in report.missing


@pytest.mark.parametrize(
    ("task", "changes", "reason"),
    [
        ("nlvr2", {"text_encoder.encoder.layer.3.crossattention.self.key.bias": torch.ones(24)}, "to which it is tied"),
        ("vqa", {"text_decoder.cls.predictions.decoder.bias": torch.ones(41)}, "to which it is tied"),
        ("vqa", {"text_decoder.bert.pooler.dense.bias": torch.ones(24)}, "it holds text_decoder.bert.pooler"),
        ("vqa", {"text_decoder.bert.encoder.layer.3.output.dense.bias": torch.ones(24)}, "no such tensor"),
        ("entailment", {"cls_head.2.weight": torch.ones(2, 24)}, r"cls_head.2.weight is \(2, 24\), expected \(3, 24\)"),
    ],
)
def test_a_file_of_something_else_is_refused(task: str, changes: Weights, reason: str) -> None:
    with pytest.raises(HarnessError, match=reason):
        load_released(small(task, seed=1), released_file(small(task)) | changes, "a.pth")


def test_a_file_of_pairs_needs_a_model_of_pairs() -> None:
    with pytest.raises(HarnessError, match="no such tensor"):
        load_released(small(), released_file(small("nlvr2")), "a.pth")
    with pytest.raises(HarnessError, match="before NLVR2: those need a model without task"):
        load_released(small("nlvr2"), released_file(small()), "a.pth")
